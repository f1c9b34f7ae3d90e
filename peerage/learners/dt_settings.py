"""The settings of the Decision Transformer. The defaults are those of its paper (arXiv 2106.01345)."""

from __future__ import annotations

from dataclasses import dataclass

from peerage.config.fields import limited
from peerage.config.methods import LEARNERS, LearnerMethod, LearnerSettings, NetMethod
from peerage.errors import UserError
from peerage.learners.bc_settings import unused
from peerage.nets.gpt_settings import GPTSettings


@dataclass(frozen=True)
class DTSettings(LearnerSettings):
    """Settings of the training of a Decision Transformer."""

    structural = ("net_settings", "batch_size", "gamma", "return_scale")

    learning_rate: float = 1e-4
    gamma: float = 1.0
    max_grad_norm: float = 0.25
    batch_size: int = limited(64, "[1, inf)")
    """Windows in a gradient step. Typical: 64 to 4096."""
    weight_decay: float = limited(1e-4, "[0, inf)")
    """Decoupled weight decay of matrices and embeddings, as of AdamW; biases and LayerNorms do not decay."""
    warmup_ratio: float = limited(0.1, "[0, 1]")
    """Share of the run in which the learning rate increases linearly from 0."""
    anneal_lr: bool = False
    return_scale: float = limited(0.0, "[0, inf)")
    """Divides returns-to-go; 0: 1,000 for Gymnasium's MuJoCo environments, otherwise the largest absolute
    return-to-go of the data."""
    net_arch: tuple[int, ...] = unused((64, 64))
    learning_starts: int = unused(0)
    load_paths: str = unused("none")

    def check(self) -> None:
        if self.gamma == 0:
            raise UserError(f"--gamma must be above 0 for {self.algorithm}, whose returns-to-go are divided by it")


GPT = NetMethod("gpt", "peerage.nets.gpt:StackedGPT", GPTSettings, part="gpt")

for _name, _about in (("dt", "Decision Transformer"), ("ddt", "Decoupled Decision Transformer")):
    LEARNERS.register(
        LearnerMethod(
            _name,
            "peerage.learners.dt:DT",
            DTSettings,
            offline=True,
            has_action_value=False,
            takes_target=True,
            net=GPT,
            about=_about,
        )
    )
