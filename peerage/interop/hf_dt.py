"""Folders that `transformers.DecisionTransformerModel.from_pretrained` opens, read and written without transformers.

A folder contains `config.json` and `model.safetensors`. Reading executes nothing: no pickles, no code of the folder.
The size of every tensor is checked against the file before a network is built.

Entries of config.json that Hugging Face's configuration does not have: `state_mean`, `state_std`, `scale`,
`context_length`, and `peerage` with the action space, the environment and further statistics of the data.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from peerage.errors import UserError
from peerage.interop.hf_weights import from_hf, has_no_effect, misfit, positions, to_hf
from peerage.nets.gpt import HIDDEN_PER_WIDTH, StackedGPT
from peerage.nets.gpt_settings import GPTSettings
from peerage.offline.model import SequenceModel
from peerage.offline.preprocessing import Preprocessing
from peerage.runs import disk
from peerage.runs.tensor_file import save_tensors
from peerage.text import one_line

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODEL = "DecisionTransformerModel"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MAX_CONFIG_BYTES = 64 * 1024**2
MAX_WEIGHTS_BYTES = 4 * 1024**3
CONTEXT_LENGTH = 20
"""Of a folder that does not name it."""
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new"}
"""Hugging Face's names -> ours."""
# Entries of config.json that must have these values; the first one is Hugging Face's default.
REQUIRED: dict[str, tuple[Any, ...]] = {
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "layer_norm_epsilon": (1e-5,),
}


def write_hf(model: SequenceModel, folder: Path) -> Path:
    """Write a model as a new folder, completely or not at all. Returns `folder`. Raises UserError if it exists or
    cannot be written."""
    folder = Path(folder)
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists already: remove it, or choose another folder with --out")
    partial = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        partial.chmod(0o777 & ~disk.UMASK)
        (partial / CONFIG).write_text(json.dumps(_config(model), indent=2) + "\n", encoding="utf-8")
        tensors = {name: x.cpu().contiguous() for name, x in to_hf(model.net).items()}
        save_tensors(tensors, partial / WEIGHTS, {"format": "pt"})  # transformers asks for this entry
        for path in (*partial.iterdir(), partial):
            disk.sync(path)
        os.rename(partial, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or one_line(error)}") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _config(model: SequenceModel) -> dict[str, Any]:
    net, settings, statistics = model.net, model.net.settings, model.preprocessing.state()
    shared = {name: statistics.pop(name) for name in ("state_mean", "state_std", "scale")}
    return {
        "architectures": [MODEL],
        "model_type": "decision_transformer",
        "state_dim": net.obs,
        "act_dim": net.act,
        "action_tanh": net.tanh,
        "hidden_size": settings.d_model,
        "n_layer": settings.n_layers,
        "n_head": settings.n_heads,
        "n_positions": positions(settings),
        "vocab_size": 1,
        "max_ep_len": settings.max_ep_len,
        "activation_function": settings.activation,
        "attn_pdrop": settings.dropout,
        "embd_pdrop": settings.dropout,
        "resid_pdrop": settings.dropout,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": str(net.flat.dtype).removeprefix("torch."),
        "context_length": settings.context_length,
        **shared,
        "peerage": {"env": model.env, "env_args": dict(model.env_args), **statistics},
    }


def is_hf(folder: Path) -> bool:
    """Whether a folder has the form of a model of Hugging Face rather than of a run."""
    return (folder / CONFIG).is_file() and not (folder / "config.yaml").exists()


