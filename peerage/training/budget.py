"""Estimates the memory and disk space that a run needs before it starts, and rejects runs that do not fit.

The trainer is built first. This is cheap, because the pages of replay buffers and histories are not allocated until
they are written. Then all tensors and arrays of the trainer are counted, each storage once. Two quantities are
estimated: the temporary memory of a step (batches and activations) and the disk space.

`OTHER` covers the memory that Python, torch and the report's figures use during the run. It can cause a warning, but
never an error. Every environment is counted with the size of the smallest ones. Measured: 4 to 5 KB each for Room,
CartPole and Pendulum, 0.1 MB for LunarLander, 1.2 MB for Hopper, Ant and Humanoid. An evaluation uses
`n_eval_episodes` environments per member.
"""

from __future__ import annotations

import math
import shutil
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from peerage.envs.vector import EnvGroup
from peerage.errors import UserError
from peerage.learners.group import Group
from peerage.learners.recent import RecentTransitions
from peerage.learners.replay import Replay
from peerage.learners.streams import Streams
from peerage.nets.cnn import StackedCNN
from peerage.nets.stacked import StackedMLP
from peerage.offline.trajectories import Trajectories
from peerage.offline.windows import Windows
from peerage.runs.chunks import LARGE, SMALL
from peerage.training.machine import available_memory
from peerage.trust.attention import AttentionTrust, History
from peerage.trust.decisions import Decisions
from peerage.trust.suggestions import SuggestionTrust

if TYPE_CHECKING:
    from peerage.training.trainer import Trainer

OTHER = 200_000_000
"""Bytes by which the process of a run grows beyond its budget. Measured: 30 to 120 MB in training, 70 MB for
figures."""
TIGHT = 0.8
"""Share of the free memory or disk space above which a warning is given."""

# The part that an object is counted in. Objects of other types are counted in the part of the object that holds them.
KINDS: tuple[tuple[type, str], ...] = (
    (Replay, "replay"),
    (RecentTransitions, "recent transitions"),
    (History, "histories"),
    (Decisions, "decisions"),
    (SuggestionTrust, "suggestions"),
    (AttentionTrust, "trust networks"),
    (Streams, "random streams"),
    (StackedMLP, "networks"),
    (StackedCNN, "networks"),
    (Group, "networks"),
    (EnvGroup, "environments"),
    (Trajectories, "data"),
    (Windows, "data"),
)
SETTINGS = {
    "data": "a smaller --data-fraction",
    "replay": "a smaller --buffer-size",
    "networks": "a smaller --net-arch",
    "rollouts": "a smaller --n-steps",
    "histories": "a smaller --attention-history",
    "decisions": "a smaller --context-history",
    "suggestions": "a smaller --trust-buffer-size",
    "recent transitions": "a smaller --trust-buffer-size",
    "batches": "a smaller --batch-size",
    "trust batches": "a smaller --attention-batch-size",
    "in-context batches": "a smaller --context-batch-size",
    "random streams": "a smaller --batch-size",
    "checkpoints": "fewer --keep-checkpoints",
    "environments": "fewer --n-eval-episodes",
    "evaluations": "fewer --n-eval-episodes",
    "metrics": "a larger --log-freq",
}
"""The change of the settings that makes a part smaller. Other parts shrink only with fewer members."""
SHORT = {"histories": "trust", "decisions": "trust", "suggestions": "trust", "trust networks": "trust",
         "trust batches": "batches", "in-context batches": "batches"}  # fmt: skip
"""Names of parts in the summary; parts with the same name are added up."""

# Measured: copies of a chunk while it is written; number of metrics per member; bytes of a row of each table, of a
# generator's state in JSON, and of the smallest environment.
COPIES = 1
METRICS, METRIC_BYTES, ADVICE_BYTES, EVALUATION_BYTES = 14, 45, 130, 45
GENERATOR_BYTES, ENVIRONMENT_BYTES = 300, 4000


@dataclass(frozen=True)
class Budget:
    """Bytes by part; empty parts are left out."""

    memory: dict[str, int]
    disk: dict[str, int]
    gpu: dict[str, int] = field(default_factory=dict)
    """Bytes on a GPU, which are not in `memory`."""
    written: int = 0
    """Bytes of `memory` that the built trainer already uses."""
    written_gpu: int = 0
    """Bytes of `gpu` that the built trainer already uses."""
    fewer: str = ""
    """The flag that makes all parts smaller; empty with one member."""

    def text(self) -> str:
        """A summary: `memory: 432 MB (replay 410 MB, networks 14 MB, trust 8 MB); disk: 450 MB`."""
        lines = [f"memory: {_with_parts(self.memory)}"]
        if self.gpu:
            lines.append(f"GPU: {_with_parts(self.gpu)}")
        return "; ".join([*lines, f"disk: {_size(sum(self.disk.values()))}"])


