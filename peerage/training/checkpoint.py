"""Checkpoints: safetensors for tensors, JSON for the rest, a manifest with checksums. Nothing in them can run.

A checkpoint folder `checkpoints/step_000100000/` holds `state.safetensors`, `state.json` and `manifest.json`. It is
written beside its place and renamed, so that a half-written one never has the name of a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from peerage.errors import UserError

FORMAT = 1
KEEP = 2  # older checkpoints of a run are removed once a newer one is whole


def _flatten(tree: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Replace the tensors of a nested dict or list by `{"tensor": key}` and collect them."""
    if isinstance(tree, torch.Tensor):
        tensors[path] = tree.detach().contiguous().cpu()
        return {"tensor": path}
    if isinstance(tree, dict):
        prefix = f"{path}/" if path else ""
        return {str(key): _flatten(value, f"{prefix}{key}", tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_flatten(value, f"{path}/{i}", tensors) for i, value in enumerate(tree)]
    if isinstance(tree, np.ndarray | np.generic):  # an adviser's state, say
        return tree.tolist()
    return tree


def _unflatten(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, dict):
        if tree.keys() == {"tensor"}:
            return tensors[tree["tensor"]]
        return {key: _unflatten(value, tensors) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_unflatten(value, tensors) for value in tree]
    return tree


def save(run: Path, step: int, state: dict[str, Any]) -> Path:
    """Write `state` (nested dicts and lists of tensors and JSON values) as the run's checkpoint of `step`."""
    root = run / "checkpoints"
    root.mkdir(exist_ok=True)
    final, partial = root / f"step_{step:09d}", root / f".step_{step:09d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    tensors: dict[str, torch.Tensor] = {}
    tree = _flatten(state, "", tensors)
    save_file(tensors, partial / "state.safetensors")
    (partial / "state.json").write_text(json.dumps(tree))
    files = {name: _sha256(partial / name) for name in ("state.safetensors", "state.json")}
    (partial / "manifest.json").write_text(json.dumps({"format": FORMAT, "step": step, "sha256": files}, indent=1))
    for file in partial.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    for old in checkpoints(run)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first; one that was not written to its end has another name."""
    named = [path for path in (run / "checkpoints").glob("step_*") if path.name[len("step_") :].isdecimal()]
    return sorted(named, key=lambda path: int(path.name[len("step_") :]))


def load(folder: Path) -> dict[str, Any]:
    """The state in a checkpoint folder. Raises UserError if it is damaged or of another format version."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise UserError(f"{folder} has checkpoint format {manifest['format']}; this version reads {FORMAT}")
        for name in ("state.safetensors", "state.json"):
            if _sha256(folder / name) != manifest["sha256"][name]:
                raise UserError(f"checkpoint {folder} is damaged: {name} does not match its checksum")
        tree = json.loads((folder / "state.json").read_text())
        state: dict[str, Any] = _unflatten(tree, load_file(folder / "state.safetensors"))
        return state
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise UserError(f"checkpoint {folder} cannot be read: {error}") from error


def load_latest(run: Path) -> tuple[dict[str, Any], list[str]]:
    """The newest sound checkpoint of a run, and a line for each damaged one that was passed over."""
    passed_over: list[str] = []
    for folder in reversed(checkpoints(run)):
        try:
            return load(folder), passed_over
        except UserError as error:
            passed_over.append(str(error))
    why = passed_over[0] if passed_over else f"{run} was stopped before its first checkpoint (--checkpoint-freq)"
    raise UserError(f"{why}: begin it anew")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def dump(run: Path, name: str, state: dict[str, Any]) -> Path:
    """Write tensors for a person to look at, `<run>/dumps/<name>.safetensors`."""
    folder = run / "dumps"
    folder.mkdir(exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    _flatten(state, "", tensors)
    save_file({key: value.clone() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"
