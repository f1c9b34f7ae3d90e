"""From the advisers' values to a choice: small rules, each a function of `{component: values [M, K]}`.

A rule gives scores `[M, K]`; `probabilities` turns scores into a distribution over advisers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Components = dict[str, Tensor]
Rule = Callable[[Components], Tensor]


def paper(components: Components) -> Tensor:
    """Eq. 9: `v_ij = sum_k v^k_ij / max_j |v^k_ij|`; a component that is zero throughout stays zero."""
    values = _stacked(components)
    largest = values.abs().amax(dim=2, keepdim=True)
    return torch.where(largest > 0, values / largest, 0.0).sum(dim=0)


def standardised(components: Components) -> Tensor:
    """Ours: `v_ij = mean_k (v^k_ij - mean_j v^k_ij) / std_j v^k_ij`; a component in which all advisers are equal
    says nothing and is zero. What counts is how far advisers are apart, not how far they are from zero."""
    values = _stacked(components)
    spread, mean = torch.std_mean(values, dim=2, correction=0, keepdim=True)
    # relative to the values' size, so that rounding is not blown up into an opinion
    floor = 1e-5 * values.abs().amax(dim=2, keepdim=True)
    return torch.where(spread > floor, (values - mean) / spread, 0.0).mean(dim=0)


def _stacked(components: Components) -> Tensor:
    """`[components, M, K]`."""
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
    """The distribution over advisers, `[M, K]`.

    `temperature [M, 1]`: softmax(scores / T) (Eq. 2); None: all on the best (ties share). `allowed [M, K]` bool:
    who may be chosen. `epsilon` of the probability goes uniformly to those, `self_share` to the asker itself
    (`myself [M, K]`, one-hot).
    """
    # a diverged critic must not decide: its askers choose uniformly
    scores = torch.where(scores.isfinite().all(dim=1, keepdim=True), scores, 0.0).masked_fill(~allowed, -torch.inf)
    if temperature is None:
        best = (scores == scores.amax(dim=1, keepdim=True)).to(scores.dtype)  # ties share
        p = best / best.sum(dim=1, keepdim=True)
    else:
        p = torch.softmax(scores / temperature, dim=1)
    uniform = allowed.to(p.dtype) / allowed.sum(dim=1, keepdim=True)
    mixed = (1 - epsilon - self_share) * p + epsilon * uniform
    return mixed if myself is None else mixed + self_share * myself


def pick(p: Tensor, uniform: Tensor) -> Tensor:
    """One index per row of `p [M, K]` by `uniform [M, 1]` in [0, 1): the inverse of the distribution function."""
    edges = p.to(torch.float64).cumsum(dim=1)
    edges = edges / edges[:, -1:]
    return (edges <= uniform).sum(dim=1).clamp(max=p.shape[1] - 1)
