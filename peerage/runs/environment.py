"""The versions, git commit and hardware that a run is trained with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

from peerage.processor import cpu_model
from peerage.version import __version__

PACKAGES = ("peerage", "torch", "numpy", "gymnasium", "mujoco", "box2d", "stable-baselines3")
"""Packages that results depend on."""


def describe_environment(env: str, device: str, products: str | None) -> dict[str, Any]:
    """The content of environment.json. `products`: as of `peerage.nets.native.row_products`."""
    return {
        "versions": versions(),
        "git": _git_commit(),
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count(), "device": device, "matrix_products": products},
        "platform": platform.platform(),
        "env": env,
    }


def versions() -> dict[str, str | None]:
    """The versions of Python and of the packages that results depend on; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    if found["peerage"] is None:  # a checkout that is not installed
        found["peerage"] = __version__
    return found


def _git_commit() -> dict[str, Any] | None:
    """The commit of the git checkout around the current directory, and whether tracked files are modified."""
    answers = []
    for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", *command], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return None
        if done.returncode != 0:
            return None
        answers.append(done.stdout.strip())
    return {"commit": answers[0], "modified": bool(answers[1])}