def estimate(trainer: Trainer, keep_checkpoints: int) -> Budget:
    """The budget of a run, from its trainer, which is built but not started, and the number of checkpoints to keep."""
    things = list(_walk(trainer))
    on: dict[str, dict[str, int]] = {"cpu": {}, "cuda": {}}
    saved: dict[str, int] = {}
    for part, device, size, in_state in _storages(things):
        _add(on[device], part, size)
        if in_state:
            _add(saved, part, size)
    written = {device: _sum(parts, "networks", "trust networks") for device, parts in on.items()}
    disk, chunk = _chunks(trainer, things, saved, keep_checkpoints)
    generators = sum(len(x.generators) for x, *_ in things if isinstance(x, Streams)) + 2 * trainer.group.M
    state = sum(size for part, size in saved.items() if part not in disk) + GENERATOR_BYTES * generators
    # A new checkpoint is written before the oldest one is removed
    disk["checkpoints"] = (keep_checkpoints + 1) * (state + 65_536)
    disk |= _tables(trainer)
    if trainer.config.run.eval_freq:
        run = trainer.config.run
        evaluated = run.n_eval_episodes + ("together" in run.eval_modes)  # for each member
        _add(on["cpu"], "environments", trainer.group.M * evaluated * ENVIRONMENT_BYTES)
    # Only one of the temporary allocations exists at a time: count the largest
    passing = {"cpu": {"a checkpoint's copy": max(state, COPIES * chunk)}, "cuda": {}}
    passing[trainer.device.type] |= _batches(trainer)
    for device, parts in passing.items():
        if parts:
            largest = max(parts, key=lambda name: parts[name])
            on[device][largest] = parts[largest]
    fewer = "--replicas" if trainer.R > 1 else "--n-peers" if trainer.N > 1 else ""
    return Budget(on["cpu"], disk, on["cuda"], written["cpu"], written["cuda"], fewer)


def check(
    budget: Budget, log_dir: Path, *, memory: int | None = None, disk: int | None = None, gpu: int | None = None
) -> list[str]:
    """Check that the run fits into memory and onto the disk of `log_dir`: the parent folder of runs or, when a run is
    resumed, the run folder. Returns one warning for each resource that is nearly exhausted.

    `memory`, `disk` and `gpu` are the available bytes; by default they are measured. Raises UserError, which names the
    setting to change, if the run cannot fit.
    """
    memory = available_memory() if memory is None else memory
    if gpu is None and budget.gpu and torch.cuda.is_available():
        gpu = torch.cuda.mem_get_info()[0]
    existing, resumes = _nearest(log_dir), (log_dir / "config.yaml").is_file()
    if disk is None:
        disk = shutil.disk_usage(existing).free
        if resumes:  # its files are part of the estimate
            disk += sum(path.stat().st_size for path in log_dir.rglob("*") if path.is_file())
    lines = []
    for what, parts, done, other, room in (
        ("memory", budget.memory, budget.written, OTHER, memory),
        ("memory of the GPU", budget.gpu, budget.written_gpu, 0, gpu),
        (f"disk space in {existing}", budget.disk, 0, 0, disk),
    ):
        need = sum(parts.values()) - done
        if room is not None and need > room:
            much = f"{_size(sum(parts.values()))} of {what}, and {_size(room)} are free"
            change = f"use {_advice(parts, need - room, budget.fewer)}"
            raise UserError(f"this run needs {much}: {'free some space to resume it' if resumes else change}")
        if room is not None and parts and need + other > TIGHT * room:
            lines.append(f"low {what}: this run needs {_size(need)}, and {_size(room)} are free")
    return lines


# --- counting -----------------------------------------------------------------------------------------------


Found = tuple[Any, str, bool]  # an object, the part it belongs to, whether it is in a checkpoint


