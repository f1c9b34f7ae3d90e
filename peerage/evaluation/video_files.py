"""Files of videos, written frame by frame: GIF with Pillow, MP4 with ffmpeg (imageio-ffmpeg)."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Generator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from peerage.errors import UserError
from peerage.extras import optional
from peerage.runs import disk
from peerage.text import one_line


class VideoFile(ABC):
    """A video that is written under a temporary name, which `finish` replaces by `path`."""

    max_fps: float
    """The maximum frame rate."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, path.with_name(f"{path.name}.tmp")
        self.rate = self.max_fps
        """Frames per second; set it before the first frame."""
        self.frames = 0

    def add(self, picture: Any) -> None:
        """Append a frame, uint8 `[height, width, 3 or 4]`. Raises UserError if it is something else."""
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise UserError("the environment returned no image: it does not support render_mode rgb_array")
        self._add(np.ascontiguousarray(picture[..., :3], dtype=np.uint8))
        self.frames += 1

    def finish(self) -> None:
        """Complete the file, which needs at least one frame."""
        self._finish()
        os.replace(self.partial, self.path)

    def discard(self) -> None:
        """Remove what was written."""
        disk.remove(self.partial)

    @abstractmethod
    def _add(self, picture: np.ndarray) -> None: ...

    @abstractmethod
    def _finish(self) -> None: ...


class Gif(VideoFile):
    max_fps = 50
    """Viewers show a higher rate at a wrong speed: they round delays to hundredths of a second."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.pictures: list[Image.Image] = []

    def _add(self, picture: np.ndarray) -> None:
        self.pictures.append(Image.fromarray(picture).quantize())  # a byte for each pixel, as in the file

    def _finish(self) -> None:
        first, *rest = self.pictures
        delays = _delays(len(self.pictures), self.rate)
        first.save(self.partial, format="GIF", save_all=True, append_images=rest, duration=delays, loop=0)


def _delays(pictures: int, rate: float) -> list[int]:
    """The duration of each frame in ms. Durations in GIFs are multiples of 10 ms, so frames can have different
    durations to match `rate`, the frames per second."""
    ends = [10 * math.floor(100 * k / rate + 0.5) for k in range(pictures + 1)]
    return [stop - start for start, stop in pairwise(ends)]


class Mp4(VideoFile):
    """H.264, in the pixel format that all players and browsers show."""

    max_fps = 60

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.package = optional("imageio_ffmpeg", "video", "an MP4 file")
        self.shape: tuple[int, ...] = ()
        self.sink: Generator[None, Any, None] | None = None

    def _add(self, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # the format needs even sizes
        if self.sink is None:
            self.shape = picture.shape
            # bitexact: no names of versions, so that the same frames give the same file
            more = ["-f", "mp4", "-movflags", "+faststart", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
            self.sink = self.package.write_frames(
                str(self.partial), (picture.shape[1], picture.shape[0]), fps=self.rate, codec="libx264",
                macro_block_size=1, quality=7, output_params=more, ffmpeg_log_level="error",
            )  # fmt: skip
            self._call(None)
        if picture.shape != self.shape:
            raise UserError(f"the environment returned images of several sizes: {self.shape[:2]}, {picture.shape[:2]}")
        self._call(picture)

    def _call(self, picture: np.ndarray | None) -> None:
        assert self.sink is not None
        try:
            self.sink.send(picture)
        except (OSError, RuntimeError, StopIteration) as error:
            raise UserError(f"ffmpeg cannot write {self.path}: {one_line(error)[-300:]}") from error

    def _finish(self) -> None:
        assert self.sink is not None
        self.sink.close()
        if not self.partial.is_file() or not self.partial.stat().st_size:
            raise UserError(f"ffmpeg cannot write {self.path}: is the disk full?")

    def discard(self) -> None:
        if self.sink is not None:
            self.sink.close()
        super().discard()


KINDS: dict[str, type[VideoFile]] = {".gif": Gif, ".mp4": Mp4}


def video_file(path: Path) -> VideoFile:
    """The file for `path`, by its ending. Raises UserError for another ending, and if a package is missing."""
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise UserError(f"{path} must end in .gif or .mp4")
    return kind(path)
