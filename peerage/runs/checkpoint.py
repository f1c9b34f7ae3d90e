"""Checkpoints: safetensors for tensors, JSON for the rest, a manifest with checksums. They cannot contain code.

    checkpoints/
      step_000100000/   state.safetensors, state.json, manifest.json
      chunks/           entries of long buffers (`AppendBuffer`), shared by all checkpoints

A checkpoint folder is written under a temporary name and then renamed, so that an incomplete one is never taken for a
checkpoint. Its manifest holds the checksums of all its files and chunks, and one of itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from peerage.append_buffer import AppendBuffer
from peerage.errors import UserError
from peerage.runs import disk
from peerage.runs.chunks import Chunk, write_chunks
from peerage.runs.serialisation import flatten, unflatten
from peerage.runs.tensor_file import save_tensors
from peerage.text import listing, one_line

FORMAT = 3
FILES = ("state.safetensors", "state.json")


class Damaged(UserError):
    """A checkpoint whose content changed after it was written; an older one may be used instead. A checkpoint that
    cannot be read at the moment, or that another version wrote, raises a plain UserError and is never skipped."""


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json."""

    step: int
    about: dict[str, Any]
    """The plain data passed to `save`."""
    files: dict[str, str]
    """File name -> checksum."""
    chunks: dict[str, list[Chunk]]
    """Key of a buffer in the state -> its chunks, oldest first."""


# --- writing ------------------------------------------------------------------------------------------------


def save(
    run: Path,
    step: int,
    state: dict[str, Any],
    *,
    about: Mapping[str, Any] | None = None,
    after: Path | None = None,
    keep: int = 2,
    best: int | None = None,
) -> Path:
    """Write `state` as the run's checkpoint of `step`: nested dicts and lists of tensors, `AppendBuffer`s, JSON values.

    `after` is the previous checkpoint, whose chunks are reused. Only the newest `keep` checkpoints up to `step` and the
    newest one of step `best` are kept; checkpoints of later steps belong to an abandoned continuation and are removed.
    Raises OSError.
    """
    root = run / "checkpoints"
    chunks_folder = root / "chunks"
    chunks_folder.mkdir(parents=True, exist_ok=True)
    final, partial = _free_name(root, step), root / f".step_{step:09d}.partial"
    for left in (*root.glob(".step_*"), *chunks_folder.glob(".*")):  # left by a process that was killed
        disk.remove(left)
    known = _known_chunks(after)
    tensors: dict[str, torch.Tensor] = {}
    buffers: dict[str, AppendBuffer] = {}
    tree = flatten(state, "", tensors, buffers)
    try:
        chunks = {place: write_chunks(chunks_folder, place, b, known.get(place, [])) for place, b in buffers.items()}
        partial.mkdir()
        save_tensors(tensors, partial / FILES[0])
        (partial / FILES[1]).write_text(json.dumps(tree))
        manifest = {
            "format": FORMAT,
            "step": step,
            "about": dict(about or {}),
            "files": {name: disk.sha256(partial / name) for name in FILES},
            "chunks": {place: [vars(chunk) for chunk in some] for place, some in chunks.items()},
        }
        (partial / "manifest.json").write_text(json.dumps({**manifest, "seal": _seal(manifest)}, indent=1))
        for path in (*partial.iterdir(), partial):
            disk.sync(path)
        os.rename(partial, final)
        disk.sync(root)
        disk.sync(run)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _clean(run, step, keep, best)
    return final


def _known_chunks(after: Path | None) -> dict[str, list[Chunk]]:
    if after is None:
        return {}
    try:
        return read_manifest(after).chunks
    except UserError:  # it was removed or damaged: write everything again
        return {}


def _free_name(root: Path, step: int) -> Path:
    """`step_000000100`, or with -2, -3, ... appended: a run that ends at the step at which it was resumed saves that
    step again, and the existing checkpoint stays until the new one is complete."""
    path, count = root / f"step_{step:09d}", 1
    while path.exists():
        count += 1
        path = root / f"step_{step:09d}-{count}"
    return path


