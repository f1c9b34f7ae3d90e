"""The weights of Decision Transformers by the names of `transformers.DecisionTransformerModel`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from peerage.errors import UserError
from peerage.nets.gpt import TOKENS, StackedGPT
from peerage.nets.gpt_settings import GPTSettings
from peerage.text import one_line

POSITION = "encoder.wpe.weight"
"""A table of positions. Only its first row has an effect: it is added to every token."""


def positions(settings: GPTSettings) -> int:
    """The number of positions that is written. Earlier versions of transformers need one for every token."""
    return max(1024, len(TOKENS) * settings.context_length)


@torch.no_grad()
def to_hf(net: StackedGPT, row: int = 0) -> dict[str, Tensor]:
    """The weights of one network by Hugging Face's names. The heads for states and returns, which have no effect on
    actions, are 0. Raises UserError for a decoupled network."""
    if net.settings.decoupled:
        raise UserError("Hugging Face has no Decoupled Decision Transformer: only dt can be written as such a folder")
    w = {name: x[row].clone() for name, x in net.weights().items()}
    width = net.settings.d_model
    found = {"embed_timestep.weight": w["timestep.weight"]}
    for name in ("return", "state", "action"):
        found |= _linear(w, name, f"embed_{name}", transpose=True)
    found |= _norm(w, "norm", "embed_ln")
    table = w["timestep.weight"].new_zeros(positions(net.settings), width)
    table[0] = w["position.weight"][0]
    found |= {POSITION: table, "encoder.wte.weight": table.new_zeros(1, width)}
    for n in range(net.settings.n_layers):
        own, theirs = f"{n}", f"encoder.h.{n}"
        found |= _norm(w, f"{own}.norm1", f"{theirs}.ln_1") | _norm(w, f"{own}.norm2", f"{theirs}.ln_2")
        for kind in ("weight", "bias"):
            both = torch.cat((w[f"{own}.query.{kind}"], w[f"{own}.key_value.{kind}"]), dim=1)
            found[f"{theirs}.attn.c_attn.{kind}"] = both if kind == "weight" else both[0]
        for name, other in (("found", "attn.c_proj"), ("ff1", "mlp.c_fc"), ("ff2", "mlp.c_proj")):
            found |= _linear(w, f"{own}.{name}", f"{theirs}.{other}", transpose=False)
    found |= _norm(w, "norm_out", "encoder.ln_f") | _linear(w, "out", "predict_action.0", transpose=True)
    for name, size in (("state", net.obs), ("return", 1)):
        found[f"predict_{name}.weight"] = table.new_zeros(size, width)
        found[f"predict_{name}.bias"] = table.new_zeros(size)
    return found


def has_no_effect(name: str) -> bool:
    """Whether a tensor has no effect on actions: the heads for states and returns, the embeddings of words, and buffers
    that earlier versions of transformers have saved."""
    return name.startswith(("predict_state.", "predict_return.", "encoder.wte.")) or name.endswith(
        (".attn.bias", ".attn.masked_bias")
    )


def misfit(net: StackedGPT, tensors: Mapping[str, Tensor]) -> str:
    """What is wrong with weights for a network (which can be on the device `meta`), as the end of a message; empty if
    nothing is."""
    expected = {name: x.shape for name, x in to_hf(net).items() if not has_no_effect(name)}
    for name, shape in expected.items():
        if name not in tensors:
            return f"has no tensor {name}"
        given = tuple(tensors[name].shape)
        right = given[0] >= 1 and given[1:] == shape[1:] if name == POSITION and given else given == shape
        if not right:
            return f"has {name} with the shape {list(given)} instead of {list(shape)}"
    unknown = [name for name in tensors if name not in expected and not has_no_effect(name)]
    return f"has the tensor {one_line(unknown[0])[:80]}, which the model does not have" if unknown else ""


@torch.no_grad()
def from_hf(net: StackedGPT, tensors: Mapping[str, Tensor], row: int = 0) -> None:
    """Copy weights with Hugging Face's names to one network, which they must fit (`misfit`)."""
    own = {name: x[row] for name, x in net.weights().items()}
    width = net.settings.d_model

    def copy(name: str, theirs: Tensor) -> None:
        own[name].copy_(theirs.view(own[name].shape))

    copy("timestep.weight", tensors["embed_timestep.weight"])
    copy("position.weight", tensors[POSITION][:1])
    pairs = [("norm", "embed_ln", False), ("norm_out", "encoder.ln_f", False), ("out", "predict_action.0", True)]
    pairs += [(name, f"embed_{name}", True) for name in ("return", "state", "action")]
    for n in range(net.settings.n_layers):
        for name, other in (("norm1", "ln_1"), ("norm2", "ln_2"), ("found", "attn.c_proj"), ("ff1", "mlp.c_fc")):
            pairs.append((f"{n}.{name}", f"encoder.h.{n}.{other}", False))
        pairs.append((f"{n}.ff2", f"encoder.h.{n}.mlp.c_proj", False))
        for kind in ("weight", "bias"):
            both = tensors[f"encoder.h.{n}.attn.c_attn.{kind}"].view(-1, 3 * width)
            own[f"{n}.query.{kind}"].copy_(both[:, :width])
            own[f"{n}.key_value.{kind}"].copy_(both[:, width:])
    for name, other, transpose in pairs:
        weight = tensors[f"{other}.weight"]
        own[f"{name}.weight"].copy_((weight.t() if transpose else weight).reshape(own[f"{name}.weight"].shape))
        copy(f"{name}.bias", tensors[f"{other}.bias"])


def _linear(w: Mapping[str, Tensor], name: str, theirs: str, *, transpose: bool) -> dict[str, Tensor]:
    weight = w[f"{name}.weight"]
    return {f"{theirs}.weight": weight.t() if transpose else weight, f"{theirs}.bias": w[f"{name}.bias"][0]}


def _norm(w: Mapping[str, Tensor], name: str, theirs: str) -> dict[str, Tensor]:
    return {f"{theirs}.{kind}": w[f"{name}.{kind}"][0] for kind in ("weight", "bias")}
