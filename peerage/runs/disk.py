"""Reliable file operations: checksums, flushing to the disk, and safe removal."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

UMASK = os.umask(0)
os.umask(UMASK)  # the umask can only be read by setting it


def sha256(path: Path) -> str:
    """The SHA-256 checksum of a regular file, in hexadecimal. Raises OSError."""
    if not path.is_file():  # reading a pipe would block
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file or a folder (its entries) to the disk. Folders are skipped where the file system cannot do that."""
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
    """Remove a file, link, pipe or folder. Links are not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
