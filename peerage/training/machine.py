"""What a training runs on: device, threads, and whatever else its last bits depend on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from peerage.config import Config
from peerage.errors import UserError
from peerage.runs.folder import cpu_model, versions


def pick_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one. Raises UserError for a device that this machine or torch has not."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name} is not to be had on this machine: use cpu or auto") from None
    return device


def device_name(device: torch.device) -> str:
    """For the record: `cpu` or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def pick_threads(config: Config) -> int:
    """CPU threads: one for small networks, whose layers end before a second thread is awake (docs/performance.md)."""
    if config.threads is not None:
        return config.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    widest = max((width for arch in config.learner.net_arch for width in arch), default=0)
    batch = max(config.learner.batch_size, default=0)
    transformer = config.advice.sharing == "advice" and config.advice.trust in ("transformer", "hybrid")
    return min(cores, 4) if transformer or widest * batch >= 128 * 128 else 1


def describe(device: torch.device, threads: int) -> dict[str, Any]:
    """What the bits of a training depend on besides its configuration."""
    return {"versions": versions(), "cpu": cpu_model(), "device": device_name(device), "threads": threads}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, as in `torch 2.12.0, now 2.13.0`; of two results of `describe`."""
    old, new = ({**x.get("versions", {}), **{k: v for k, v in x.items() if k != "versions"}} for x in (before, now))
    keys = [key for key in {**old, **new} if key not in ("python", "config")]
    return [f"{key} {old.get(key)}, now {new.get(key)}" for key in keys if old.get(key) != new.get(key)]
