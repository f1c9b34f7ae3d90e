"""Import of Stable-Baselines3 models. `peerage.interop.sb3_export` is the inverse.

Reading does not need Stable-Baselines3 and does not execute code from the file. The `data` entry of a zip is JSON with
embedded pickles, which are never loaded. Weights are read by `torch.load(weights_only=True)`, which builds only
tensors. The caller provides the spaces. A model that Peerage's networks cannot reproduce exactly is rejected.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from peerage.config.methods import LEARNERS
from peerage.errors import UserError
from peerage.interop.single import shape_of, single, space_of
from peerage.learners.base import Space
from peerage.learners.critics import N_CRITICS
from peerage.learners.defaults import default_settings
from peerage.learners.dqn import DQN
from peerage.learners.ppo import PPO
from peerage.learners.sac import SAC
from peerage.learners.td3 import TD3
from peerage.nets.stacked import StackedMLP

MAX_BYTES = 512 * 1024**2  # of unpacked weights; far more than any MlpPolicy needs
MAX_JSON_BYTES = 64 * 1024**2
PICKLE = b"\x80"
"""The first byte of a pickle (protocol 2 or newer)."""

# The prefix of a policy's hidden layers in its state dict.
ACTORS = {
    "dqn": "q_net.q_net", "sac": "actor.latent_pi", "td3": "actor.mu", "ppo": "mlp_extractor.policy_net",
}  # fmt: skip
# The last layer of the actor, where it is a separate module.
LAST = {"sac": "actor.mu", "ppo": "action_net"}
# The critics' prefixes. Their hidden layers must be those of the actor.
CRITICS = {"sac": "critic.qf0", "td3": "critic.qf0", "ppo": "mlp_extractor.value_net"}
MODULES = {"ppo": "stable_baselines3.common.policies"}
"""The module of the policy class; by default `stable_baselines3.ALGORITHM.policies`."""

# Entries of `policy_kwargs` with any value: they have no effect here, or the shapes of the weights show their effect.
HARMLESS = {
    "net_arch", "use_sde", "log_std_init", "optimizer_class", "optimizer_kwargs", "share_features_extractor",
    "normalize_images", "ortho_init", ":type:", ":serialized:",
}  # fmt: skip
# Entries of `policy_kwargs` that must have their default, as written in the JSON.
DEFAULT_ONLY: dict[str, tuple[Any, ...]] = {
    "features_extractor_class": ("<class 'stable_baselines3.common.torch_layers.FlattenExtractor'>",),
    "features_extractor_kwargs": (None, {}),
    "n_critics": (N_CRITICS,),
    "clip_mean": (2.0,),
    "use_expln": (False,),
    "squash_output": (False,),
}
ACTIVATIONS = {"ppo": "Tanh"}
"""The activation function in torch; by default ReLU."""


@dataclass(frozen=True)
class Sb3Policy:
    """The relevant content of a Stable-Baselines3 zip."""

    path: Path
    algorithm: str
    net_arch: tuple[int, ...]
    use_sde: bool
    obs_dim: int
    act_dim: int
    """DQN: the number of actions."""
    tensors: dict[str, Tensor]
    """The policy's state dict, by Stable-Baselines3's names."""
    gamma: float
    log_ent_coef: float | None
    """SAC: logarithm of the entropy coefficient at the end of the training."""
    action_low: np.ndarray | None
    """Bounds of the actions in the training, if they can be read."""
    action_high: np.ndarray | None


# --- reading --------------------------------------------------------------------------------------------


def read_zip(path: str | Path) -> Sb3Policy:
    """Read a DQN, SAC, TD3 or PPO model saved by Stable-Baselines3, without executing code from the file. (A model of
    A2C, whose policy is the same, is read as one of PPO.)

    Raises a one-line UserError for other files and for networks that differ from the default MlpPolicy.
    """
    path = Path(path)
    entries = _entries(path)
    for name in ("data", "policy.pth"):
        if name not in entries:
            raise UserError(f"{path} was not saved by Stable-Baselines3: it has no entry {name!r}")
    data = _json(path, entries["data"])
    tensors = _tensors(path, "policy.pth", entries["policy.pth"])
    variables = entries.get("pytorch_variables.pth")
    extra = {} if variables is None else _tensors(path, "pytorch_variables.pth", variables)

    algorithm = _algorithm(path, tensors)
    _check_policy(path, algorithm, data)
    use_sde = algorithm == "sac" and "actor.log_std" in tensors
    layers = _layers(tensors, ACTORS[algorithm])
    if algorithm in LAST:
        layers += _layers(tensors, "actor.mu.0" if use_sde else LAST[algorithm], 1)
    net_arch = tuple(fan_out for fan_out, _ in layers[:-1])
    if algorithm in CRITICS:
        critics = {name.split(".")[1] for name in tensors if name.startswith("critic.")}
        if algorithm != "ppo" and critics != {f"qf{k}" for k in range(N_CRITICS)}:
            raise UserError(f"{path} has n_critics = {len(critics)}: Peerage's {algorithm} has {N_CRITICS}")
        found = _layers(tensors, CRITICS[algorithm]) + (_layers(tensors, "value_net", 1) if algorithm == "ppo" else [])
        hidden = tuple(fan_out for fan_out, _ in found[:-1])
        if hidden != net_arch:
            raise UserError(f"{path} has layers {net_arch} in the actor, {hidden} in the critics: they must be equal")
    if not layers:
        raise UserError(f"{path} has unknown networks: only the default MlpPolicy is supported")
    low, high = (_numbers(data.get("action_space"), bound, layers[-1][0]) for bound in ("low", "high"))
    gamma = data.get("gamma")
    plain = isinstance(gamma, int | float) and 0 <= gamma <= 1
    return Sb3Policy(
        path=path,
        algorithm=algorithm,
        net_arch=net_arch,
        use_sde=use_sde,
        obs_dim=layers[0][1],
        act_dim=layers[-1][0],
        tensors=tensors,
        gamma=float(gamma) if plain else default_settings(algorithm).gamma,  # type: ignore[arg-type]
        log_ent_coef=_log_ent_coef(extra),
        action_low=low,
        action_high=high,
    )


def _entries(path: Path) -> dict[str, bytes]:
    """The relevant entries of the zip, read into memory. Nothing is extracted to disk."""
    limits = {"data": MAX_JSON_BYTES, "policy.pth": MAX_BYTES, "pytorch_variables.pth": MAX_JSON_BYTES}
    entries = {}
    if not path.is_file():  # reading from a pipe could block
        raise UserError(f"there is no file {path}")
    with path.open("rb") as file:
        if file.read(1) == PICKLE:
            raise UserError(
                f"{path} is a pickle, such as the statistics of VecNormalize, which can execute arbitrary code when "
                "it is loaded: Peerage does not read it; members that are trained with --normalize-obs have their "
                "own statistics"
            )
    try:
        with zipfile.ZipFile(path) as archive:
            for name, limit in limits.items():
                if name not in archive.namelist():
                    continue
                info = archive.getinfo(name)
                # bzip2 and LZMA can expand without bound; Stable-Baselines3 does not compress at all
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise UserError(f"{path}: the entry {name!r} has an unsupported compression")
                if info.file_size > limit:
                    raise UserError(f"{path}: the entry {name!r} is larger than {limit:,} bytes")
                with archive.open(info) as file:
                    entries[name] = file.read(limit)
    except UserError:
        raise
    except Exception as error:  # zipfile raises many kinds of errors for damaged and encrypted files
        raise UserError(f"{path} is not a valid zip file ({type(error).__name__})") from None
    return entries


def _json(path: Path, text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise UserError(f"{path} was not saved by Stable-Baselines3: its entry 'data' is not a JSON object")
    return data


def _tensors(path: Path, name: str, blob: bytes) -> dict[str, Tensor]:
    """Read a `.pth` entry that contains only tensors. Raises UserError for other content."""
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:  # torch's current format: an uncompressed zip
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise ValueError
        tensors = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
        if not isinstance(tensors, dict):
            raise ValueError
        tensors = {key: value for key, value in tensors.items() if value is not None}
        for key, value in tensors.items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise ValueError
            if not value.is_floating_point() or value.layout != torch.strided:
                raise ValueError
        # With strides of 0, a small file can define a huge tensor: check the size before any computation
        if sum(value.numel() for value in tensors.values()) * 4 > MAX_BYTES:
            raise ValueError
        tensors = {key: value.detach().to("cpu", torch.float32) for key, value in tensors.items()}
    except Exception:  # for a malicious or damaged file, torch can raise any exception
        raise UserError(f"{path}: {name} is damaged, or contains more than plain tensors") from None
    if not all(value.isfinite().all() for value in tensors.values()):
        raise UserError(f"{path}: {name} contains numbers that are not finite")
    return tensors


def _algorithm(path: Path, tensors: dict[str, Tensor]) -> str:
    if any(name.startswith("q_net.q_net.") for name in tensors):
        return "dqn"
    if any(name.startswith("actor_target.mu.") for name in tensors):
        return "td3"
    if any(name.startswith("actor.log_std") for name in tensors):
        return "sac"
    if "action_net.weight" in tensors and "value_net.weight" in tensors:
        return "ppo"
    raise UserError(f"{path} contains no MlpPolicy of Stable-Baselines3's DQN, SAC, TD3 or PPO")


def _check_policy(path: Path, algorithm: str, data: dict[str, Any]) -> None:
    """Raise UserError for unsupported settings that the weights do not show: activation function, policy class, ..."""
    policy, module = data.get("policy_class"), MODULES.get(algorithm, f"stable_baselines3.{algorithm}.policies")
    if not isinstance(policy, dict) or policy.get("__module__") != module:
        raise UserError(f"{path} has a policy class other than Stable-Baselines3's MlpPolicy")
    kwargs = data.get("policy_kwargs")
    if not isinstance(kwargs, dict):
        raise UserError(f"{path} contains no policy_kwargs, so its activation function is unknown")
    activation = f"<class 'torch.nn.modules.activation.{ACTIVATIONS.get(algorithm, 'ReLU')}'>"
    supported = {**DEFAULT_ONLY, "activation_fn": (activation,)}
    for key, value in kwargs.items():
        if key not in HARMLESS and value not in supported.get(key, ()):
            known = f"; only {supported[key][0]} is supported" if key in supported else ""
            raise UserError(f"{path} has policy_kwargs {key[:40]!r} = {str(value)[:80]!r}{known}")


def _layers(tensors: dict[str, Tensor], prefix: str, count: int | None = None) -> list[tuple[int, int]]:
    """(out, in) of the linear layers `prefix.0`, `prefix.2`, ...; with `count` 1, of the layer `prefix`."""
    names = [prefix] if count == 1 else [f"{prefix}.{2 * k}" for k in range(len(tensors))]
    shapes = []
    for name in names:
        weight = tensors.get(f"{name}.weight")
        if weight is None or weight.ndim != 2:
            break
        shapes.append((weight.shape[0], weight.shape[1]))
    return shapes


def _log_ent_coef(variables: dict[str, Tensor]) -> float | None:
    if "log_ent_coef" in variables and variables["log_ent_coef"].numel() == 1:
        return float(variables["log_ent_coef"])
    if "ent_coef_tensor" in variables and variables["ent_coef_tensor"].numel() == 1:  # a fixed coefficient
        fixed = float(variables["ent_coef_tensor"])
        return math.log(fixed) if fixed > 0 else -math.inf
    return None


def _numbers(space: Any, key: str, count: int) -> np.ndarray | None:
    """Parse a bound of a Box from text such as `"[-2. -2.]"`; None if it does not contain `count` numbers."""
    text = space.get(key) if isinstance(space, dict) else None
    try:
        numbers = np.array([float(word) for word in str(text).strip("[]").split()], np.float32)
    except ValueError:
        return None
    return numbers if len(numbers) == count else None


# --- zip to learner -------------------------------------------------------------------------------------


def to_learner(policy: Sb3Policy, obs_space: gym.Space[Any], action_space: gym.Space[Any]) -> DQN | SAC | TD3 | PPO:
    """Convert a policy to a learner of one row. Raises UserError if it does not fit the spaces."""
    return learner_of(policy, space_of(obs_space, action_space))


@torch.no_grad()
def learner_of(policy: Sb3Policy, space: Space) -> DQN | SAC | TD3 | PPO:
    """Convert a policy to a learner of one row. Raises UserError if it does not fit `space`."""
    discrete = LEARNERS[policy.algorithm].fits(discrete=True) and "log_std" not in policy.tensors
    trained = Space(policy.obs_dim, policy.act_dim, policy.act_dim if discrete else 0)
    if shape_of(trained) != shape_of(space):
        raise UserError(f"{policy.path} was trained with {shape_of(trained)}; this environment has {shape_of(space)}")
    check_bounds(policy.path, space, policy.action_low, policy.action_high)
    settings = replace(default_settings(policy.algorithm), net_arch=policy.net_arch, gamma=policy.gamma)
    if policy.use_sde:
        settings = replace(settings, use_sde=True)
    learner = single(settings, space)
    views = sb3_views(learner, 0)
    if {k: v.shape for k, v in views.items()} != {k: v.shape for k, v in policy.tensors.items()}:
        odd = sorted(views.keys() ^ policy.tensors.keys())
        what = f"; {odd[0][:60]!r} is missing or unexpected" if odd else ""
        raise UserError(f"{policy.path} is not a default MlpPolicy, the only supported policy{what}")
    for name, view in views.items():
        view.copy_(policy.tensors[name])
    if isinstance(learner, SAC) and policy.log_ent_coef is not None:
        learner.log_ent_coef.fill_(policy.log_ent_coef)
    return learner


def check_bounds(path: Path, space: Space, low: np.ndarray | None, high: np.ndarray | None) -> None:
    """Raise UserError if the policy in `path` was trained with actions bounded by `low` and `high` (None: unknown), and
    those of `space` have other bounds."""
    pairs = [(ours, theirs) for ours, theirs in ((space.low, low), (space.high, high)) if theirs is not None]
    if any(ours is not None and not np.allclose(ours, theirs, rtol=1e-4) for ours, theirs in pairs):
        here, there = (
            " to ".join(np.array2string(bound, precision=4, threshold=8) for bound in side if bound is not None)
            for side in zip(*pairs)
        )
        raise UserError(f"{path} was trained with actions bounded by {there}; this environment has bounds {here}")


def sb3_views(learner: Any, row: int) -> dict[str, Tensor]:
    """The parameters of a member with Stable-Baselines3's names and layout `[out, in]`, as views into the stacks.
    The export reads from them, the import writes to them."""
    if isinstance(learner, DQN):
        assert isinstance(learner.q, StackedMLP) and isinstance(learner.q_target, StackedMLP)
        return _mlp(learner.q, row, "q_net.q_net") | _mlp(learner.q_target, row, "q_net_target.q_net")
    views: dict[str, Tensor] = {}
    if isinstance(learner, PPO):
        net = learner.net
        for offset, (part, last, outputs) in enumerate((("policy", "action_net", None), ("value", "value_net", 1))):
            views |= _mlp(net, 2 * row + offset, f"mlp_extractor.{part}_net")
            for kind in ("weight", "bias"):
                own = views.pop(f"mlp_extractor.{part}_net.{2 * (net.layers - 1)}.{kind}")
                views[f"{last}.{kind}"] = own[:outputs]
        return views if learner.space.discrete else views | {"log_std": learner.log_std[row]}
    for name, critic in (("critic", learner.critic), ("critic_target", learner.critic_target)):
        for k in range(N_CRITICS):
            views |= _mlp(critic.net, N_CRITICS * row + k, f"{name}.qf{k}")
    if isinstance(learner, TD3):
        views |= _mlp(learner.actor, row, "actor.mu")
        return views | _mlp(learner.actor_target, row, "actor_target.mu")
    actor = _mlp(learner.actor, row, "actor.latent_pi")
    last = f"actor.latent_pi.{2 * (learner.actor.layers - 1)}"
    for kind in ("weight", "bias"):
        head = actor.pop(f"{last}.{kind}")
        if learner.use_sde:
            actor[f"actor.mu.0.{kind}"] = head
        else:  # Peerage's last layer has the columns mean | log_std
            actor[f"actor.mu.{kind}"], actor[f"actor.log_std.{kind}"] = head.chunk(2)
    if learner.use_sde:
        actor["actor.log_std"] = learner.actor.constants["log_std"][row]
    return views | actor


def _mlp(net: StackedMLP, row: int, prefix: str) -> dict[str, Tensor]:
    views = {}
    for layer in range(net.layers):  # in Stable-Baselines3, every second module is a ReLU
        views[f"{prefix}.{2 * layer}.weight"] = net.constants[f"{layer}.weight"][row].T
        views[f"{prefix}.{2 * layer}.bias"] = net.constants[f"{layer}.bias"][row, 0]
    return views