def _walk(root: Any) -> Iterator[Found]:
    """All objects that can be reached from `root`, each once."""
    seen: dict[int, Any] = {}  # keeps the objects alive, so that no id is reused
    todo: list[Found] = [(root, "other", True)]
    while todo:
        thing, part, in_state = todo.pop()
        if id(thing) in seen or isinstance(thing, LEAVES):
            continue
        seen[id(thing)] = thing
        part = _part_of(thing) or part
        in_state = in_state and part not in ("random streams", "data")
        yield thing, part, in_state
        if isinstance(thing, Mapping):
            todo += [(x, part, in_state) for x in thing.values()]
        elif isinstance(thing, list | tuple | set | frozenset | deque):
            todo += [(x, part, in_state) for x in thing]
        elif not isinstance(thing, Tensor | np.ndarray):
            inside = _attributes(thing)
            gradients = [inside.pop("grad")] if "grad" in inside and "flat" in inside else []
            # `todo` is a stack: gradients are visited first, because other objects refer to them as well. They are
            # not part of a checkpoint.
            todo += [(x, part, in_state) for x in inside.values()] + [(x, part, False) for x in gradients]


def _part_of(thing: Any) -> str | None:
    """The part that an object is counted in, from its class; None if the class determines none."""
    declared: str | None = getattr(type(thing), "budget_part", None)
    return declared or next((name for kind, name in KINDS if isinstance(thing, kind)), None)


def _storages(things: list[Found]) -> Iterator[tuple[str, str, int, bool]]:
    """(part, cpu or cuda, bytes, whether it is in a checkpoint) of the memory of all tensors and arrays, each storage
    once."""
    counted: set[tuple[str, int]] = set()
    for thing, part, in_state in things:
        if isinstance(thing, Tensor | np.ndarray):
            device, address, size = _memory(thing)
            if (device, address) not in counted and size:
                counted.add((device, address))
                yield part, device, size, in_state
        elif isinstance(thing, Streams) and thing.tensor is None:  # allocated with the first block of numbers
            yield part, torch.device(thing.device).type, thing.buffer.nbytes, False


LEAVES = (
    str, bytes, int, float, complex, type(None), type, ModuleType, FunctionType, MethodType, BuiltinFunctionType,
    torch.device, torch.dtype, np.generic, np.random.Generator, gymnasium.Space,
)  # fmt: skip


def _memory(x: Tensor | np.ndarray) -> tuple[str, int, int]:
    """Device, address and bytes of the memory behind a tensor or array."""
    if isinstance(x, np.ndarray):
        while isinstance(x.base, np.ndarray):
            x = x.base
        if not isinstance(x.base, Tensor):
            return "cpu", x.__array_interface__["data"][0], x.nbytes
        x = x.base
    storage = x.untyped_storage()
    return x.device.type, storage.data_ptr(), storage.nbytes()


def _attributes(thing: Any) -> dict[str, Any]:
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()) if isinstance(name, str)]
    return {**{name: getattr(thing, name, None) for name in slots}, **getattr(thing, "__dict__", {})}


def _batches(trainer: Trainer) -> dict[str, int]:
    """Bytes of temporary memory of each kind of gradient step."""
    width, parts = trainer.group.dtype.itemsize, {"batches": 0}
    for stack in trainer.group.stacks:
        parts["batches"] = max(parts["batches"], stack.learner.batch_floats() * width)
    for signal in trainer.sharing.signals.values():
        parts |= {name: floats * width for name, floats in signal.batch_floats(trainer.threads).items()}
    return parts


def _chunks(trainer: Trainer, things: list[Found], saved: Mapping[str, int], keep: int) -> tuple[dict[str, int], int]:
    """Bytes of buffers on disk, by part: the chunks of the oldest checkpoint and all later ones. Also the bytes of the
    largest chunk."""
    total, freq = trainer.steps, trainer.config.run.checkpoint_freq
    capacities: dict[str, list[int]] = {}
    for thing, part, _ in things:
        if isinstance(thing, Replay | RecentTransitions | History) and part != "data":
            capacities.setdefault(part, []).append(thing.capacity)
    disk, largest = {}, 0
    for part, sizes in capacities.items():
        capacity, size = max(sizes), saved[part]
        interval = min(freq or total, capacity)  # steps
        rows = min(total, capacity + (keep + 1) * interval)
        content = math.ceil(size * rows / capacity)
        # The next checkpoint writes a small chunk again, merged with the newer entries
        disk[part] = min(content + (keep + 1) * len(sizes) * SMALL, (keep + 1) * content)
        largest = max(largest, min(LARGE, math.ceil(size * interval / capacity)))
    return disk, largest


def _tables(trainer: Trainer) -> dict[str, int]:
    """Bytes of the CSV files at the end of the run."""
    run, members, advisers = trainer.config.run, trainer.group.M, len(trainer.names)
    logs = trainer.steps // run.log_freq + 1
    evaluations = trainer.steps // run.eval_freq + 2 if run.eval_freq else 0
    return {
        "metrics": logs * members * (METRICS * METRIC_BYTES + advisers * ADVICE_BYTES),
        "evaluations": evaluations * members * run.n_eval_episodes * len(run.eval_modes) * EVALUATION_BYTES,
    }


