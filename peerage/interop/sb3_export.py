"""Export of members as Stable-Baselines3 models. `peerage.interop.sb3` is the inverse."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from peerage.envs.make import check_env_id
from peerage.errors import UserError
from peerage.interop.pretrained import SavedRun
from peerage.interop.sb3 import ACTORS, sb3_views
from peerage.interop.single import space_of
from peerage.learners.dqn_settings import DQNSettings
from peerage.learners.sac import SAC
from peerage.learners.sac_settings import SACSettings


def export_member(run: Path, member: int, replica: int = 0, out: Path | None = None, which: str = "") -> Path:
    """Write a member of a run as a zip for Stable-Baselines3's `DQN.load`, `SAC.load` or `TD3.load`.

    `which` selects a checkpoint: `best` or the number of a step; empty: the newest. Returns the path: `out`, or
    `<run>/export/member-<i>-replica-<r>[-<which>].zip`. Raises UserError if the file exists or the member cannot be
    exported.
    """
    run = Path(run)
    name = f"member-{member}-replica-{replica}{f'-{which}' if which else ''}.zip"
    out = run / "export" / name if out is None else Path(out)
    if not out.name:
        raise UserError("--out must name a file")
    if out.suffix != ".zip":  # Stable-Baselines3 also adds this suffix
        out = out.with_name(f"{out.name}.zip")
    if os.path.lexists(out):
        raise UserError(f"{out} exists already: remove it, or choose another file with --out")
    saved = SavedRun(run, which)
    spec = check_env_id(saved.config.env, saved.config.env_args)
    if isinstance(spec.action_space, gym.spaces.Discrete) and spec.action_space.start != 0:
        first = spec.action_space.start
        raise UserError(f"{spec.id} numbers its actions from {first}, but Stable-Baselines3 from 0")
    learner = saved.learner(member, replica, space_of(spec.observation_space, spec.action_space))
    model = _model(saved.members[member], spec.observation_space, spec.action_space)
    model.policy.load_state_dict({name: view.clone() for name, view in sb3_views(learner, 0).items()})
    if isinstance(learner, SAC):
        if model.log_ent_coef is not None:
            model.log_ent_coef.data.copy_(learner.log_ent_coef[0])
        else:
            model.ent_coef_tensor.copy_(learner.log_ent_coef[0, 0].exp())
    model.num_timesteps = saved.step
    buffer = io.BytesIO()
    model.save(buffer)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("xb") as file:
            file.write(buffer.getvalue())
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}") from error
    return out


def _model(settings: Any, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> Any:
    """An untrained Stable-Baselines3 model with the settings of a member."""
    try:
        import stable_baselines3
        from stable_baselines3.common.noise import NormalActionNoise
    except ImportError:
        raise UserError('the export needs Stable-Baselines3: pip install "peerage[sb3]"') from None

    class Spaces(gym.Env):
        """A minimal environment to build the model; it is never stepped."""

        def __init__(self) -> None:
            self.observation_space, self.action_space = observation_space, action_space

    s = settings
    if s.algorithm not in ACTORS:
        known = ", ".join(ACTORS)
        raise UserError(f"Stable-Baselines3 has no equivalent of {s.algorithm}: only {known} can be exported")
    policy: dict[str, Any] = {"net_arch": list(s.net_arch)}
    own: dict[str, Any] = {}
    if isinstance(s, DQNSettings):
        own = {
            "target_update_interval": s.target_update_interval,
            "exploration_fraction": s.exploration_fraction,
            "exploration_final_eps": s.exploration_final_eps,
            "max_grad_norm": s.max_grad_norm or math.inf,
        }
    elif isinstance(s, SACSettings):
        own = {
            "target_update_interval": s.target_update_interval,
            "use_sde": s.use_sde,
            "ent_coef": s.ent_coef if s.ent_coef.startswith("auto") else float(s.ent_coef),
        }
        policy |= {"log_std_init": s.log_std_init} if s.use_sde else {}
    elif s.action_noise:
        sigma = np.full(action_space.shape or (), s.action_noise, np.float32)
        own = {"action_noise": NormalActionNoise(np.zeros_like(sigma), sigma)}
    model = getattr(stable_baselines3, s.algorithm.upper())(
        "MlpPolicy",
        Spaces(),
        learning_rate=s.learning_rate,
        buffer_size=1,  # saves memory: the model is only written
        batch_size=s.batch_size,
        learning_starts=s.learning_starts,
        train_freq=s.train_freq,
        gradient_steps=s.gradient_steps,
        tau=s.tau,
        gamma=s.gamma,
        policy_kwargs=policy,
        device="cpu",
        **own,
    )
    model.buffer_size = s.buffer_size
    if isinstance(s, DQNSettings):
        model.exploration_rate = s.exploration_final_eps
    return model
