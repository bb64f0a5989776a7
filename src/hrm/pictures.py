"""Pictures of answers as PNG files. Needs Pillow (`pip install 'hrm-torch[plot]'`)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .display import ARC_COLOURS
from .tasks.maze import FREE, GOAL, NONE, PATH, START, WALL, Maze

SIDE = 16
"""Pixels of a cell."""
COLOURS = {WALL: "#30343b", FREE: "#f7f7f4", START: "#1f9d55", GOAL: "#c0392b", PATH: "#7cc4f0", NONE: "#ffffff"}


def save_maze(path: Path, task: Maze, given: np.ndarray, answer: np.ndarray) -> None:
    """Draw a maze (S,) with its answer (S,): S green, G red, the path blue; a changed given is crossed out."""
    image, draw = canvas(path, task.columns * SIDE + 1, task.rows * SIDE + 1, "#c9ccd1")
    for k, (was, is_) in enumerate(zip(given.tolist(), answer.tolist(), strict=True)):
        x, y = k % task.columns * SIDE, k // task.columns * SIDE
        box = (x + 1, y + 1, x + SIDE - 1, y + SIDE - 1)
        draw.rectangle(box, COLOURS[is_])
        if is_ in (START, GOAL):
            draw.text((x + SIDE / 2, y + SIDE / 2), "SG"[is_ == GOAL], "white", anchor="mm")
        if was != is_ and (was, is_) != (FREE, PATH):
            draw.line((box[0], box[1], box[2], box[3]), "#c0392b", 2)
            draw.line((box[0], box[3], box[2], box[1]), "#c0392b", 2)
    save(image, path)


MARGIN, LINE = 14, 18
"""Pixels around a grid, and of the words over it."""


def save_arc(path: Path, rows: list[list[tuple[str, np.ndarray]]]) -> None:
    """Draw rows of ARC grids (R, C), each under its words; a grid without cells is left empty."""
    widths = [sum(max(6 * len(words), grid.shape[1] * SIDE) + MARGIN for words, grid in row) for row in rows]
    heights = [max(grid.shape[0] for _, grid in row) * SIDE + LINE + MARGIN for row in rows]
    image, draw = canvas(path, max(widths) + MARGIN, sum(heights) + MARGIN, "#ffffff")
    y = MARGIN
    for row, height in zip(rows, heights, strict=True):
        x = MARGIN
        for words, grid in row:
            draw.text((x, y), words, "#30343b")
            for (r, c), colour in np.ndenumerate(grid):
                left, top = x + c * SIDE, y + LINE + r * SIDE
                draw.rectangle((left, top, left + SIDE, top + SIDE), ARC_COLOURS[colour], "#555555")
            x += max(6 * len(words), grid.shape[1] * SIDE) + MARGIN
        y += height
    save(image, path)


def drawable(path: Path) -> Path:
    """The path, if a picture can be drawn into it. Raises ValueError for another ending, or without Pillow."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"--png {path}: the file's name must end in .png")
    if find_spec("PIL") is None:
        raise ValueError("--png needs Pillow: pip install 'hrm-torch[plot]'")
    return path


def canvas(path: Path, width: int, height: int, background: str) -> tuple[Any, Any]:
    """An image to be saved as `path`, and its pen."""
    drawable(path)
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), background)
    return image, ImageDraw.Draw(image)


def save(image: Any, path: Path) -> None:
    """Write an image aside and rename it."""
    aside = path.with_name(path.name + ".partial")
    image.save(aside, "PNG")
    aside.replace(path)
