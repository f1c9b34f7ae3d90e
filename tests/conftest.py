"""What several test files need."""

from __future__ import annotations

import os
import random
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in parallel processes; read when torch is imported

import numpy as np
import pytest
import torch

from peerage import session
from peerage.append_buffer import AppendBuffer
from peerage.config.methods import EXCHANGES, LEARNERS, TRUST
from peerage.envs import scripted
from peerage.envs.batched import program
from peerage.nets.workers import WORKERS
from peerage.sharing import advisers
from peerage.training.trainer import Trainer
from peerage.trust import features

# A shell ignores SIGINT in what it starts in the background, and `nohup` ignores SIGHUP. A training keeps ignoring such
# a signal, so tests that send one need the usual handlers.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """PEERAGE_SHUFFLE=SEED runs the tests in a random order: none may depend on another."""
    if seed := os.environ.get("PEERAGE_SHUFFLE"):
        random.Random(seed).shuffle(items)


def assert_same(a, b, place: str = "state") -> None:
    """Two states are the same, every bit; `AppendBuffer` by what they hold, however they are cut."""
    assert type(a) is type(b) or isinstance(a, tuple | list), place
    if isinstance(a, torch.Tensor):
        # As bytes, so that NaN equals NaN
        alike = a.dtype == b.dtype and a.shape == b.shape
        assert alike and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes(), place
    elif isinstance(a, AppendBuffer):
        whole = [[tensors for _, _, tensors in entries.pieces()] for entries in (a, b)]
        assert (a.start, a.stop) == (b.start, b.stop), place
        names = [list(parts[0]) if parts else [] for parts in whole]
        assert names[0] == names[1], place
        for name in names[0]:
            one, two = (torch.cat([part[name] for part in parts], dim=1) for parts in whole)
            assert_same(one, two, f"{place}/{name}")
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for name in a:
            assert_same(a[name], b[name], f"{place}/{name}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), place
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{place}/{i}")
    else:
        assert np.array_equal(a, b), place


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """What a test registers is forgotten after the test."""
    for registry in (LEARNERS, TRUST, EXCHANGES):
        monkeypatch.setattr(registry, "methods", dict(registry.methods))
    for module, name in (
        (features, "_factories"),
        (advisers, "_registered"),
        (scripted, "_experts"),
        (scripted, "_adversaries"),
        (program, "_programs"),
    ):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))


@pytest.fixture
def no_reports(monkeypatch, request):
    """Trainings in this process write an empty report.html: a report takes longer than a small training. Tests with the
    mark `report` are excepted."""

    def write_nothing(folder):
        (folder / "report.html").touch()
        return folder / "report.html"

    if request.node.get_closest_marker("report") is None:
        monkeypatch.setattr(session, "write_report", write_nothing)


@pytest.fixture
def same():
    """Asserts that two states are the same."""
    return assert_same


@pytest.fixture
def one_thread():
    """Torch and the workers on one thread, as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    WORKERS.set_threads(1)


@pytest.fixture
def begin():
    """Trainers at the start of their first episode, or some steps on; closed at the end."""
    made = []

    def build(config, steps=0, **arguments) -> Trainer:
        trainer = Trainer(config, **arguments)
        made.append(trainer)
        trainer.begin()
        for _ in range(steps):
            trainer.advance()
        return trainer

    yield build
    for trainer in made:
        trainer.close()
