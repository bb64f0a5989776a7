"""Pictures of answers as PNG files. Needs Pillow (`pip install 'hrm-torch[plot]'`)."""

from pathlib import Path

import numpy as np

from .tasks.maze import FREE, GOAL, PATH, START, WALL, Maze

SIDE = 16
"""Pixels of a cell."""
COLOURS = {WALL: "#30343b", FREE: "#f7f7f4", START: "#1f9d55", GOAL: "#c0392b", PATH: "#7cc4f0"}


def save_maze(path: Path, task: Maze, given: np.ndarray, answer: np.ndarray) -> None:
    """Draw a maze (S,) with its answer (S,): S green, G red, the path blue; a changed given is crossed out."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"--png {path}: the file's name must end in .png")
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise ValueError("--png needs Pillow: pip install 'hrm-torch[plot]'") from None
    image = Image.new("RGB", (task.columns * SIDE + 1, task.rows * SIDE + 1), "#c9ccd1")
    draw = ImageDraw.Draw(image)
    for k, (was, is_) in enumerate(zip(given.tolist(), answer.tolist(), strict=True)):
        x, y = k % task.columns * SIDE, k // task.columns * SIDE
        box = (x + 1, y + 1, x + SIDE - 1, y + SIDE - 1)
        draw.rectangle(box, COLOURS[is_])
        if is_ in (START, GOAL):
            draw.text((x + SIDE / 2, y + SIDE / 2), "SG"[is_ == GOAL], "white", anchor="mm")
        if was != is_ and (was, is_) != (FREE, PATH):
            draw.line((box[0], box[1], box[2], box[3]), "#c0392b", 2)
            draw.line((box[0], box[3], box[2], box[1]), "#c0392b", 2)
    aside = path.with_name(path.name + ".partial")
    image.save(aside, "PNG")
    aside.replace(path)
