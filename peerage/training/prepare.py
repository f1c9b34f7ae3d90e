"""The configuration of a training with all defaults, and the checks that need its environment but no networks. No
torch, so that the command line reports an invalid setting at once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from peerage.config import Config, with_part
from peerage.config.check import refuse_imitation_alone, refuse_target_settings, refuse_unused_trust_settings
from peerage.config.fields import hints
from peerage.config.methods import EXCHANGES, LEARNERS, NETS, LearnerSettings
from peerage.config.roster import roster_of
from peerage.envs.make import Spec, check_env_id
from peerage.errors import UserError
from peerage.learners.defaults import (
    check_learning,
    default_algorithm,
    environments_per_member,
    member_settings,
    resolve,
)
from peerage.offline.configured import with_longest_episode
from peerage.offline.trajectories import Trajectories
from peerage.trust.resolve import resolve_trust


def prepare(config: Config, spec: Spec, data: Trajectories | None = None) -> Config:
    """`config`, which is valid, with every default filled in for the environment `spec` and, in an offline training,
    for its `data`. `config.advisers` names all fixed advisers. Raises UserError for settings that do not fit together
    or do not fit the environment."""
    if spec.image and config.advice.trust is None:  # the default compares vectors
        config = replace(config, advice=replace(config.advice, trust="td"))
    if spec.image and not config.learner.net and _has_setting(config, spec, "net"):
        config = with_part(config, "learner", net=("cnn",))
    config = resolve_trust(resolve(config, spec.discrete), spec)
    if data is not None:
        config = with_longest_episode(config, spec, data)
    roster = roster_of(config)
    if roster is not None:
        config = replace(config, federation=os.path.abspath(config.federation))
    if config.member_offset is None:
        config = replace(config, member_offset=0 if roster is None else roster.offset)
    members = member_settings(config, spec.discrete)
    _check_advice(config, members)
    _check_images(config, members, spec)
    _check_lengths(config, members)
    _check_exchanges(config, members)
    return config


def check_training(config: Config, given: Iterable[str]) -> Spec:
    """Raise UserError for a valid `config` with which a training would be refused, as far as this is known without its
    networks. `given`: keys of the settings that the user gave. Returns the properties of the environment."""
    spec = check_env_id(config.env, config.env_args)
    prepared = prepare(config, spec)
    refuse_unused_trust_settings(prepared.advice, given, prepared.n_peers + len(prepared.advisers))
    refuse_imitation_alone(prepared.advice, prepared.n_peers + len(prepared.advisers))
    members = member_settings(prepared, spec.discrete)
    run = prepared.run
    refuse_target_settings([member.algorithm for member in members], bool(run.target_return), run.clip_targets)
    check_learning(members, prepared.steps)
    return spec


def rollout_size(members: Iterable[LearnerSettings]) -> int:
    """Steps of a member between the long updates of its learner, the largest of all members; 1 without."""
    return max(getattr(member, "rollout_size", 1) for member in members)


def _has_setting(config: Config, spec: Spec, name: str) -> bool:
    """Whether the learner of any member has a setting."""
    named = {default_algorithm(spec.discrete) if each == "auto" else each for each in config.learner.algorithm}
    return any(name in hints(LEARNERS[each].settings) for each in named)


def _has_advice(config: Config) -> bool:
    return config.advice.sharing == "advice" and config.n_peers + len(config.advisers) > 1


def _check_advice(config: Config, members: list[LearnerSettings]) -> None:
    _check_imitation(config, members)
    if config.advice.sharing != "advice":
        return
    if config.advice.only_follow_others and not _has_advice(config):
        raise UserError("--only-follow-others needs another adviser: use --n-peers 2 or more, or add --advisers")
    without = [m.algorithm for m in members if not LEARNERS[m.algorithm].has_action_value]
    if config.advice.use_critic and without:
        raise UserError(f"--use-critic needs Q-functions, but {without[0]} has none: remove the flag")


def _check_imitation(config: Config, members: list[LearnerSettings]) -> None:
    advice = config.advice
    if advice.imitate == "none":
        return
    if without := [m.algorithm for m in members if not LEARNERS[m.algorithm].imitates]:
        able = ", ".join(name for name in LEARNERS if LEARNERS[name].imitates)
        raise UserError(f"--imitate is for {able}, and {without[0]} cannot learn from suggestions: remove it")
    if advice.choice == "uniform" or not (advice.use_trust or advice.use_critic or advice.use_agent_values):
        raise UserError("--imitate needs scores of advisers, and choices are uniform: remove it, or use another choice")


def _check_images(config: Config, members: list[LearnerSettings], spec: Spec) -> None:
    for member in members:
        net = NETS[member.net] if hasattr(member, "net") else None
        if net is not None and net.images and not spec.image:
            raise UserError(f"--net {net.name} is for images, and {spec.id} has flat observations: use --net mlp")
        if net is not None and spec.image and not net.images:
            raise UserError(f"--net {net.name} is for flat observations, and {spec.id} has images: use --net cnn")
    if not spec.image:
        return
    if without := [m.algorithm for m in members if not LEARNERS[m.algorithm].images]:
        able = " or ".join(m.name for m in LEARNERS.methods.values() if m.images and m.fits(spec.discrete))
        raise UserError(f"{without[0]} does not accept images, which {spec.id} has as observations: use {able}")
    advice = config.advice
    if advice.sharing == "advice" and advice.use_trust and advice.trust != "td":
        raise UserError(f"{advice.trust} trust needs vectors, and {spec.id} has images: use --trust td")


def _check_lengths(config: Config, members: list[LearnerSettings]) -> None:
    envs = environments_per_member(members)
    if envs > 1 and _has_advice(config):
        raise UserError(f"--n-envs {envs} needs --sharing none: advice is for one environment per member")
    if config.steps % envs:
        near = max(1, round(config.steps / envs)) * envs
        raise UserError(f"--total-timesteps {config.steps} is not a multiple of --n-envs {envs}: use {near}")


def _check_exchanges(config: Config, members: list[LearnerSettings]) -> None:
    critics = [name for name in config.exchange if EXCHANGES[name].critic is not None]
    named = " ".join(config.exchange)
    if critics and (other := [m.algorithm for m in members if not LEARNERS[m.algorithm].takes_critic]):
        raise UserError(f"--exchange {named} replaces the critics of SAC and TD3; {other[0]} cannot take them")
    if config.federation and (alone := [name for name in config.exchange if not EXCHANGES[name].federated]):
        raise UserError(f"--exchange {alone[0]} works within one process: it cannot be used with --federation")
    if len(critics) > 1:
        raise UserError(f"--exchange {named}: only one exchange can replace the critics")
    rollouts = [getattr(member, "rollout_size", 1) for member in members]
    if config.exchange and any(config.exchange_freq % rollout for rollout in rollouts):
        raise UserError(
            f"--exchange-freq {config.exchange_freq} must be a multiple of the rollout of ppo, n_steps x n_envs = "
            f"{max(rollouts)}, so that networks do not change while it is collected"
        )
