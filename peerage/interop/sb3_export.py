"""Export of members as Stable-Baselines3 models. `peerage.interop.sb3` is the inverse."""

from __future__ import annotations

import io
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from peerage.errors import UserError
from peerage.interop.pretrained import SavedRun
from peerage.interop.sb3 import ACTORS, sb3_views
from peerage.interop.single import space_of
from peerage.learners.dqn import DQN
from peerage.learners.dqn_settings import DQNSettings
from peerage.learners.normalisation import CLIP, EPSILON, Normalisation
from peerage.learners.off_policy import OffPolicyLearner
from peerage.learners.ppo import PPO
from peerage.learners.ppo_settings import PPOSettings
from peerage.learners.sac import SAC
from peerage.learners.sac_settings import SACSettings


def export_member(run: Path, member: int, replica: int = 0, out: Path | None = None, which: str = "") -> Path:
    """Write a member of a run as a zip for the `load` of Stable-Baselines3's DQN, SAC, TD3 or PPO. The running
    statistics of a member that normalises are written next to it, as `NAME.vecnormalize.pkl` for `VecNormalize.load`.

    `which` selects a checkpoint: `best` or the number of a step; empty: the newest. Returns the path of the zip: `out`,
    or `<run>/export/member-<i>-replica-<r>[-<which>].zip`. Raises UserError if a file exists or the member cannot be
    exported.
    """
    run = Path(run)
    name = f"member-{member}-replica-{replica}{f'-{which}' if which else ''}.zip"
    out = run / "export" / name if out is None else Path(out)
    if not out.name:
        raise UserError("--out must name a file")
    if out.suffix != ".zip":  # Stable-Baselines3 also adds this suffix
        out = out.with_name(f"{out.name}.zip")
    statistics = out.with_suffix(".vecnormalize.pkl")
    for path in (out, statistics):
        if os.path.lexists(path):
            raise UserError(f"{path} exists already: remove it, or choose another file with --out")
    saved = SavedRun(run, which)
    if saved.images:
        raise UserError(f"members that learn from images, as those of {run}, cannot be exported")
    observation_space, action_space, converted = saved.spaces()
    if isinstance(action_space, gym.spaces.Discrete) and action_space.start != 0:
        first = action_space.start
        raise UserError(f"{saved.config.env} has actions that start at {first}, and Stable-Baselines3 supports only 0")
    if converted:
        raise UserError(f"{saved.config.env} has MultiDiscrete actions, which Stable-Baselines3's DQN does not support")
    learner = saved.learner(member, replica, space_of(observation_space, action_space))
    if getattr(saved.members[member], "net", "mlp") != "mlp":
        net = saved.members[member].net  # type: ignore[attr-defined]
        raise UserError(f"{net} networks cannot be exported: Stable-Baselines3 has no equivalent")
    if isinstance(learner, DQN) and learner.imitates:
        raise UserError("DQN members of --imitate cannot be exported: Stable-Baselines3 has no imitation head")
    env = _spaces(observation_space, action_space)
    model = _model(saved.members[member], env)
    model.policy.load_state_dict({name: view.clone() for name, view in sb3_views(learner, 0).items()})
    if isinstance(learner, SAC):
        if model.log_ent_coef is not None:
            model.log_ent_coef.data.copy_(learner.log_ent_coef[0])
        else:
            model.ent_coef_tensor.copy_(learner.log_ent_coef[0, 0].exp())
    model.num_timesteps = saved.step
    buffer = io.BytesIO()
    model.save(buffer)
    files = {out: buffer.getvalue()}
    if isinstance(learner, OffPolicyLearner | PPO) and learner.normalisation is not None:
        files[statistics] = _vec_normalize(learner.normalisation, env, learner.settings[0].gamma)
    for path, content in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(content)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return out


def _vec_normalize(normalisation: Normalisation, env: gym.Env, gamma: float) -> bytes:
    """The statistics of a learner of one row as the file that `VecNormalize.save` writes."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    made = VecNormalize(
        DummyVecEnv([lambda: env]),
        norm_obs=normalisation.obs is not None,
        norm_reward=normalisation.returns is not None,
        clip_obs=CLIP,
        clip_reward=CLIP,
        gamma=gamma,
        epsilon=EPSILON,
    )
    for moments, theirs in (
        (normalisation.obs, getattr(made, "obs_rms", None)),
        (normalisation.returns, made.ret_rms),
    ):
        if moments is not None and theirs is not None:
            theirs.mean = moments.mean[0].numpy().reshape(theirs.mean.shape)
            theirs.var = moments.var[0].numpy().reshape(theirs.var.shape)
            theirs.count = float(moments.count[0])
    with tempfile.TemporaryDirectory() as folder:
        made.save(path := os.path.join(folder, "vecnormalize.pkl"))
        return Path(path).read_bytes()


def _spaces(observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> gym.Env:
    """A minimal environment to build a model; it is never stepped."""
    env: gym.Env = gym.Env()
    env.observation_space, env.action_space = observation_space, action_space
    return env


def _model(settings: Any, env: gym.Env) -> Any:
    """An untrained Stable-Baselines3 model with the settings of a member."""
    try:
        import stable_baselines3
        from stable_baselines3.common.noise import NormalActionNoise
    except ImportError:
        raise UserError('the export needs Stable-Baselines3: pip install "peerage[sb3]"') from None

    s = settings
    if s.algorithm not in ACTORS:
        known = ", ".join(ACTORS)
        raise UserError(f"Stable-Baselines3 has no equivalent of {s.algorithm}: only {known} can be exported")
    policy: dict[str, Any] = {"net_arch": list(s.net_arch)}
    if isinstance(s, PPOSettings):
        return stable_baselines3.PPO(
            "MlpPolicy",
            env,
            learning_rate=s.learning_rate,
            n_steps=s.n_steps * s.n_envs,  # the model has one environment
            batch_size=s.batch_size,
            n_epochs=s.update_epochs,
            gamma=s.gamma,
            gae_lambda=s.gae_lambda,
            clip_range=s.clip_range,
            clip_range_vf=s.clip_range_vf or None,
            # A single advantage is not normalised here; Stable-Baselines3 refuses to
            normalize_advantage=s.normalize_advantage and s.batch_size > 1,
            ent_coef=float(s.ent_coef),
            vf_coef=s.vf_coef,
            max_grad_norm=s.max_grad_norm or math.inf,
            target_kl=s.target_kl or None,
            policy_kwargs=policy | {"log_std_init": s.log_std_init},
            device="cpu",
        )
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
        sigma = np.full(env.action_space.shape or (), s.action_noise, np.float32)
        own = {"action_noise": NormalActionNoise(np.zeros_like(sigma), sigma)}
    model = getattr(stable_baselines3, s.algorithm.upper())(
        "MlpPolicy",
        env,
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
