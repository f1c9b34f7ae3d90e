"""Rules that compute scores of advisers, and the choice of an adviser from scores.

A rule is a function from `{component: values [M, K]}` to scores `[M, K]`. `probabilities` computes a distribution over
advisers from scores, and `pick` draws from it. These two compute on the host, where the choice is needed: an operation
on a few numbers takes a third of the time in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Components = dict[str, Tensor]
Rule = Callable[[Components], Tensor]


def paper(components: Components) -> Tensor:
    """Eq. 9: `v_ij = sum_k v^k_ij / max_j |v^k_ij|`. A component that is zero for all advisers contributes zero."""
    values = _stacked(components)
    largest = values.abs().amax(dim=2, keepdim=True)
    return torch.where(largest > 0, values / largest, 0.0).sum(dim=0)


def standardised(components: Components) -> Tensor:
    """The default: `v_ij = mean_k (v^k_ij - mean_j v^k_ij) / std_j v^k_ij`. A component with equal values for all
    advisers contributes zero. Scores depend on differences between advisers, not on the distance of values from
    zero."""
    values = _stacked(components)
    spread, mean = torch.std_mean(values, dim=2, correction=0, keepdim=True)
    # Relative to the size of the values, so that rounding errors are not amplified
    floor = 1e-5 * values.abs().amax(dim=2, keepdim=True)
    return torch.where(spread > floor, (values - mean) / spread, 0.0).mean(dim=0)


def _stacked(components: Components) -> Tensor:
    """The components as one tensor `[components, M, K]`."""
    assert components, "a choice needs at least one component"
    return torch.stack(list(components.values()))


RULES: dict[str, Rule] = {"paper": paper, "greedy": paper, "standardised": standardised}


def probabilities(
    scores: Tensor,
    *,
    allowed: Tensor,
    temperature: Tensor | None,
    epsilon: float = 0.0,
    myself: Tensor | None = None,
    self_share: float = 0.0,
) -> Tensor:
    """The distribution over advisers, `[M, K]` on the host.

    `temperature [M, 1]`: softmax(scores / T) (Eq. 2); None: uniform over the advisers with the highest score.
    `allowed [M, K]` bool: the advisers that may be chosen. The share `epsilon` of the probability is distributed
    uniformly over them, and the share `self_share` goes to the asker itself (`myself [M, K]`, one-hot).
    """
    values, may = scores.cpu().numpy(), allowed.cpu().numpy()
    kind = values.dtype.type
    # If scores are not finite, because a critic has diverged, the asker chooses uniformly
    values = np.where(np.isfinite(values).all(axis=1, keepdims=True), values, kind(0))
    values = np.where(may, values, kind(-np.inf))
    if temperature is None:
        best = (values == values.max(axis=1, keepdims=True)).astype(kind)
        p = best / best.sum(axis=1, keepdims=True)
    else:
        p = torch.softmax(torch.from_numpy(values) / temperature.cpu(), dim=1).numpy()
    uniform = may.astype(kind) / may.sum(axis=1, keepdims=True).astype(kind)
    mixed = (1 - epsilon - self_share) * p + epsilon * uniform
    if myself is not None:
        mixed += self_share * myself.cpu().numpy()
    return torch.from_numpy(mixed)


def pick(p: Tensor, uniform: Tensor) -> Tensor:
    """Sample one index per row of `p [M, K]` by inverting the distribution function at `uniform [M, 1]` in [0, 1).
    Returns `[M]` on the host."""
    edges = p.cpu().numpy().astype(np.float64).cumsum(axis=1)
    edges /= edges[:, -1:]
    chosen = (edges <= uniform.cpu().numpy()).sum(axis=1)
    return torch.from_numpy(np.minimum(chosen, edges.shape[1] - 1))
