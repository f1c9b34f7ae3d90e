"""The number of parameters that a member of a configuration learns."""

from __future__ import annotations

from dataclasses import replace

from peerage.config import Config
from peerage.config.file import validate
from peerage.envs.make import check_env_id
from peerage.learners.defaults import resolve
from peerage.training.build import build_trainer


def parameter_count(config: Config, member: int = 0) -> int:
    """The numbers that a member learns: weights and biases of all its networks, actor and critic together, but not
    target networks, which are copies, and not running statistics. Builds the networks and the environment once.

    Raises UserError for an invalid configuration.
    """
    config = validate(config)
    spec = check_env_id(config.env, config.env_args)
    steps = max([1, *resolve(config, spec.discrete).learner.n_envs])  # the buffers of the learner are as small
    advice = replace(config.advice, sharing="none", byzantine_members=())
    small = replace(config, replicas=1, total_timesteps=steps, advisers=(), perturb={}, advice=advice)
    trainer = build_trainer(small, pretrained=False, learns=not config.data_fingerprint)
    try:
        stack = next(stack for stack in trainer.group.stacks if member in stack.positions)
        learned = stack.learner.exchanged()
        return sum(values.shape[1] for name, values in learned.items() if not name.endswith("_target"))
    finally:
        trainer.close()
