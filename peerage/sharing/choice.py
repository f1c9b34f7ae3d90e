"""Rules that compute scores of advisers, and the choice of an adviser from scores.

A rule is a function from `{component: values [M, K]}` to scores `[M, K]`. `probabilities` computes a distribution over
advisers from scores, and `pick` draws from it.
"""

from __future__ import annotations

from collections.abc import Callable

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
    """The distribution over advisers, `[M, K]`.

    `temperature [M, 1]`: softmax(scores / T) (Eq. 2); None: uniform over the advisers with the highest score.
    `allowed [M, K]` bool: the advisers that may be chosen. The share `epsilon` of the probability is distributed
    uniformly over them, and the share `self_share` goes to the asker itself (`myself [M, K]`, one-hot).
    """
    # If scores are not finite, because a critic has diverged, the asker chooses uniformly
    scores = torch.where(scores.isfinite().all(dim=1, keepdim=True), scores, 0.0).masked_fill(~allowed, -torch.inf)
    if temperature is None:
        best = (scores == scores.amax(dim=1, keepdim=True)).to(scores.dtype)
        p = best / best.sum(dim=1, keepdim=True)
    else:
        p = torch.softmax(scores / temperature, dim=1)
    uniform = allowed.to(p.dtype) / allowed.sum(dim=1, keepdim=True)
    mixed = (1 - epsilon - self_share) * p + epsilon * uniform
    return mixed if myself is None else mixed + self_share * myself


def pick(p: Tensor, uniform: Tensor) -> Tensor:
    """Sample one index per row of `p [M, K]` by inverting the distribution function at `uniform [M, 1]` in [0, 1)."""
    edges = p.to(torch.float64).cumsum(dim=1)
    edges = edges / edges[:, -1:]
    return (edges <= uniform).sum(dim=1).clamp(max=p.shape[1] - 1)