def _nearest(folder: Path) -> Path:
    """The folder itself, or its nearest existing parent."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


# --- limit while building -----------------------------------------------------------------------------------


class _AllocationLimit(TorchFunctionMode):
    """Raises MemoryError before tensors filled with a constant exceed `room` bytes of CPU memory. Filling allocates
    the pages at once, so the system could kill the process before the budget is checked. Uninitialised tensors do not
    have this problem. (A mode of the dispatcher would import torch._dynamo, which takes a second.)"""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("zeros", "ones", "full", "zeros_like", "ones_like", "full_like"):
            like = args[0]
            count = like.numel() if isinstance(like, Tensor) else _count(args)
            device = (kwargs or {}).get("device") or (like.device if isinstance(like, Tensor) else "cpu")
            if torch.device(device).type == "cpu":
                self.room -= 4 * count
            if self.room < 0:
                raise MemoryError(f"{_size(4 * count)} more are not available")
        return func(*args, **(kwargs or {}))


def _count(args: Sequence[Any]) -> int:
    """The elements of a tensor whose shape is the first of `args`, or all of them: `zeros((2, 3))`, `zeros(2, 3)`."""
    return math.prod(args[0] if args and not isinstance(args[0], int) else args)


@contextmanager
def guard(fewer: str = "--replicas or --n-peers", memory: int | None = None) -> Iterator[None]:
    """Context in which a trainer is built: turns errors of memory and of numeric overflow into a one-line UserError
    that names the setting to change. `memory`: the available bytes; by default they are measured."""
    room = available_memory() if memory is None else memory
    try:
        if room is None:
            yield
        else:
            with _AllocationLimit(room):
                yield
    except (MemoryError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        what = " ".join(str(error).split())
        if not isinstance(error, MemoryError | OverflowError) and not any(word in what.lower() for word in TOO_MUCH):
            raise
        owners = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
        parts = [name for owner in owners if (name := _part_of(owner)) is not None]  # innermost last
        setting = SETTINGS.get(parts[-1], "") if parts else ""
        if parts[-1:] == ["random streams"]:  # the setting depends on the user of the streams
            setting = BATCHES.get(parts[-2] if len(parts) > 1 else "", setting)
        either = f"{setting}, or " if setting else ""
        raise UserError(f"this group does not fit into memory: use {either}fewer {fewer}") from error


BATCHES = {"suggestions": "a smaller --trust-batch-size", "trust networks": "a smaller --attention-batch-size"}
TOO_MUCH = ("allocate memory", "out of memory", "overflow", "too big", "too large", "maximum allowed dimension")


# --- texts --------------------------------------------------------------------------------------------------


def _advice(parts: Mapping[str, int], excess: int, fewer: str) -> str:
    """The settings to change: those of the largest parts, until the parts add up to `excess` bytes."""
    settings: list[str] = []
    for part, size in sorted(parts.items(), key=lambda item: -item[1]):
        if excess > 0 and part in SETTINGS:
            settings.append(SETTINGS[part])
            excess -= size
    changes = [" and ".join(dict.fromkeys(settings)), f"fewer {fewer}" if fewer else ""]
    return " or ".join(change for change in changes if change) or "a larger machine"


def _with_parts(parts: Mapping[str, int]) -> str:
    """The sum and its parts, largest first, without parts below 1% of the sum."""
    total, merged = sum(parts.values()), dict[str, int]()
    for part, size in parts.items():
        _add(merged, SHORT.get(part, part), size)
    named = sorted((item for item in merged.items() if item[1] * 100 >= total), key=lambda item: -item[1])
    return f"{_size(total)} ({', '.join(f'{part} {_size(size)}' for part, size in named)})"


def _size(size: int) -> str:
    """Bytes in words, with two or three digits: `950 KB`, `4.2 GB`."""
    value, unit = float(max(size, 0)), "B"
    for unit in ("B", "KB", "MB", "GB", "TB", "PB"):
        if value < 1000 or unit == "PB":
            break
        value /= 1000
    return f"{value:.1f} {unit}" if value < 9.95 and unit not in ("B", "KB") else f"{value:,.0f} {unit}"


def _add(parts: dict[str, int], part: str, size: int) -> None:
    parts[part] = parts.get(part, 0) + size


def _sum(parts: Mapping[str, int], *names: str) -> int:
    return sum(parts.get(name, 0) for name in names)
