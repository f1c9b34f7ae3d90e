"""Checkpoints: safetensors for tensors, JSON for the rest, a manifest with checksums. Nothing in them can run.

    checkpoints/
      step_000100000/   state.safetensors, state.json, manifest.json
      chunks/           what long buffers (`Entries`) took in between two checkpoints, shared by all of them

A checkpoint folder is written beside its place and renamed, so that a half-written one never has the name of a whole
one; its manifest has the checksum of everything that belongs to it, and its own.
"""

from __future__ import annotations

import contextlib
import errno
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
_UMASK = os.umask(0)
os.umask(_UMASK)  # there is no other way to look at it
LARGE = 1 << 26
"""Bytes of the largest chunk: no more is held in memory twice."""


class Damaged(UserError):
    """A checkpoint that is not what was written: another one may be used instead. (One that cannot be read just now, or
    that another version wrote, is a plain UserError: what is newer than what can be read is never passed over.)"""


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
    final, partial = _free_name(root, step), root / f".step_{step:09d}.partial"
    for left in (*root.glob(".step_*"), *chunks_folder.glob(".*")):  # by a process that was killed
        _remove(left)
    known = _known_chunks(after)
    tensors: dict[str, torch.Tensor] = {}
    buffers: dict[str, Entries] = {}
    tree = _flatten(state, "", tensors, buffers)
    try:
        chunks = {place: _write_chunks(chunks_folder, place, b, known.get(place, [])) for place, b in buffers.items()}
        partial.mkdir()
        _save_tensors(tensors, partial / FILES[0])
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
        os.rename(partial, final)
        _sync(root)
        _sync(run)
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
        _save_tensors({key: x.detach().contiguous().cpu() for key, x in buffer.read(a, b).items()}, partial)
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


def _free_name(root: Path, step: int) -> Path:
    """`step_000000100`, or with -2, -3, ... behind it: a run that ends where it was resumed saves that step again, and
    the one that is there stays until the new one is whole."""
    path, count = root / f"step_{step:09d}", 1
    while path.exists():
        count += 1
        path = root / f"step_{step:09d}-{count}"
    return path


def retire(folder: Path) -> None:
    """Put a damaged checkpoint out of the way, as `damaged_step_...`: the run goes on from an older one, and must not
    come back to it."""
    target, count = folder.with_name(f"damaged_{folder.name}"), 1
    while target.exists():
        count += 1
        target = folder.with_name(f"damaged_{folder.name}.{count}")
    os.rename(folder, target)
    _sync(folder.parent)


def _clean(run: Path, step: int, keep: int) -> None:
    """Remove checkpoints that are not among the newest `keep` up to `step`, and chunks that nobody needs then."""
    kept = [folder for folder in checkpoints(run) if step_of(folder) <= step][-keep:]
    for path in checkpoints(run):
        if path not in kept:
            with contextlib.suppress(OSError):
                _remove(path)
    try:
        manifests = [read_manifest(folder) for folder in kept]
    except UserError:  # until one knows what it needs, everything stays
        return
    needed = {chunk.name for manifest in manifests for chunks in manifest.chunks.values() for chunk in chunks}
    for path in (run / "checkpoints" / "chunks").glob("*.safetensors"):
        if path.name not in needed:
            path.unlink(missing_ok=True)


def _remove(path: Path) -> None:
    """Whatever lies there: `rmtree` would wait for a pipe, and follows no link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- reading ------------------------------------------------------------------------------------------------


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoint folders, oldest first; one that was not written to its end has another name."""
    named = [path for path in (run / "checkpoints").glob("step_*") if _NAME.fullmatch(path.name)]
    return sorted(named, key=_order)


_NAME = re.compile(r"step_([0-9]+)(?:-([0-9]+))?")


def _order(folder: Path) -> tuple[int, int]:
    found = _NAME.fullmatch(folder.name)
    if found is None:
        raise Damaged(f"{folder} is not a checkpoint: its name is not step_ and a number")
    return int(found[1]), int(found[2] or 1)


def step_of(folder: Path) -> int:
    """The step of a checkpoint, by the name of its folder."""
    return _order(folder)[0]