def read_hf(folder: Path, statistics: Preprocessing | None = None) -> SequenceModel:
    """The Decision Transformer in `folder`.

    `statistics` are those of the data of a folder without `state_mean` and `state_std`, and take their place otherwise.
    Raises UserError, in one line, for a folder that is no Decision Transformer, is damaged, has no statistics, or has a
    network that Peerage's cannot reproduce exactly.
    """
    folder = Path(folder)
    config = _read_config(folder)
    tensors = _read_tensors(folder)
    try:
        settings = _settings(folder, config, tensors)
        obs, act = tensors["embed_state.weight"].shape[1], tensors["embed_action.weight"].shape[1]
    except KeyError as error:
        raise UserError(f"{folder / WEIGHTS} has no tensor {one_line(error)[:100]}") from error
    prepared = _preprocessing(folder, config, act) if statistics is None else statistics
    if (prepared.obs_dim, prepared.width) != (obs, act):
        sizes = f"{prepared.obs_dim} and {prepared.width}"
        raise UserError(f"{folder} has observations of {obs} and actions of {act} numbers, but its statistics {sizes}")
    tanh = config.get("action_tanh", True)
    if tanh != prepared.bounded:
        what = "bounded Box" if prepared.bounded else "Discrete or unbounded Box"
        raise UserError(f"{folder} has action_tanh {json.dumps(tanh)}, but the actions are a {what}")
    # Without memory: tensors that do not fit together could ask for any size.
    if wrong := misfit(StackedGPT(1, obs, act, settings, device="meta"), tensors):
        raise UserError(f"{folder / WEIGHTS} {wrong}")
    net = StackedGPT(1, obs, act, settings, tanh=prepared.bounded)
    from_hf(net, tensors)
    if not net.flat.isfinite().all():
        raise UserError(f"{folder / WEIGHTS} contains numbers that are not finite")
    own = config.get("peerage")
    env, env_args = (own.get("env"), own.get("env_args")) if isinstance(own, dict) else ("", {})
    return SequenceModel(
        net, prepared, env if isinstance(env, str) else "", env_args if isinstance(env_args, dict) else {}
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        if not path.is_file():
            raise UserError(f"{folder} is not a Decision Transformer: it contains no {CONFIG}")
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError("it is too large")
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it is not a mapping")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)[:200]}") from error
    architectures = config.get("architectures")
    if architectures != [MODEL] and config.get("model_type") != "decision_transformer":
        raise UserError(f"{folder} contains {one_line(architectures)[:60]}, not a {MODEL}")
    return config


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in float32, on the CPU."""
    path = folder / WEIGHTS
    if not path.is_file():
        if pickle := next((name for name in PICKLES if (folder / name).exists()), ""):
            raise UserError(
                f"{folder / pickle} is a pickle, which can execute code: load it with transformers where you trust it, "
                "and save it again with save_pretrained"
            )
        raise UserError(f"{folder} contains no {WEIGHTS}")
    try:
        if path.stat().st_size > MAX_WEIGHTS_BYTES:
            raise UserError(f"{path} is larger than {MAX_WEIGHTS_BYTES >> 30} GiB")
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).float() for name in sorted(file.keys()) if not has_no_effect(name)}
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)[:200]}") from error


def _settings(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> GPTSettings:
    """The network's settings, with the sizes of the tensors. Raises UserError for what Peerage's network does not have,
    and KeyError for a missing tensor."""
    for name, values in REQUIRED.items():
        if config.get(name, values[0]) not in values:
            raise UserError(f"{folder} has {name} {one_line(config[name])[:40]}, which Peerage does not support")
    activation = config.get("activation_function", "relu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"{folder} has the activation {one_line(activation)[:40]}; Peerage supports {known}")
    matrices = ["embed_timestep", "embed_state", "embed_action", "encoder.h.0.mlp.c_fc"]
    for name in (f"{name}.weight" for name in matrices):
        if tensors[name].dim() != 2 or not tensors[name].numel():
            raise UserError(f"{folder / WEIGHTS}: {name} is not a matrix, or is empty")
    length, width = tensors["embed_timestep.weight"].shape
    layers = sum(name.endswith(".ln_1.weight") for name in tensors)
    sizes = {
        "hidden_size": width,
        "n_layer": layers,
        "max_ep_len": length,
        "n_inner": tensors["encoder.h.0.mlp.c_fc.weight"].shape[-1],
        "state_dim": tensors["embed_state.weight"].shape[-1],
        "act_dim": tensors["embed_action.weight"].shape[-1],
    }
    for name, size in sizes.items():
        if config.get(name) is not None and config[name] != size:
            raise UserError(f"{folder} has {name} {one_line(config[name])[:40]}, but its weights have {size}")
    if sizes["n_inner"] != HIDDEN_PER_WIDTH * width:
        raise UserError(f"{folder} has n_inner {sizes['n_inner']}; Peerage supports {HIDDEN_PER_WIDTH} * hidden_size")
    heads, context, dropout = config.get("n_head", 1), config.get("context_length"), config.get("resid_pdrop", 0.1)
    context = CONTEXT_LENGTH if context is None else context
    for name, value in (("n_head", heads), ("context_length", context)):
        if type(value) is not int or not 1 <= value <= 100_000:
            raise UserError(f"{folder} has {name} {one_line(value)[:40]}: it must be a positive number")
    try:
        return GPTSettings(
            context, width, layers, heads, dropout if _is_rate(dropout) else 0.0,
            activation=ACTIVATIONS[activation],  # type: ignore[arg-type]
            max_ep_len=length,
        )  # fmt: skip
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error


def _is_rate(value: Any) -> bool:
    """Whether a dropout rate is one that the network can train with. It has no effect on actions."""
    return isinstance(value, float) and 0 < value < 1 and 0 < round(256 * value) < 256


def _preprocessing(folder: Path, config: Mapping[str, Any], act: int) -> Preprocessing:
    """The statistics in config.json. A folder without an action space of its own has actions in [-1, 1]."""
    names = ("state_mean", "state_std", "scale")
    if any(config.get(name) is None for name in names):
        raise UserError(
            f"{folder} has no state_mean, state_std and scale: complete it with `peerage export {folder} --to hf "
            "--stats-from DATASET --out FOLDER`"
        )
    unit = {"low": [-1.0] * act, "high": [1.0] * act} if config.get("action_tanh", True) else {"n_actions": act}
    own = config.get("peerage", unit)
    try:
        known = {name: value for name, value in own.items() if name not in ("env", "env_args")}
        found = Preprocessing.of_state({**known, **{name: config[name] for name in names}})
        found.check()
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{folder / CONFIG} has invalid statistics: {one_line(error)[:200]}") from error
    return found

