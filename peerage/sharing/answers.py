"""The actions that members suggest to each other.

There are two implementations, selected by the size of the group. In a small group, one batched forward pass of all
members on all observations is fastest. In a large group, only the required suggestions are computed: a member that
chooses needs those of all members, other members need that of the member they follow. Both implementations use the
asker's noise, so they give the same samples.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from peerage.learners.group import Group, Stack

ASK_ALL = 32
"""Groups with at most this number of members compute all suggestions in every step. Measured (docs/performance.md)."""


def member_answers(
    group: Group, obs: Tensor, chooses: np.ndarray, followed: np.ndarray, noise: Tensor | None, *, others_sample: bool
) -> Tensor:
    """Suggestions `[M, N, act]` of the N members of each asker's replica; 0 if a suggestion is not needed.

    `obs [M, obs]`: the askers' observations. `chooses [M]` (bool): the asker needs the suggestions of all members;
    otherwise only that of the adviser `followed [M]` (a number among all advisers). `noise [M, width]`: the askers'
    noise; None: all members suggest the mode of their policies. Without `others_sample`, members suggest the mode to
    others and a sample to themselves.
    """
    if group.N <= ASK_ALL:
        return _all_answers(group, obs, noise, others_sample)
    return _needed_answers(group, obs, chooses, followed, noise, others_sample)


def _all_answers(group: Group, obs: Tensor, noise: Tensor | None, others_sample: bool) -> Tensor:
    R, N = group.R, group.N
    askers = obs.view(R, 1, N, -1)
    drawn = None if noise is None else noise.view(R, 1, N, -1)
    out = obs.new_empty(R, N, N, group.space.act_dim)
    for stack in group.stacks:
        p = len(stack.positions)
        x = askers.expand(R, p, N, -1).reshape(R * p, N, -1)
        sampled = group.noise_for(stack, drawn)
        z = None if sampled is None else sampled.expand(R, p, N, -1).reshape(R * p, N, -1)
        answers = stack.learner.suggest(x, z)  # [S, N, act]
        if z is not None and not others_sample:
            own = torch.zeros(p, N, 1, dtype=torch.bool, device=obs.device)
            own[torch.arange(p), stack.positions] = True
            answers = torch.where(own.repeat(R, 1, 1), answers, stack.learner.suggest(x, None))
        answers = answers.view(R, p, N, -1).transpose(1, 2)  # [R, asker, adviser, act]
        if p == N:
            out = answers
        else:
            out[:, :, stack.positions] = answers
    return out.reshape(group.M, N, -1)


def _needed_answers(
    group: Group, obs: Tensor, chooses: np.ndarray, followed: np.ndarray, noise: Tensor | None, others_sample: bool
) -> Tensor:
    """Computed per replica, so that the shapes of matrix products, and thus rounding, do not depend on other
    replicas."""
    N = group.N
    out = obs.new_zeros(group.M, N, group.space.act_dim)
    member = np.tile(np.arange(N), group.R)
    if (~chooses & (followed == member)).any():
        out[torch.arange(group.M), torch.as_tensor(member)] = group.own_suggestions(obs, noise)
    follows_other = ~chooses & (followed != member) & (followed < N)
    for r in range(group.R):
        rows = np.arange(r * N, (r + 1) * N)
        choosing, following = rows[chooses[rows]], rows[follows_other[rows]]
        for stack in group.stacks:
            if len(choosing):
                _answer_choosing(out, group, stack, r, choosing, obs, noise, others_sample)
            if len(following):
                _answer_following(out, group, stack, r, following, followed[following], obs, noise, others_sample)
    return out


def _answer_choosing(
    out: Tensor, group: Group, stack: Stack, r: int, askers: np.ndarray, obs: Tensor, noise: Tensor | None, sample: bool
) -> None:
    """Write the suggestions of the members of a stack in replica `r` to all `askers [D]` (rows of the group) to
    `out`."""
    p, index = len(stack.positions), torch.as_tensor(askers, device=obs.device)
    rows = slice(r * p, (r + 1) * p)
    x = obs[index].unsqueeze(0).expand(p, -1, -1).contiguous()  # [P, D, obs]
    z = None
    if (drawn := group.noise_for(stack, noise)) is not None:
        z = drawn[index].unsqueeze(0).expand(p, -1, -1).contiguous()
    answers = stack.learner.suggest_rows(x, z if sample else None, rows)  # [P, D, act]
    if z is not None and not sample:
        own = torch.as_tensor(askers % group.N == np.array(stack.positions)[:, None], device=obs.device)  # [P, D]
        if own.any():
            answers = torch.where(own.unsqueeze(2), stack.learner.suggest_rows(x, z, rows), answers)
    out[index.unsqueeze(1), torch.as_tensor(stack.positions, device=obs.device)] = answers.transpose(0, 1)


def _answer_following(
    out: Tensor,
    group: Group,
    stack: Stack,
    r: int,
    askers: np.ndarray,
    advisers: np.ndarray,
    obs: Tensor,
    noise: Tensor | None,
    sample: bool,
) -> None:
    """Write the suggestions of those `advisers [n]` (members) that belong to a stack to `out`, each for its asker
    (`askers [n]`, rows of the group). Advisers with one asker and advisers with several are separate batches, so that
    an adviser with many askers does not add padding to the others."""
    place = np.full(group.N, -1)
    place[stack.positions] = np.arange(len(stack.positions))
    mine = place[advisers] >= 0
    askers, advisers = askers[mine], advisers[mine]
    load = np.bincount(advisers, minlength=group.N)  # askers of each adviser
    for several in (False, True):
        chosen = load[advisers] > 1 if several else load[advisers] == 1
        if not chosen.any():
            continue
        unique, which = np.unique(advisers[chosen], return_inverse=True)
        order = np.argsort(which, kind="stable")
        slot = np.empty(len(which), np.int64)  # of an asker among those of its adviser
        slot[order] = np.arange(len(which)) - np.searchsorted(which[order], which[order])
        index = torch.as_tensor(askers[chosen], device=obs.device)
        at = torch.as_tensor(which, device=obs.device), torch.as_tensor(slot, device=obs.device)
        shape = len(unique), int(load[unique].max())
        x = obs.new_zeros(*shape, obs.shape[1])
        x[at] = obs[index]
        z = None
        if sample and (drawn := group.noise_for(stack, noise)) is not None:
            z = drawn.new_zeros(*shape, drawn.shape[1])
            z[at] = drawn[index]
        rows = torch.as_tensor(r * len(stack.positions) + place[unique], device=obs.device)
        answers = stack.learner.suggest_rows(x, z, rows)  # [U, B, act]
        out[index, torch.as_tensor(advisers[chosen], device=obs.device)] = answers[at]
