"""The networks of a run: layers with their shapes and numbers of parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from peerage.envs.make import Maker
from peerage.learners.base import Learner
from peerage.nets.stack import Stack
from peerage.training.restore import restore


@dataclass(frozen=True)
class LayerSize:
    """One parameter of a network."""

    members: tuple[int, ...]
    """The members of a replica whose networks have this shape."""
    network: str
    """The name of the network in the learner, such as `actor`; target networks included."""
    copies: int
    """Networks of this shape per member: 2 for twin critics, and for actor and critic of PPO."""
    layer: str
    shape: tuple[int, ...]
    parameters: int
    """Numbers in all copies of one member."""


def layer_sizes(run: Path | str, env: Maker | None = None) -> list[LayerSize]:
    """The layers of all networks of a run, according to its newest checkpoint. Raises UserError."""
    trainer = restore(run, "policies", env=env).trainer
    try:
        return [
            LayerSize(tuple(stack.positions), name, copies, layer, part.shape, copies * math.prod(part.shape))
            for stack in trainer.group.stacks
            for name, net in networks(stack.learner).items()
            for copies in [net.rows // stack.learner.rows]
            for layer, part in net.parts.items()
        ]
    finally:
        trainer.close()


def networks(learner: Learner) -> dict[str, Stack]:
    """The networks of a learner by name: its attributes that are stacks of parameters, or have one as `net`."""
    found = {name: getattr(value, "net", value) for name, value in vars(learner).items()}
    return {name: net for name, net in found.items() if isinstance(net, Stack)}
