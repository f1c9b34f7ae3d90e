"""The schedules of a configuration that depend on the length of the run."""

from __future__ import annotations

import warnings
from dataclasses import replace

from peerage.config import Config
from peerage.errors import UserError
from peerage.training.build import build_trainer


def schedules_of(config: Config) -> list[str]:
    """Descriptions of the schedules of learners and fixed advisers, as of `Trainer.schedules`; none for a training
    that cannot be built, which reports its own error when it runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the training repeats them
        try:
            trainer = build_trainer(replace(config, replicas=1, device="cpu"), pretrained=False)
        except UserError:
            return []
    try:
        return trainer.schedules()
    finally:
        trainer.close()
