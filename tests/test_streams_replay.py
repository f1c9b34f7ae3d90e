"""Random streams and replay buffers: members do not affect each other's numbers and transitions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from peerage.learners.replay import Replay
from peerage.learners.streams import StreamKey, Streams

KEYS = [StreamKey(1, 0, 0), StreamKey(1, 0, 1), StreamKey(1, 1, 0)]


def take(stream, count):
    return torch.stack([stream.next().clone() for _ in range(count)], dim=1)


def with_block(stream, block):
    stream.block = stream.position = block
    stream.buffer = np.empty((len(stream.generators), block, *stream.buffer.shape[2:]), stream.buffer.dtype)
    return stream


KINDS = [("normal", torch.float32), ("normal", torch.float64), ("uniform", torch.float32)]

# --- streams ------------------------------------------------------------------------


@pytest.mark.parametrize("kind, dtype", KINDS)
def test_numbers_do_not_depend_on_blocks_or_other_members(kind, dtype):
    made = {"purpose": "test", "shape": (3, 5), "kind": kind, "dtype": dtype}
    whole = take(Streams(KEYS, **made), 50)
    for block in (1, 3, 7, 49, 50, 64):
        assert torch.equal(take(with_block(Streams(KEYS, **made), block), 50), whole)
    for row, key in enumerate(KEYS):
        assert torch.equal(take(Streams([key], **made), 50)[0], whole[row])
    assert torch.equal(take(Streams([KEYS[2], KEYS[0]], **made), 50), whole[[2, 0]])
    assert whole.dtype == (torch.float64 if kind == "uniform" else dtype)


def test_blocks_are_longer_than_one_step_and_end():
    """The numbers over the end of the real blocks, too."""
    for shape in ((1,), (64,), (2, 256, 8), (40_000,)):
        stream = Streams(KEYS[:2], "test", shape, "normal")
        assert 1 <= stream.block <= 1024
        count = 2 * stream.block + 3 if len(shape) == 1 and shape[0] < 100 else 5
        one = take(stream, count)
        assert torch.equal(take(with_block(Streams(KEYS[:2], "test", shape, "normal"), 2), count), one)
        assert len(one[0].flatten().unique()) > 0.99 * one[0].numel() * (1 - one[0].numel() / 2**26)


def test_different_keys_give_different_streams():
    first = take(Streams([StreamKey(1, 0, 0)], "choice", (1,), "uniform"), 4)
    seen = [first]
    for key, purpose in [
        (StreamKey(2, 0, 0), "choice"),
        (StreamKey(1, 1, 0), "choice"),
        (StreamKey(1, 0, 1), "choice"),
        (StreamKey(1, 0, 0), "trust"),
        (StreamKey(1, 0, 0), "choicf"),
        (StreamKey(0, 0, 1), "choice"),
        (StreamKey(0, 1, 0), "choice"),
    ]:
        other = take(Streams([key], purpose, (1,), "uniform"), 4)
        assert all((other != one).all() for one in seen)
        seen.append(other)
    assert torch.equal(take(Streams([StreamKey(1, 0, 0)], "choice", (1,), "uniform"), 4), first)


def test_members_of_all_purposes_are_uncorrelated():
    stream_keys = [StreamKey(s, r, m) for s in range(2) for r in range(3) for m in range(4)]
    rows = [take(Streams(stream_keys, p, (1,), "normal"), 2000)[..., 0] for p in ("update", "exploration", "policy")]
    correlation = torch.corrcoef(torch.cat(rows))
    assert (correlation - torch.eye(len(correlation))).abs().max() < 0.11  # 5 standard deviations of 1/sqrt(2000)


def test_distributions():
    normal = take(Streams(KEYS, "test", (7,), "normal"), 5000)
    assert normal.mean(dim=(1, 2)).abs().max() < 0.025 and (normal.var(dim=(1, 2)) - 1).abs().max() < 0.04
    uniform = take(Streams(KEYS, "test", (7,), "uniform"), 5000)
    assert uniform.min() >= 0 and uniform.max() < 1
    counts = torch.stack([torch.histc(row, 10, 0, 1) for row in uniform])
    assert (counts / 3500 - 1).abs().max() < 0.08


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("before", [0, 1, 5, 6, 7, 12, 20])
def test_a_stream_continues_from_its_state(kind, before):
    """Before the first block, inside one, at its very end, in the next; over JSON."""
    stream = with_block(Streams(KEYS, "test", (3,), kind), 6)
    for _ in range(before):
        stream.next()
    saved = json.loads(json.dumps(stream.state()))
    rest = take(stream, 15)
    fresh = with_block(Streams(KEYS, "test", (3,), kind), 6)
    take(fresh, 2)  # it was used before
    fresh.load_state(saved)
    assert json.loads(json.dumps(fresh.state())) == saved
    assert torch.equal(take(fresh, 15), rest)


def test_state_of_another_group_is_refused():
    stream = Streams(KEYS, "test", (3,), "normal")
    with pytest.raises(ValueError, match="another number of members"):
        Streams(KEYS[:2], "test", (3,), "normal").load_state(stream.state())


@pytest.mark.parametrize("kind, dtype", KINDS)
def test_numbers_that_were_returned_do_not_change(kind, dtype):
    stream = with_block(Streams(KEYS, "test", (2,), kind, dtype=dtype), 4)
    first = stream.next()
    copy = first.clone()
    take(stream, 20)
    assert torch.equal(first, copy)


# --- replay -------------------------------------------------------------------------


def filled(count, capacity=7, rows=2):
    """Transition `t` of row `s` is made of the numbers `100 s + t` and neighbours."""
    replay = Replay(rows, capacity, obs_dim=2, act_dim=1)
    for t in range(count):
        key = torch.arange(rows, dtype=torch.float32) * 100 + t
        obs = torch.stack((key, -key), dim=1)
        replay.add(obs, key.unsqueeze(1) + 0.5, key * 2, obs + 1, torch.full((rows,), float(t % 3 == 0)))
    return replay


def check(batch, number):
    """Every column of the batch belongs to the same transition, of the row's own."""
    key = torch.arange(batch.rewards.shape[0]).unsqueeze(1) * 100 + number
    assert torch.equal(batch.obs[..., 0], key.float()) and torch.equal(batch.obs[..., 1], -key.float())
    assert torch.equal(batch.actions[..., 0], key + 0.5)
    assert torch.equal(batch.rewards, key * 2.0)
    assert torch.equal(batch.next_obs, batch.obs + 1)
    assert torch.equal(batch.terminated, (number % 3 == 0).float().expand_as(batch.rewards))
    assert torch.equal(batch.obs_actions, torch.cat((batch.obs, batch.actions), dim=2))


