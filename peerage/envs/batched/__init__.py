"""Batched environments: one program that steps `n` environments of one kind with NumPy.

Importing this package registers those of Peerage. Import `BatchedEnv` and `register_batched_env` from here.
"""

from __future__ import annotations

from peerage.envs.batched.classic import BatchedAcrobot, BatchedCartPole, BatchedMountainCar
from peerage.envs.batched.probes import (
    BatchedAskedCue,
    BatchedCartPoleDistractors,
    BatchedCartPoleNoVelocities,
    BatchedCartPoleShuffled,
    BatchedMarkedCue,
)
from peerage.envs.batched.program import BatchedEnv, program_for, register_batched_env

__all__ = ["BatchedEnv", "program_for", "register_batched_env"]

register_batched_env("CartPole-v0", BatchedCartPole)
register_batched_env("CartPole-v1", BatchedCartPole)
register_batched_env("Acrobot-v1", BatchedAcrobot)
register_batched_env("MountainCar-v0", BatchedMountainCar)
register_batched_env("CartPoleDistractors-v0", BatchedCartPoleDistractors)
register_batched_env("CartPoleShuffled-v0", BatchedCartPoleShuffled)
register_batched_env("CartPoleNoVelocities-v0", BatchedCartPoleNoVelocities)
register_batched_env("MarkedCue-v0", BatchedMarkedCue)
register_batched_env("AskedCue-v0", BatchedAskedCue)
register_batched_env("PlainCue-v0", BatchedMarkedCue)
