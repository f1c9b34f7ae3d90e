"""Attention weights as one number per token: how much of the output comes from each token, according to attention."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from peerage.evaluation.member import Member


def rolled_out(weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """The attention of the output to the tokens, `[B, T]`, each row with sum 1, by attention rollout (Abnar and Zuidema
    2020, arXiv 2005.00928): the product of the layers' weights, which are means over heads.

    A layer of self-attention counts as `(A + I) / 2`, because of its residual connection. So does `present`: half of
    its weight is the present step. `pool` is the mean over its queries, without `I`. With no layer of self-attention
    the result is the weights of the pool.
    """
    flow: np.ndarray | None = None
    for name, layer in weights.items():
        if name == "number.pool":
            continue
        mixed = layer.mean(axis=1)  # [B, queries, T]
        if name == "pool":
            mixed = mixed.mean(axis=1, keepdims=True)
        else:
            mixed = (mixed + np.eye(mixed.shape[2], dtype=mixed.dtype)[-mixed.shape[1] :]) / 2
        flow = mixed if flow is None else mixed @ flow
    assert flow is not None
    return flow[:, 0]


def token_weights(member: Member, weights: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The tokens as sets of numbers of an observation, bool `[tokens, D]`, and their weights `[B, tokens]`.

    With the tokens `both`, the weight of a number is the weight of its step times that of the number in the step.
    """
    net, window = member.attention_net, member.names.window
    assert net is not None
    of_tokens, kind = rolled_out(weights), net.settings.tokens
    if kind == "features":
        return np.eye(window.size, dtype=bool), of_tokens
    if kind == "history":
        return member.names.groups("steps")[1], of_tokens
    if kind == "set":
        return member.names.groups("features")[1][: window.obs], of_tokens
    inside = weights["number.pool"].mean(axis=2)[:, :, 0]  # [B, T, numbers]
    return member.names.groups("numbers")[1], (of_tokens[:, :, None] * inside).reshape(len(inside), -1)


def feature_weights(groups: np.ndarray, tokens: np.ndarray, weights: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """The weight of each feature, `[B, K]`: the sum over the tokens that belong to it. NaN for a feature that is only a
    part of its token.

    `groups [K, D]` and `tokens [tokens, D]` (bool): the numbers of features and tokens; `flags [D]` (bool): numbers
    that count for neither. `weights [B, tokens]`.
    """
    groups, tokens = groups & ~flags, tokens & ~flags
    inside = ~(tokens[None] & ~groups[:, None]).any(axis=2)  # [K, tokens]
    inside &= tokens.any(axis=1)
    covered = (inside[:, :, None] & tokens[None]).any(axis=1)  # [K, D]
    found = weights @ inside.T.astype(weights.dtype)
    found[:, (groups & ~covered).any(axis=1)] = np.nan
    return found
