"""Puzzles: one file a kind. A task knows text, rules and symmetries, and no network.

text.py is the smallest whole one, with neither rules nor symmetries: whatever it has, every task of lines and grids has. What
comes on top: `verify_batch` and a `fault` in words where `sound` names the rules; `augment` for training, `draw_symmetry` (of
which `Symmetry` is one) for further passes; `generate_many` for `--source generate`; a board in display.py.
"""

from collections.abc import Callable

from ..config import nearest
from .arc import Arc
from .maze import Maze
from .sudoku import Sudoku
from .text import Text

TASKS = {"sudoku": Sudoku, "maze": Maze, "arc": Arc, "text": Text}
Task = Sudoku | Maze | Arc | Text
Progress = Callable[[str, int, int], None]
"""Is told what is being made, how many are done and how many there will be."""


def known_task(name: str) -> type[Task]:
    """The kind of task of a name. Raises ValueError naming the nearest known one."""
    if name not in TASKS:
        raise ValueError(f"no task '{name}'{nearest(name, list(TASKS))}")
    return TASKS[name]


def task_for(name: str, seq_len: int) -> Task:
    """The task of a name and a number of cells. Raises ValueError naming the nearest known one."""
    return known_task(name).for_cells(seq_len)


def untold(what: str, done: int, total: int) -> None:
    """The progress that nobody hears of."""
