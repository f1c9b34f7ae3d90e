"""Images of Peerage's environments, drawn with NumPy. Colours are RGB, 0 to 255."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WALL, FLOOR, LINE = (58, 62, 72), (250, 249, 246), (226, 226, 222)
START, GOAL, AGENT = (196, 206, 220), (76, 175, 106), (38, 84, 160)
POLE = (205, 92, 58)
POSITIVE, NEGATIVE = AGENT, POLE


def grid_picture(
    size: tuple[int, int],
    start: tuple[int, int],
    goal: tuple[int, int],
    agent: tuple[int, int],
    pixels: int = 504,
    walls: Sequence[tuple[int, int]] = (),
) -> np.ndarray:
    """A grid of `size` (x, y) cells with walls around it: uint8 [height, width, 3], the longer side about `pixels`.

    x grows to the right and y upwards. Start: a pale square; goal: green; agent: a blue disc; `walls`: dark cells.
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

    for at in walls:
        top, left = corner(at)
        floor[top : top + cell, left : left + cell] = WALL
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


def cells_picture(values: np.ndarray, marks: np.ndarray, now: int | None = None, pixels: int = 504) -> np.ndarray:
    """A row of cells with `values [n]` in [-1, 1] and `marks [n, k]`: uint8 [height, width, 3].

    A value is blue if it is positive and red if it is negative, more saturated the larger it is. Below each cell are
    its k marks: dark squares where they are 1. The cell `now` has a frame, and those after it are empty.
    """
    n, k = marks.shape
    cell = max(12, pixels // n)
    small = max(6, cell // 4)
    picture = np.empty((cell + k * small + 2 * small, n * cell, 3), np.uint8)
    picture[:] = FLOOR
    for i in range(n if now is None else now + 1):
        left, share = i * cell, min(1.0, abs(float(values[i])))
        full = np.array(POSITIVE if values[i] > 0 else NEGATIVE)
        if i == now:
            picture[small - 4 : small + cell + k * small + 2, left : left + cell] = GOAL
            picture[small - 1 : small + cell + k * small - 1, left + 3 : left + cell - 3] = FLOOR
        picture[small + 4 : small + cell - 4, left + 6 : left + cell - 6] = share * full + (1 - share) * np.array(LINE)
        for j in np.flatnonzero(marks[i]):
            top, middle = small + cell + j * small, left + cell // 2
            picture[top : top + small - 2, middle - small : middle + small] = WALL
    return picture


def cartpole_picture(position: float, angle: float, width: int = 600) -> np.ndarray:
    """The cart and pole of CartPole: uint8 [300, width, 3]. `position` in m, 0 in the middle and the edges at 2.4;
    `angle` of the pole in rad, 0 upright and positive to the right."""
    ground, scale = 220, width / 4.8
    picture = np.empty((300, width, 3), np.uint8)
    picture[:] = FLOOR
    picture[ground + 12 : ground + 15] = WALL
    cart = width / 2 + position * scale
    tip = cart + np.sin(angle) * scale, ground - np.cos(angle) * scale
    bar(picture, (cart - 24, ground), (cart + 24, ground), 11, WALL)
    bar(picture, (cart, ground), tip, 5, POLE)
    bar(picture, (cart, ground), (cart, ground), 3, FLOOR)
    return picture
