"""Checkpoints: safetensors for tensors, JSON for the rest, a manifest with checksums. Nothing in them can run.

    checkpoints/
      step_000100000/   state.safetensors, state.json, manifest.json
      chunks/           what long buffers (`Entries`) took in between two checkpoints, shared by all of them

A checkpoint folder is written beside its place and renamed, so that a half-written one never has the name of a whole
one; its manifest has the checksum of everything that belongs to it, and its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from peerage.errors import UserError
from peerage.learners.entries import Entries

FORMAT = 2
FILES = ("state.safetensors", "state.json")
SMALL = 1 << 20
"""A chunk of fewer bytes is written again, together with what came after it: many checkpoints are not many files."""
LARGE = 1 << 26
"""Bytes of the largest chunk: no more is held in memory twice."""


@dataclass(frozen=True)
class Chunk:
    """A file that holds entries `start` to `stop - 1` of a buffer."""

    start: int
    stop: int
    name: str
    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What manifest.json says."""

    step: int
    about: dict[str, Any]
    """Plain data that `save` was given."""
    files: dict[str, str]
    """Name -> checksum."""
    chunks: dict[str, list[Chunk]]
    """Place in the state -> the chunks of the buffer there, oldest first."""


# --- writing ------------------------------------------------------------------------------------------------