def read_manifest(folder: Path) -> Manifest:
    """Raises UserError if it is damaged or of another format version."""

    def read() -> Manifest:
        _sha256(folder / "manifest.json")  # is it a file at all?
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            by = manifest.get("about", {}).get("versions", {}).get("peerage", "of another version")
            raise UserError(
                f"{folder} was written in checkpoint format {str(manifest['format'])[:20]} by Peerage {str(by)[:20]}, "
                f"and this version reads format {FORMAT}: use that one"
            )
        seal = manifest.pop("seal")
        if seal != _seal(manifest) or manifest["step"] != step_of(folder):
            raise Damaged(f"checkpoint {folder} is damaged: manifest.json does not match its checksum")
        chunks = {place: [Chunk(**chunk) for chunk in some] for place, some in manifest["chunks"].items()}
        for chunk in (c for some in chunks.values() for c in some):
            if not re.fullmatch(r"[a-z0-9_-]+\.safetensors", chunk.name):
                raise Damaged(f"checkpoint {folder} names a chunk {chunk.name!r:.60}: it is not one of ours")
        about = dict(manifest["about"])
        if not isinstance(about.get("versions", {}), dict):
            raise Damaged(f"checkpoint {folder} is damaged: its manifest does not say what wrote it")
        return Manifest(manifest["step"], about, dict(manifest["files"]), chunks)

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
            raise Damaged(f"checkpoint {folder} is damaged: its manifest names other files than {', '.join(FILES)}")
        for where, name, sha256 in belongs:
            if _sha256(where / name) != sha256:
                raise Damaged(f"checkpoint {folder} is damaged: {name} does not match its checksum")
        tree = json.loads((folder / FILES[1]).read_text())
        # Copies: the file's own memory is aligned in another way, and sums over it have other last bits
        tensors = {key: tensor.clone() for key, tensor in load_file(folder / FILES[0]).items()}
        state = _unflatten(tree, tensors, manifest.chunks if buffers else None, folder.parent / "chunks")
        if not isinstance(state, dict):
            raise Damaged(f"checkpoint {folder} does not hold a state")
        return state

    return _reading(folder, read)


