"""Images of Peerage's environments, drawn with NumPy. Colours are RGB, 0 to 255."""

from __future__ import annotations

import numpy as np

WALL, FLOOR, LINE = (58, 62, 72), (250, 249, 246), (226, 226, 222)
START, GOAL, AGENT = (196, 206, 220), (76, 175, 106), (38, 84, 160)


def grid_picture(
    size: tuple[int, int],
    start: tuple[int, int],
    goal: tuple[int, int],
    agent: tuple[int, int],
    pixels: int = 504,
) -> np.ndarray:
    """A grid of `size` (x, y) cells with walls around it: uint8 [height, width, 3], the longer side about `pixels`.

    x grows to the right and y upwards. Start: a pale square; goal: green; agent: a blue disc.
    """
    cell = max(4, pixels // max(size))
    border = min(cell // 2, 14)
    width, height = size[0] * cell, size[1] * cell
    floor = np.empty((height, width, 3), np.uint8)
    floor[:] = FLOOR
    floor[::cell] = LINE
    floor[:, ::cell] = LINE

    def corner(at: tuple[int, int]) -> tuple[int, int]:
        return (size[1] - 1 - at[1]) * cell, at[0] * cell

    for at, colour in ((start, START), (goal, GOAL)):
        top, left = corner(at)
        floor[top + 1 : top + cell, left + 1 : left + cell] = colour
    top, left = corner(agent)
    rows, columns = np.ogrid[:cell, :cell]
    middle = (cell - 1) / 2 + 0.5
    disc = (rows - middle) ** 2 + (columns - middle) ** 2 <= (0.36 * cell) ** 2
    floor[top : top + cell, left : left + cell][disc] = AGENT

    picture = np.empty((height + 2 * border, width + 2 * border, 3), np.uint8)
    picture[:] = WALL
    picture[border : border + height, border : border + width] = floor
    return picture


def bar(
    picture: np.ndarray,
    start: tuple[float, float],
    end: tuple[float, float],
    radius: float,
    colour: tuple[int, int, int],
) -> None:
    """Draw a round-ended bar from `start` to `end` (column, row in pixels) into `picture`, in place.

    Equal ends give a disc.
    """
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    dx, dy = end[0] - start[0], end[1] - start[1]
    # Position of the nearest point of the bar, as a share of its length.
    along = np.clip(((columns - start[0]) * dx + (rows - start[1]) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    distance = (columns - start[0] - along * dx) ** 2 + (rows - start[1] - along * dy) ** 2
    picture[distance <= radius**2] = colour