def retire(folder: Path) -> None:
    """Rename a damaged checkpoint to `damaged_step_...`, so that it is not used again after the run has continued from
    an older one."""
    target, count = folder.with_name(f"damaged_{folder.name}"), 1
    while target.exists():
        count += 1
        target = folder.with_name(f"damaged_{folder.name}.{count}")
    os.rename(folder, target)
    disk.sync(folder.parent)


def _clean(run: Path, step: int, keep: int, best: int | None = None) -> None:
    """Remove checkpoints that are neither among the newest `keep` up to `step` nor the newest one of step `best`, and
    chunks that no checkpoint refers to."""
    there = [folder for folder in checkpoints(run) if step_of(folder) <= step]
    kept = [*[folder for folder in there[:-keep] if step_of(folder) == best][-1:], *there[-keep:]]
    for path in checkpoints(run):
        if path not in kept:
            with contextlib.suppress(OSError):
                disk.remove(path)
    try:
        manifests = [read_manifest(folder) for folder in kept]
    except UserError:  # the chunks of a damaged checkpoint are unknown: remove none
        return
    needed = {chunk.name for manifest in manifests for chunks in manifest.chunks.values() for chunk in chunks}
    for path in (run / "checkpoints" / "chunks").glob("*.safetensors"):
        if path.name not in needed:
            path.unlink(missing_ok=True)


# --- reading ------------------------------------------------------------------------------------------------


def checkpoints(run: Path) -> list[Path]:
    """The run's complete checkpoint folders, oldest first."""
    named = [path for path in (run / "checkpoints").glob("step_*") if _NAME.fullmatch(path.name)]
    return sorted(named, key=_order)


_NAME = re.compile(r"step_([0-9]+)(?:-([0-9]+))?")


def _order(folder: Path) -> tuple[int, int]:
    found = _NAME.fullmatch(folder.name)
    if found is None:
        raise Damaged(f"{folder} is not a checkpoint: its name is not step_ and a number")
    return int(found[1]), int(found[2] or 1)


