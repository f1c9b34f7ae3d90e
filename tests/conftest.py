"""What several test files need."""

from __future__ import annotations

import pytest
import torch

from peerage.nets import passes
from peerage.training.loop import Trainer


@pytest.fixture
def one_thread():
    """Torch and the workers on one thread, as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    passes.WORKERS.set_threads(1)


@pytest.fixture
def begin():
    """Trainers at the start of their first episode, or some steps on; closed at the end."""
    made = []

    def build(config, steps=0, **arguments) -> Trainer:
        trainer = Trainer(config, **arguments)
        made.append(trainer)
        trainer.reset()
        for _ in range(steps):
            trainer.advance()
        return trainer

    yield build
    for trainer in made:
        trainer.close()
