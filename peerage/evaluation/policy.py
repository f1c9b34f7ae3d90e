"""A trained member as a function from observations to actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peerage.envs.actions import ActionConverter
from peerage.envs.make import Maker, Spec
from peerage.errors import UserError
from peerage.evaluation.targets import refuse_targets
from peerage.learners.group import Group
from peerage.training.restore import restore


@dataclass(frozen=True)
class Policy:
    """One member's policy without exploration."""

    group: Group
    row: int
    """The member's row in the group."""
    spec: Spec

    def __call__(self, obs: Any) -> Any:
        """Actions that the action space of the environment contains.

        `obs [obs]`, or a dictionary for Dict observations -> an int for Discrete, counted from the `start` of the
        space; `[parts]` for MultiDiscrete; `[act]` for Box. A batch `obs [B, obs]`, or a list of dictionaries -> `[B]`
        integers, `[B, parts]` or `[B, act]`. Raises UserError for other shapes.
        """
        conversion, size = self.spec.conversion, self.spec.obs_dim
        several = isinstance(obs, list | tuple) and len(obs) > 0 and isinstance(obs[0], Mapping)
        flat = np.stack([conversion.flat(each) for each in obs]) if several else conversion.flat(obs)
        if flat.ndim not in (1, 2) or flat.shape[-1] != size:
            expected = f"[{size}], or [B, {size}] for a batch"
            raise UserError(f"the observation must have shape {expected}, got {list(flat.shape)}")
        batch = torch.as_tensor(flat, dtype=self.group.dtype, device=self.group.device).reshape(-1, size)
        actions = self.group.mode_of(self.row, batch).cpu().numpy()
        converted = ActionConverter(self.spec.action_space)
        if not self.spec.discrete:
            return converted(actions[0] if flat.ndim == 1 else actions)
        numbers = [conversion.action(converted(int(number))) for number in actions[:, 0]]
        return numbers[0] if flat.ndim == 1 else np.array(numbers)


def policy_of(run: Path, member: int, replica: int, env: Maker | None = None, which: str = "") -> Policy:
    """The policy of a member in the newest checkpoint of a run, or in `which` of `peerage.training.restore.restore`.
    Raises UserError if the run has no such member."""
    trainer = restore(run, "policies", env=env, which=which).trainer
    trainer.close()
    if not (0 <= member < trainer.N and 0 <= replica < trainer.R):
        raise UserError(f"{run} has members 0 to {trainer.N - 1} and replicas 0 to {trainer.R - 1}")
    instead = "use run.evaluate(target_return=...), or the member as an adviser, checkpoint:RUN:MEMBER"
    why = f"run.policy() is a function of one observation: {instead}"
    refuse_targets(trainer.group.settings[member].algorithm, why)
    return Policy(trainer.group, replica * trainer.N + member, trainer.spec)
