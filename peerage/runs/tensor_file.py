"""Writes tensors. Separate from `peerage.runs.disk`, which does not import torch."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from peerage.runs import disk


def save_tensors(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Raises OSError instead of the error of safetensors."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        text = " ".join(str(error).split())
        code = errno.ENOSPC if "No space left" in text else errno.EIO
        raise OSError(code, os.strerror(code) if code == errno.ENOSPC else text, str(path)) from error
    path.chmod(0o666 & ~disk.UMASK)  # the mode of a normal file; safetensors creates private ones
