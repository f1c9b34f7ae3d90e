"""The machine that a training runs on: device, threads, library versions and available memory."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from peerage.config import Config
from peerage.config.methods import LEARNERS, TRUST
from peerage.errors import UserError
from peerage.nets.native import row_products
from peerage.processor import cpu_model
from peerage.runs.environment import versions


def pick_device(name: str) -> torch.device:
    """The device called `name`; `auto` selects a GPU if there is one. Raises UserError for an unavailable device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name} is not available on this machine: use cpu or auto") from None
    return device


def device_name(device: torch.device) -> str:
    """`cpu`, or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def pick_threads(config: Config) -> int:
    """Number of CPU threads. Small networks use one, because starting a second thread takes longer than computing a
    layer (docs/performance.md)."""
    if config.threads is not None:
        return config.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    widest = max((width for arch in config.learner.net_arch for width in arch), default=0)
    batch = max(config.learner.batch_size, default=0)
    trust = config.advice.trust if config.advice.sharing != "none" else None
    threaded = trust is not None and TRUST[trust].uses_threads
    threaded |= any(name in LEARNERS and LEARNERS[name].net is not None for name in config.learner.algorithm)
    return min(cores, 4) if threaded or widest * batch >= 128 * 128 else 1


def describe(device: torch.device, threads: int) -> dict[str, Any]:
    """Properties of the machine that can change the exact results of a training."""
    return {
        "versions": versions(),
        "cpu": cpu_model(),
        "device": device_name(device),
        "threads": threads,
        "matrix_products": row_products(),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two results of `describe`, as in `torch 2.12.0, now 2.13.0`."""
    # Earlier versions used oneDNN and did not record it
    before = {**before, "matrix_products": before.get("matrix_products", "oneDNN")}
    old, new = ({**x.get("versions", {}), **{k: v for k, v in x.items() if k != "versions"}} for x in (before, now))
    keys = [key for key in {**old, **new} if key not in ("python", "config", "best")]
    return [f"{key} {old.get(key)}, now {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


# --- memory -------------------------------------------------------------------------------------------------


TRIM_MEMBER_STEPS = 6000
"""Member-steps after which freed memory is returned to the system. Until then, the heap of a group of 24 DQN members
grows by about 10 MB (measured)."""


def give_memory_back() -> None:
    """Return freed memory to the system, if the C library supports it. Takes one to three milliseconds.

    Without this, the heap grows although the memory in use does not: glibc rarely reuses a freed aligned block, and all
    blocks of torch are aligned; blocks that remain allocated, as in the leaks of some environments, prevent merging of
    free blocks.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def trim_interval(members: int, log_freq: int) -> int:
    """The number of steps between two calls of `give_memory_back` for a run with this number of members in all
    replicas: `log_freq`, and fewer in large groups."""
    return max(1, min(log_freq, TRIM_MEMBER_STEPS // members))


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still allocate: the minimum of the machine's free memory, the limits of its control
    group and of the groups above it (version 1 and 2), and the limit of its address space. None if all are unknown.

    `root` is the folder that contains proc and sys.
    """
    found = [_meminfo(root), *_control_groups(root), _address_space(root)]
    known = [size for size in found if size is not None]
    if not known:
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError, AttributeError):
            return None
    return max(0, min(known))


def _meminfo(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _control_groups(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        base = root / "sys/fs/cgroup" / kinds
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if kinds else ("memory.max", "memory.current")
        inner = base / path.strip("/")
        for folder in (inner, *inner.parents):
            limit, usage = (_read(folder / name).strip() for name in names)
            if limit.isdecimal() and usage.isdecimal():
                # Cached files count as used, but the kernel drops them when memory is short
                files = [s.split()[1] for s in _read(folder / "memory.stat").splitlines() if "inactive_file" in s]
                yield int(limit) - int(usage) + max(map(int, files), default=0)
            if folder == base:
                break


def _address_space(root: Path) -> int | None:
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    used = _read(root / "proc/self/statm").split()
    if limit == resource.RLIM_INFINITY or not used:
        return None
    return limit - int(used[0]) * resource.getpagesize()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeError):
        return ""
