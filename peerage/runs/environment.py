"""The versions, git commit and hardware that a run is trained with, and its environment."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from peerage.processor import cpu_model
from peerage.text import count, number, one_line
from peerage.version import __version__

PACKAGES = ("peerage", "torch", "numpy", "gymnasium", "mujoco", "box2d", "stable-baselines3")
"""Packages that results depend on."""


SIMULATORS = ("gymnasium", "mujoco", "box2d", "numpy")
"""Packages whose versions determine the steps of many environments. A fingerprint has those of the packages that define
the environment itself."""
DECISIVE = ("id", "arguments", "wrappers", "max_episode_steps", "observations", "actions")
"""Entries of a fingerprint (`peerage.envs.trial`) that must be equal."""


def describe_environment(
    env: str, device: str, products: str | None, fingerprint: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of environment.json. `products`: as of `peerage.nets.native.row_products`; `fingerprint`: of
    `peerage.envs.make.Spec`."""
    return {
        "versions": versions(),
        "git": _git_commit(),
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count(), "device": device, "matrix_products": products},
        "platform": platform.platform(),
        "env": env,
        "fingerprint": dict(fingerprint),
    }


def other_environment(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the environments of two environment.json differ, in words; empty if they do not, or if one is unknown.

    Other versions of the simulators, or of the packages that define the environment, explain other numbers in the first
    steps, so these are not compared then.
    """
    old, new = before.get("versions"), now.get("versions")
    alike = False
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        alike = all(old.get(package) == new.get(package) for package in SIMULATORS)
    one, other = before.get("fingerprint"), now.get("fingerprint")
    if isinstance(one, Mapping) and isinstance(other, Mapping) and "packages" in one and "packages" in other:
        alike = alike and one["packages"] == other["packages"]  # earlier versions did not record them
    return difference(one, other, steps=alike)


def difference(before: Any, now: Any, *, steps: bool = True) -> str:
    """How the fingerprint `now` differs from `before`, in words; empty if it does not, or if one of them is missing.

    `steps=False` does not compare the first steps, which depend on the versions of the simulators. They may differ by
    the rounding of another machine.
    """
    if not (isinstance(before, Mapping) and isinstance(now, Mapping) and before and now):
        return ""
    for name in DECISIVE:
        if name in before and name in now and before[name] != now[name]:
            one, other = (_as_text(name, found[name]) for found in (before, now))
            return f"{name.replace('_', ' ')}: {one} before, {other} now"
    return _steps_difference(before.get("steps"), now.get("steps")) if steps else ""


def _steps_difference(before: Any, now: Any) -> str:
    try:
        old, new = ([[float(x) for x in row] for row in steps] for steps in (before, now))
    except (TypeError, ValueError, OverflowError):  # unknown, or the file was edited
        return ""
    for k, (a, b) in enumerate(zip(old, new)):
        for what, x, y in zip(("reward", "observation", "end of the episode"), a, b):
            if not math.isclose(x, y, rel_tol=1e-3, abs_tol=1e-5):
                numbers = f" ({x:g} before, {y:g} now)" if what == "reward" else ""
                return f"another {what} {f'in step {k}' if k else 'after the reset'} with the same seed{numbers}"
    return "" if len(old) == len(new) else "episodes of another length with the same seed"


def _as_text(name: str, value: Any) -> str:
    text = " > ".join(map(str, value)) if name == "wrappers" and isinstance(value, list) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def data_in_words(data: Mapping[str, Any]) -> str:
    """The data of an offline training as a line, such as `mine, 2 of 20 episodes (10% of the steps), returns -900 to
    -877; random`. `data`: that of environment.json. Earlier versions did not record the size of the whole dataset.
    Empty if there is no data, or if the file was edited."""
    try:
        episodes, steps, returns = int(data["episodes"]), int(data["steps"]), [float(x) for x in data["returns"]]
        of, of_steps = int(data.get("all_episodes") or episodes), int(data.get("all_steps") or steps)
        size = f"{count(episodes, 'episode')} ({count(steps, 'step')})"
        if episodes < of:
            size = f"{episodes:,} of {count(of, 'episode')} ({100 * steps / of_steps:.2g}% of the steps)"
        low, high = number(returns[0]), number(returns[-1])
        line = f"{data['name']}, {size}, {f'returns {low} to {high}' if low != high else f'return {low}'}"
        return one_line(f"{line}; {data['provenance']}" if data.get("provenance") else line)
    except (LookupError, TypeError, ValueError, OverflowError, ZeroDivisionError):
        return ""


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
