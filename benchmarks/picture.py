"""Draw the pictures of the documents: what the shipped weights think of a random Sudoku, mazes and ARC tasks solved and not.

    python benchmarks/picture.py sudoku [--seed 0] [--out docs/solving.svg]
    python benchmarks/picture.py mazes --data maze_hard_like_test_1k.csv.gz [--out docs/mazes.png]
    python benchmarks/picture.py arc RUN --data FOLDER --source SOURCE [--out docs/arc.png]

The Sudoku is the random row that `hrm demo --seed SEED` would draw, shown whether or not the model solves it. The mazes are
the first row that one pass solves and the first that it does not, and the latter as `hrm solve maze` answers it. The ARC tasks
are the first of FOLDER's asked ones that RUN answers and the first that it does not; SOURCE, of which FOLDER was built, has
their demonstrations.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from rich.columns import Columns
from rich.console import Console

from hrm.checkpoint import load_weights
from hrm.cli import MAZE_PASSES, identifier_names
from hrm.data import load_split, read_csv
from hrm.demo import random_row
from hrm.display import mind, verdict
from hrm.pictures import save_arc, save_maze
from hrm.reasoner import Reasoner
from hrm.tasks.arc import read_tasks
from hrm.tasks.maze import Maze
from hrm.voting import asked_in, in_rows, rights, vote


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("sudoku")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--out", type=Path, default=Path("docs/solving.svg"))
    other = kinds.add_parser("mazes")
    other.add_argument("--data", required=True)
    other.add_argument("--out", type=Path, default=Path("docs/mazes.png"))
    third = kinds.add_parser("arc")
    third.add_argument("run")
    third.add_argument("--data", type=Path, required=True)
    third.add_argument("--source", required=True)
    third.add_argument("--out", type=Path, default=Path("docs/arc.png"))
    asked = vars(parser.parse_args())
    {"sudoku": sudoku, "mazes": mazes, "arc": arc}[asked.pop("kind")](**asked)


def sudoku(seed: int, out: Path) -> None:
    row, puzzle, rating = random_row(seed)
    reasoner = Reasoner.load("sudoku")
    reasoner.solve(puzzle)  # warm
    started = time.perf_counter()
    solution = reasoner.solve(puzzle)
    seconds = time.perf_counter() - started
    given = reasoner.task.parse(puzzle)
    shown = sorted({*np.linspace(0, len(solution.trace) - 1, 3).round().astype(int)})
    console = Console(record=True, width=172, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115
    console.print(f"$ hrm solve sudoku --watch {puzzle}", style="bold")
    panels = [mind(reasoner.task, given, solution.trace[k], reasoner.max_segments) for k in shown]
    console.print(Columns(panels))
    console.print(verdict(solution, seconds))
    console.save_svg(str(out), title=f"row {row} of the test set, drawn with seed {seed}; rating {rating}")
    print(f"{out}: row {row}, rating {rating}, {len(solution.trace)} segments, verified {solution.verified}")


def mazes(data: str, out: Path) -> None:
    large = {"seq_len": Maze().seq_len}
    once, again = Reasoner.load("maze", **large), Reasoner.load("maze", passes=MAZE_PASSES, check=True, **large)
    shown: dict[bool, tuple] = {}
    for number, row in enumerate(read_csv(data), 1):
        solution = once.solve(row.question)
        shown.setdefault(solution.verified, (number, row.question, solution))
        if len(shown) == 2:
            break
    number, question, _ = shown[False]
    drawn = [shown[True], shown[False], (number, question, again.solve(question))]
    pictures, words = [], []
    for number, question, solution in drawn:
        task = once.task
        pictures.append(picture_of(save_maze, task, task.parse(question), task.parse(solution.answer)))
        found = "valid and shortest" if solution.verified else solution.fault
        passes = f"{solution.passes} pass" + "es" * (solution.passes > 1)
        words.append(f"row {number}, {passes}, {solution.segments} segments: {found}")
    side_by_side(pictures, words, out)


def arc(run: str, data: Path, source: str, out: Path) -> None:
    split = load_split(str(data), "test")
    reasoner = Reasoner(load_weights(run).model, "arc")
    whole = {task.name: task for tasks in read_tasks(source).values() for task in tasks}
    shown: dict[bool, tuple] = {}
    for one in asked_in(split, identifier_names(data, split)):
        ballots = vote([reasoner], [one])
        found = rights(one.task, ballots)
        if not found:  # no answer is known
            continue
        right = all(found)
        shown.setdefault(right, (f"{one.task.name}: {'solved' if right else 'missed'}", whole[one.task.name], ballots))
        if len(shown) == 2:
            break
    drawn = [shown[right] for right in (True, False) if right in shown]
    side_by_side([picture_of(save_arc, in_rows(*what)) for _, *what in drawn], [words for words, *_ in drawn], out)


def picture_of(draw: Callable[..., None], *what: Any) -> Image.Image:
    with tempfile.TemporaryDirectory() as folder:
        draw(file := Path(folder) / "picture.png", *what)
        return Image.open(file).copy()


def side_by_side(pictures: list[Image.Image], words: list[str], out: Path) -> None:
    gap, top = 16, 24
    wide, high = sum(picture.width + gap for picture in pictures) - gap, max(picture.height for picture in pictures)
    image = Image.new("RGB", (wide, top + high), "white")
    left = 0
    for picture, line in zip(pictures, words, strict=True):
        image.paste(picture, (left, top))
        ImageDraw.Draw(image).text((left, 4), line, "#30343b", font_size=14)
        left += picture.width + gap
    image.save(out, optimize=True)
    print(f"{out}: " + "; ".join(words))


if __name__ == "__main__":
    main()