def save(
    run: Path,
    step: int,
    state: dict[str, Any],
    *,
    about: Mapping[str, Any] | None = None,
    after: Path | None = None,
    keep: int = 2,
) -> Path:
    """Write `state` (nested dicts and lists of tensors, `Entries` and JSON values) as the run's checkpoint of `step`.

    `after` is the checkpoint that this one goes on from: its chunks are used again. Checkpoints of later steps belong
    to a continuation that was given up; they are removed, and so are all but the newest `keep`. Raises OSError.
    """
    root = run / "checkpoints"
    chunks_folder = root / "chunks"
    chunks_folder.mkdir(parents=True, exist_ok=True)
    final, partial = root / f"step_{step:09d}", root / f".step_{step:09d}.partial"
    for left in (*root.glob(".step_*"), *chunks_folder.glob(".*")):  # by a process that was killed
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    known = _known_chunks(after)
    tensors: dict[str, torch.Tensor] = {}
    buffers: dict[str, Entries] = {}
    tree = _flatten(state, "", tensors, buffers)
    try:
        chunks = {place: _write_chunks(chunks_folder, place, b, known.get(place, [])) for place, b in buffers.items()}
        partial.mkdir()
        save_file(tensors, partial / FILES[0])
        (partial / FILES[1]).write_text(json.dumps(tree))
        manifest = {
            "format": FORMAT,
            "step": step,
            "about": dict(about or {}),
            "files": {name: _sha256(partial / name) for name in FILES},
            "chunks": {place: [vars(chunk) for chunk in some] for place, some in chunks.items()},
        }
        (partial / "manifest.json").write_text(json.dumps({**manifest, "seal": _seal(manifest)}, indent=1))
        for path in (*partial.iterdir(), partial):
            _sync(path)
        if final.exists():  # only if the run was resumed from it, or if it is damaged
            os.replace(final, root / f".step_{step:09d}.old")
        os.replace(partial, final)
        _sync(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _clean(run, step, keep)
    return final


def _write_chunks(folder: Path, place: str, buffer: Entries, known: list[Chunk]) -> list[Chunk]:
    """The chunks of a buffer: those of `known` that still count, and new ones for what they do not hold."""
    chunks: list[Chunk] = []
    for chunk in known:
        if chunk.stop <= buffer.start and not chunks:
            continue  # too old to matter
        path = folder / chunk.name
        follows = chunk.start == chunks[-1].stop if chunks else chunk.start <= buffer.start
        if chunk.stop > buffer.stop or not follows or not path.is_file() or path.stat().st_size != chunk.size:
            break  # what comes now is written anew
        chunks.append(chunk)
    if chunks and chunks[-1].size < SMALL and chunks[-1].start >= buffer.start and chunks[-1].stop < buffer.stop:
        chunks.pop()
    begin = chunks[-1].stop if chunks else buffer.start
    if begin == buffer.stop:
        return chunks
    entry = sum(x.nbytes for x in buffer.read(begin, begin + 1).values())
    step = max(1, LARGE // max(1, entry))
    for a in range(begin, buffer.stop, step):
        b = min(a + step, buffer.stop)
        name = f"{re.sub(r'[^a-z0-9_]+', '-', place.lower())}-{a:09d}-{b:09d}.safetensors"
        partial = folder / f".{name}.partial"
        save_file({key: x.detach().contiguous().cpu() for key, x in buffer.read(a, b).items()}, partial)
        _sync(partial)
        made = Chunk(a, b, name, partial.stat().st_size, _sha256(partial))
        os.replace(partial, folder / name)
        chunks.append(made)
    _sync(folder)
    return chunks


def _known_chunks(after: Path | None) -> dict[str, list[Chunk]]:
    if after is None:
        return {}
    try:
        return read_manifest(after).chunks
    except UserError:  # somebody took it away: everything is written anew
        return {}


def _clean(run: Path, step: int, keep: int) -> None:
    """Remove checkpoints that are not among the newest `keep` up to `step`, and chunks that nobody needs then."""
    kept = [folder for folder in checkpoints(run) if _step(folder) <= step][-keep:]
    needed: set[str] = set()
    for folder in kept:
        needed |= {chunk.name for chunks in _known_chunks(folder).values() for chunk in chunks}
    for path in (*checkpoints(run), *(run / "checkpoints").glob(".step_*.old")):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)
    for path in (run / "checkpoints" / "chunks").glob("*.safetensors"):
        if path.name not in needed:
            path.unlink(missing_ok=True)


# --- reading ------------------------------------------------------------------------------------------------


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first; one that was not written to its end has another name."""
    named = [path for path in (run / "checkpoints").glob("step_*") if path.name[len("step_") :].isdecimal()]
    return sorted(named, key=_step)


def _step(folder: Path) -> int:
    return int(folder.name[len("step_") :])


def read_manifest(folder: Path) -> Manifest:
    """Raises UserError if it is damaged or of another format version."""

    def read() -> Manifest:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            by = manifest.get("about", {}).get("versions", {}).get("peerage", "an older version")
            raise UserError(
                f"{folder} was written in checkpoint format {str(manifest['format'])[:20]} by {by}, and this version "
                f"reads format {FORMAT}: use that version"
            )
        seal = manifest.pop("seal")
        if seal != _seal(manifest) or manifest["step"] != _step(folder):
            raise UserError(f"checkpoint {folder} is damaged: manifest.json does not match its checksum")
        chunks = {place: [Chunk(**chunk) for chunk in some] for place, some in manifest["chunks"].items()}
        for chunk in (c for some in chunks.values() for c in some):
            if not re.fullmatch(r"[a-z0-9_-]+\.safetensors", chunk.name):
                raise UserError(f"checkpoint {folder} names a chunk {chunk.name!r:.60}: it is not one of ours")
        return Manifest(manifest["step"], dict(manifest["about"]), dict(manifest["files"]), chunks)

    return _reading(folder, read)


def load(folder: Path, *, buffers: bool = True) -> dict[str, Any]:
    """The state in a checkpoint folder; without `buffers`, all but those. Raises UserError if it is damaged or of
    another format version."""

    def read() -> dict[str, Any]:
        manifest = read_manifest(folder)
        chunks = [c for some in manifest.chunks.values() for c in some] if buffers else []
        belongs = [*((folder, *item) for item in manifest.files.items() if item[0] in FILES)]
        belongs += [(folder.parent / "chunks", chunk.name, chunk.sha256) for chunk in chunks]
        if set(manifest.files) != set(FILES):
            raise UserError(f"checkpoint {folder} is damaged: its manifest names other files than {', '.join(FILES)}")
        for where, name, sha256 in belongs:
            if _sha256(where / name) != sha256:
                raise UserError(f"checkpoint {folder} is damaged: {name} does not match its checksum")
        tree = json.loads((folder / FILES[1]).read_text())
        # Copies: the file's own memory is aligned in another way, and sums over it have other last bits
        tensors = {key: tensor.clone() for key, tensor in load_file(folder / FILES[0]).items()}
        state = _unflatten(tree, tensors, manifest.chunks if buffers else None, folder.parent / "chunks")
        if not isinstance(state, dict):
            raise UserError(f"checkpoint {folder} does not hold a state")
        return state

    return _reading(folder, read)


def load_latest(run: Path, *, buffers: bool = True) -> tuple[Path, dict[str, Any], list[str]]:
    """The newest sound checkpoint of a run, its state, and a line for each damaged one that was passed over."""
    passed_over: list[str] = []
    for folder in reversed(checkpoints(run)):
        try:
            return folder, load(folder, buffers=buffers), passed_over
        except UserError as error:
            passed_over.append(str(error))
    why = passed_over[0] if passed_over else f"{run} has no checkpoint"
    raise UserError(f"{why}: train it anew")


def _reading(folder: Path, read: Callable[[], Any]) -> Any:
    """`read()`; a UserError for whatever a damaged file may lead to."""
    try:
        return read()
    except UserError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError, SafetensorError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"checkpoint {folder} cannot be read: {what}") from error


# --- trees of tensors ---------------------------------------------------------------------------------------


def _flatten(tree: Any, place: str, tensors: dict[str, torch.Tensor], buffers: dict[str, Entries]) -> Any:
    """Replace the tensors and buffers of a nested dict or list by `{"tensor": place}`, `{"buffer": place, ...}` and
    collect them."""
    if isinstance(tree, torch.Tensor):
        tensors[place] = tree.detach().contiguous().cpu()
        return {"tensor": place}
    if isinstance(tree, Entries):
        buffers[place] = tree
        return {"buffer": place, "start": tree.start, "stop": tree.stop}
    if isinstance(tree, dict):
        prefix = f"{place}/" if place else ""
        return {str(key): _flatten(value, f"{prefix}{key}", tensors, buffers) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_flatten(value, f"{place}/{i}", tensors, buffers) for i, value in enumerate(tree)]
    if isinstance(tree, np.ndarray | np.generic):  # an adviser's state, say
        return tree.tolist()
    return tree


def _unflatten(
    tree: Any, tensors: dict[str, torch.Tensor], chunks: dict[str, list[Chunk]] | None, folder: Path
) -> Any:
    """The inverse. Without `chunks` there is None in place of every buffer."""
    if isinstance(tree, dict):
        if tree.keys() == {"tensor"}:
            return tensors[tree["tensor"]]
        if tree.keys() == {"buffer", "start", "stop"}:
            return None if chunks is None else _entries(chunks[tree["buffer"]], tree["start"], tree["stop"], folder)
        return {key: _unflatten(value, tensors, chunks, folder) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_unflatten(value, tensors, chunks, folder) for value in tree]
    return tree


def _entries(chunks: list[Chunk], start: int, stop: int, folder: Path) -> Entries:
    """A buffer that lies in files; raises ValueError if they do not hold all of it."""
    cuts = [*(chunk.start for chunk in chunks), *(chunk.stop for chunk in chunks[-1:])]
    if stop > start and not (cuts and cuts[0] <= start and cuts[-1] == stop and cuts == sorted(set(cuts))):
        raise ValueError(f"chunks {cuts} for the entries {start} to {stop} of a buffer")

    def read(a: int, b: int) -> dict[str, torch.Tensor]:
        chunk = next(c for c in chunks if c.start <= a and b <= c.stop)
        found = load_file(folder / chunk.name)
        return {key: tensor[:, a - chunk.start : b - chunk.start] for key, tensor in found.items()}

    return Entries(start, stop, read, tuple(cut for cut in cuts if start < cut < stop))


# --- files --------------------------------------------------------------------------------------------------


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(manifest: Mapping[str, Any]) -> str:
    """The checksum of a manifest without its seal."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    """To the disk, that is; a folder too: its names are what it holds."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def dump(run: Path, name: str, state: dict[str, Any]) -> Path:
    """Write tensors for a person to look at, `<run>/dumps/<name>.safetensors`."""
    folder = run / "dumps"
    folder.mkdir(exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    _flatten(state, "", tensors, {})
    save_file({key: value.clone() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"