def step_of(folder: Path) -> int:
    """The step of a checkpoint, from the name of its folder."""
    return _order(folder)[0]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint. Raises UserError if it is damaged or of another format version."""

    def read() -> Manifest:
        disk.sha256(folder / "manifest.json")  # raises if it is not a regular file
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            by = manifest.get("about", {}).get("versions", {}).get("peerage", "of another version")
            raise UserError(
                f"{folder} was written in checkpoint format {str(manifest['format'])[:20]} by Peerage {str(by)[:20]}, "
                f"but this version reads format {FORMAT}: use the version that wrote it"
            )
        seal = manifest.pop("seal")
        if seal != _seal(manifest) or manifest["step"] != step_of(folder):
            raise Damaged(f"checkpoint {folder} is damaged: manifest.json does not match its checksum")
        chunks = {place: [Chunk(**chunk) for chunk in some] for place, some in manifest["chunks"].items()}
        for chunk in (c for some in chunks.values() for c in some):
            if not re.fullmatch(r"[a-z0-9_-]+\.safetensors", chunk.name):
                raise Damaged(f"checkpoint {folder} names a chunk {chunk.name!r:.60}, which is not a valid name")
        about = dict(manifest["about"])
        if not isinstance(about.get("versions", {}), dict):
            raise Damaged(f"checkpoint {folder} is damaged: its manifest does not contain the version that wrote it")
        return Manifest(manifest["step"], about, dict(manifest["files"]), chunks)

    return _reading(folder, read)


def load(folder: Path, *, buffers: bool = True) -> dict[str, Any]:
    """The state in a checkpoint folder; without `buffers`, every buffer is None. Raises UserError if the checkpoint is
    damaged or of another format version."""

    def read() -> dict[str, Any]:
        manifest = read_manifest(folder)
        chunks = [c for some in manifest.chunks.values() for c in some] if buffers else []
        belongs = [*((folder, *item) for item in manifest.files.items() if item[0] in FILES)]
        belongs += [(folder.parent / "chunks", chunk.name, chunk.sha256) for chunk in chunks]
        if set(manifest.files) != set(FILES):
            raise Damaged(f"checkpoint {folder} is damaged: its manifest names other files than {', '.join(FILES)}")
        for where, name, sha256 in belongs:
            if disk.sha256(where / name) != sha256:
                raise Damaged(f"checkpoint {folder} is damaged: {name} does not match its checksum")
        tree = json.loads((folder / FILES[1]).read_text())
        # Copies: memory mapped from the file is aligned differently, which changes the last bits of sums over it
        tensors = {key: tensor.clone() for key, tensor in load_file(folder / FILES[0]).items()}
        state = unflatten(tree, tensors, manifest.chunks if buffers else None, folder.parent / "chunks")
        if not isinstance(state, dict):
            raise Damaged(f"checkpoint {folder} does not hold a state")
        return state

    return _reading(folder, read)


def load_latest(run: Path, *, buffers: bool = True) -> tuple[Path, dict[str, Any], dict[Path, str]]:
    """The newest intact checkpoint of a run, its state, and a message about each damaged checkpoint that is newer.

    Raises UserError if there is none, or if one cannot be read although it is not damaged.
    """
    for _ in range(5):
        damaged: dict[Path, str] = {}
        there = checkpoints(run)
        for folder in reversed(there):
            try:
                return folder, load(folder, buffers=buffers), damaged
            except Damaged as error:
                damaged[folder] = str(error)
        if checkpoints(run) == there:
            break  # otherwise a running training has replaced them in the meantime: try again
    if not damaged:
        raise UserError(f"{run} has no checkpoint")
    raise UserError(f"{run} has no intact checkpoint, train it again: {'; '.join(damaged.values())}")


def load_one(run: Path, which: str, *, buffers: bool = True) -> tuple[Path, dict[str, Any], dict[Path, str]]:
    """A checkpoint of a run and its state, as `load_latest`. `which`: `best`, the number of a step, or empty for the
    newest one. Raises UserError if the run does not have it."""
    if not which:
        return load_latest(run, buffers=buffers)
    there = checkpoints(run)
    if which == "best":
        step = _best_step(there)
        if step is None:
            raise UserError(f"{run} has no best checkpoint: train with --keep-best, or name a step ({_steps(there)})")
    else:
        step = int(which)
    found = [folder for folder in there if step_of(folder) == step]
    if not found:
        raise UserError(f"{run} has no checkpoint of step {step:,}: it has {_steps(there)}")
    return found[-1], load(found[-1], buffers=buffers), {}


def _best_step(there: list[Path]) -> int | None:
    """The step of the best checkpoint, according to the newest checkpoint that can be read."""
    for folder in reversed(there):
        try:
            best = read_manifest(folder).about.get("best")
        except Damaged:
            continue
        return int(best["step"]) if isinstance(best, dict) else None
    return None


def _steps(there: list[Path]) -> str:
    return f"steps {listing([f'{step:,}' for step in dict.fromkeys(map(step_of, there))])}" if there else "none"


def _reading(folder: Path, read: Callable[[], Any]) -> Any:
    """`read()`, with every error that a damaged file may cause converted to a UserError."""
    try:
        return read()
    except UserError:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise Damaged(f"checkpoint {folder} is damaged: {Path(error.filename or folder).name} is missing") from error
    except MemoryError as error:
        raise UserError(f"checkpoint {folder} cannot be read now: there is not enough memory") from error
    except OSError as error:  # a failing disk does not mean that the checkpoint is damaged
        raise UserError(f"checkpoint {folder} cannot be read now: {error.strerror or error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
        # torch raises RuntimeError too, without memory or for a file that was removed after its checksum was taken
        if "DefaultCPUAllocator" in str(error):
            raise UserError(f"checkpoint {folder} cannot be read now: there is not enough memory") from error
        what = one_line(f"{type(error).__name__}: {error}")[:200]
        raise Damaged(f"checkpoint {folder} is damaged: {what}") from error


# --- files --------------------------------------------------------------------------------------------------


def _seal(manifest: Mapping[str, Any]) -> str:
    """The checksum of a manifest, stored in it as `seal`."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def dump(run: Path, name: str, state: dict[str, Any]) -> Path:
    """Write tensors for inspection to `<run>/dumps/<name>.safetensors`; returns the path."""
    folder = run / "dumps"
    folder.mkdir(exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    flatten(state, "", tensors, {})
    save_tensors({key: value.clone() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"
