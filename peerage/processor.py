"""The processor of this machine."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def cpu_model() -> str:
    """The name of the processor."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@cache
def cpu_vendor() -> str:
    """`Intel`, `AMD`, or `other`."""
    name = _cpuinfo("vendor_id") or platform.processor()  # such as `Intel64 Family 6 Model 85, GenuineIntel` on Windows
    known = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}
    return next((vendor for word, vendor in known.items() if word in name), "other")


def _cpuinfo(field: str) -> str:
    """The first value of `field` in `CPUINFO`; empty if there is none."""
    try:
        with CPUINFO.open(encoding="utf-8") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == field:
                    return value.strip()
    except OSError:
        pass
    return ""
