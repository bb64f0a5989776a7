"""Draw the README's picture: what the shipped weights think of a random test puzzle, segment by segment.

    python benchmarks/picture.py [--seed 0] [--out docs/solving.svg]

The puzzle is the random row that `hrm demo --seed SEED` would draw; it is shown whether or not the model solves it.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from rich.columns import Columns
from rich.console import Console

from hrm.demo import random_row
from hrm.display import mind, verdict
from hrm.reasoner import Reasoner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/solving.svg"))
    asked = parser.parse_args()
    row, puzzle, rating = random_row(asked.seed)
    reasoner = Reasoner.load("sudoku")
    reasoner.solve(puzzle)  # warm
    started = time.perf_counter()
    solution = reasoner.solve(puzzle)
    seconds = time.perf_counter() - started
    given = reasoner.task.parse(puzzle)
    shown = sorted({*np.linspace(0, len(solution.trace) - 1, 3).round().astype(int)})
    console = Console(record=True, width=164, file=open("/dev/null", "w"), highlight=False)  # noqa: SIM115
    console.print(f"$ hrm solve sudoku --watch {puzzle}", style="bold")
    panels = [mind(reasoner.task, given, solution.trace[k], reasoner.max_segments) for k in shown]
    console.print(Columns(panels))
    console.print(verdict(solution, seconds))
    console.save_svg(str(asked.out), title=f"row {row} of the test set, drawn with seed {asked.seed}; rating {rating}")
    print(f"{asked.out}: row {row}, rating {rating}, {len(solution.trace)} segments, verified {solution.verified}")


if __name__ == "__main__":
    main()
