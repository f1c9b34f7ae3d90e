"""Files that are on the disk when we say so, and that can be told from damaged ones."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

_UMASK = os.umask(0)
os.umask(_UMASK)  # there is no other way to look at it


def sha256(path: Path) -> str:
    """Of a file's bytes. Raises OSError."""
    if not path.is_file():  # a pipe would never end
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Raises OSError for what goes wrong on the disk; safetensors has an error of its own for it."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        text = " ".join(str(error).split())
        code = errno.ENOSPC if "No space left" in text else errno.EIO
        raise OSError(code, os.strerror(code) if code == errno.ENOSPC else text, str(path)) from error
    path.chmod(0o666 & ~_UMASK)  # as every other file of the run; safetensors makes them private


def sync(path: Path) -> None:
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


def remove(path: Path) -> None:
    """Whatever lies there: `rmtree` would wait for a pipe, and follows no link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