def load_latest(run: Path, *, buffers: bool = True) -> tuple[Path, dict[str, Any], dict[Path, str]]:
    """The newest sound checkpoint of a run, its state, and each damaged one that is newer, with a line about it.

    Raises UserError if there is none, or if one cannot be read for a reason that is not its own.
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
            break  # else the run goes on meanwhile, and what was there has been replaced
    if not damaged:
        raise UserError(f"{run} has no checkpoint")
    raise UserError(f"{run} has no sound checkpoint: {'; '.join(damaged.values())}")


def _reading(folder: Path, read: Callable[[], Any]) -> Any:
    """`read()`; a UserError for whatever a damaged file may lead to."""
    try:
        return read()
    except UserError:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise Damaged(f"checkpoint {folder} is damaged: {Path(error.filename or folder).name} is missing") from error
    except OSError as error:  # a disk that answers no more says nothing about what is on it
        raise UserError(f"checkpoint {folder} cannot be read now: {error.strerror or error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
        # RuntimeError: also torch's, for a file that is gone between its checksum and its reading
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise Damaged(f"checkpoint {folder} is damaged: {what}") from error


# --- trees of tensors ---------------------------------------------------------------------------------------


def _flatten(tree: Any, place: str, tensors: dict[str, torch.Tensor], buffers: dict[str, Entries]) -> Any:
    """Replace the tensors, arrays and buffers of a nested dict or list by `{"$tensor": place}` and the like, and
    collect them. A key that begins with $ gets another one, so that nothing looks like these by chance."""
    if isinstance(tree, torch.Tensor):
        tensors[place] = tree.detach().contiguous().cpu()
        return {"$tensor": place}
    if isinstance(tree, np.ndarray):  # of an adviser, say
        tensors[place] = torch.from_numpy(np.ascontiguousarray(tree))
        return {"$array": place}
    if isinstance(tree, Entries):
        buffers[place] = tree
        return {"$buffer": place, "start": tree.start, "stop": tree.stop}
    if isinstance(tree, dict):
        inside = {}
        for key, value in tree.items():
            name = str(key).replace("~", "~0").replace("/", "~1")
            where = f"{place}/{name}" if place else name
            inside["$" * str(key).startswith("$") + str(key)] = _flatten(value, where, tensors, buffers)
        return inside
    if isinstance(tree, list | tuple):
        return [_flatten(value, f"{place}/{i}", tensors, buffers) for i, value in enumerate(tree)]
    if isinstance(tree, np.generic):
        return tree.item()
    if tree is None or isinstance(tree, str | int | float):
        return tree
    kind = type(tree).__name__
    raise UserError(f"a checkpoint cannot hold {place}, a {kind}: use numbers, text, lists, dicts and arrays")


def _unflatten(tree: Any, tensors: dict[str, torch.Tensor], chunks: dict[str, list[Chunk]] | None, folder: Path) -> Any:
    """The inverse. Without `chunks` there is None in place of every buffer."""
    if isinstance(tree, dict):
        if "$tensor" in tree:
            return tensors[tree["$tensor"]]
        if "$array" in tree:
            return tensors[tree["$array"]].numpy()
        if "$buffer" in tree:
            return None if chunks is None else _entries(chunks[tree["$buffer"]], tree["start"], tree["stop"], folder)
        return {
            key[1:] if key.startswith("$$") else key: _unflatten(value, tensors, chunks, folder)
            for key, value in tree.items()
        }
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


VARIES = {"means", "pending", "episodes", "advisers", "offsets", "begun", "generators", "starts", "rngs", "actions",
          "features", "environments"}  # fmt: skip
"""Parts of a state whose shapes or keys depend on what happened; whoever loads them looks at them."""


def misfit(expected: Any, found: Any, place: str = "") -> str | None:
    """Where a state is of another shape than one that is known to be sound, in words; None if nowhere."""
    if place.rpartition("/")[2] in VARIES:
        return None
    if isinstance(expected, torch.Tensor):
        if not isinstance(found, torch.Tensor):
            return f"{place} is no tensor"
        if (expected.shape, expected.dtype) != (found.shape, found.dtype):
            return f"{place} is {list(found.shape)} of {found.dtype}, not {list(expected.shape)} of {expected.dtype}"
    elif isinstance(expected, Entries):
        if not isinstance(found, Entries) or not all(isinstance(n, int) for n in (found.start, found.stop)):
            return f"{place} is no buffer"
        if not 0 <= found.start <= found.stop:
            return f"{place} holds entries {found.start} to {found.stop}"
    elif isinstance(expected, dict):
        if not isinstance(found, dict) or expected.keys() != found.keys():
            return f"{place or 'the state'} has other entries"
        return next(filter(None, (misfit(v, found[k], f"{place}/{k}") for k, v in expected.items())), None)
    elif isinstance(expected, list | tuple):
        if not isinstance(found, list | tuple) or len(expected) != len(found):
            return f"{place} has another length"
        parts = enumerate(zip(expected, found))
        return next(filter(None, (misfit(x, y, f"{place}/{i}") for i, (x, y) in parts)), None)
    elif type(expected) is not type(found):
        return f"{place} is {type(found).__name__}, not {type(expected).__name__}"
    return None


# --- files --------------------------------------------------------------------------------------------------


def _sha256(path: Path) -> str:
    if not path.is_file():  # a pipe would never end
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(manifest: Mapping[str, Any]) -> str:
    """The checksum of a manifest without its seal."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Raises OSError for what goes wrong on the disk; safetensors has an error of its own for it."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        text = " ".join(str(error).split())
        code = errno.ENOSPC if "No space left" in text else errno.EIO
        raise OSError(code, os.strerror(code) if code == errno.ENOSPC else text, str(path)) from error
    path.chmod(0o666 & ~_UMASK)  # as every other file of the run; safetensors makes them private


def _sync(path: Path) -> None:
    """To the disk, that is. A folder too, since its names are what it holds; not every file system can do that."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    number = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(number)
    except OSError as error:
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(number)


def dump(run: Path, name: str, state: dict[str, Any]) -> Path:
    """Write tensors for a person to look at, `<run>/dumps/<name>.safetensors`."""
    folder = run / "dumps"
    folder.mkdir(exist_ok=True)
    tensors: dict[str, torch.Tensor] = {}
    _flatten(state, "", tensors, {})
    _save_tensors({key: value.clone() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"