@pytest.mark.parametrize("count", [1, 3, 7, 8, 20, 21])
def test_recent_and_sample_see_the_last_transitions(count):
    replay = filled(count)
    kept = min(count, 7)
    assert (replay.size, replay.position) == (kept, count % 7)
    age = torch.stack((torch.arange(kept), torch.arange(kept).flip(0)))
    check(replay.recent(age), count - 1 - age)
    edges = (torch.arange(kept, dtype=torch.float64) + 0.5) / kept
    numbers = replay.sample(edges.expand(2, -1)).obs[0, :, 0]
    assert sorted(numbers.tolist()) == list(range(count - kept, count))
    check(replay.sample(edges.expand(2, -1)), numbers.long().expand(2, -1))


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_sample_stays_inside(size):
    replay = filled(size)
    edges = torch.tensor([[0.0, 1 - 2**-53]] * 2, dtype=torch.float64)
    assert replay.sample(edges).rewards[0].tolist() == [0.0, 2.0 * (size - 1)]


def test_largest_uniform_number_stays_inside_buffers_of_all_sizes():
    largest = torch.tensor(1 - 2**-53, dtype=torch.float64)
    sizes = torch.cat((torch.arange(1, 20_000), 2 ** torch.arange(1, 31), 10 ** torch.arange(1, 9)))
    assert torch.equal((largest * sizes).long(), sizes - 1)


def test_samples_are_uniform_and_independent_between_members():
    replay = filled(25, capacity=20)
    stream = Streams(KEYS[:2], "replay", (50,), "uniform")
    drawn = torch.cat([replay.sample(stream.next()).obs[..., 0] for _ in range(400)], dim=1)
    drawn[1] -= 100
    assert not torch.equal(drawn[0], drawn[1])
    for row in drawn:
        counts = torch.bincount(row.long(), minlength=25)
        assert counts[:5].sum() == 0
        chi2 = ((counts[5:] - 1000.0) ** 2 / 1000).sum()
        assert chi2 < 43.8  # 19 degrees of freedom, p = 0.001


@pytest.mark.parametrize("count", [3, 7, 10])
def test_replay_continues_from_its_state(count):
    replay = filled(count)
    fresh = filled(2)
    fresh.load_state(replay.state())
    assert (fresh.size, fresh.position) == (replay.size, replay.position)
    age = torch.arange(replay.size).expand(2, -1)
    check(fresh.recent(age), count - 1 - age)
    more = torch.full((2, 2), 5.0)
    for r in (replay, fresh):
        r.add(more, more[:, :1], more[:, 0], more, more[:, 0])
    age = torch.arange(replay.size).expand(2, -1)
    assert torch.equal(fresh.recent(age).obs_actions, replay.recent(age).obs_actions)


def test_a_batch_is_a_copy():
    replay = filled(7)
    batch = replay.recent(torch.zeros(2, 1, dtype=torch.long))
    before = batch.obs.clone()
    for _ in range(7):
        replay.add(torch.ones(2, 2), torch.ones(2, 1), torch.ones(2), torch.ones(2, 2), torch.ones(2))
    assert torch.equal(batch.obs, before)
