"""How hard a CSV of 9x9 puzzles is: clues, its own rating, and, over some of its rows, the guesses of our exact solver and the
share that single assumptions do not solve: a value assumed, followed by singles alone, is ruled out if it leads to a
contradiction, over and over.

    python benchmarks/difficulty.py FILE.csv.gz … [--rows 150] [--seed 0]

The rows are drawn by the seed, for files may be sorted.
"""

import argparse

import numpy as np

from hrm.data import read_csv
from hrm.tasks.sudoku import Sudoku
from hrm.tasks.variants import beyond_assumptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rows", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    task = Sudoku()
    print(
        "| file | mean clues | mean rating in the file | our guesses: mean | median | beyond single assumptions |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for file in asked.files:
        rows = read_csv(file)
        grids = [task.parse(row.question) for row in rows]
        drawn = np.random.default_rng(asked.seed).permutation(len(grids))[: asked.rows]
        guesses = [task.rate(grids[k]) for k in drawn]
        beyond = np.mean([beyond_assumptions(task, grids[k]) for k in drawn])
        clues, rating = np.mean([(g > 0).sum() for g in grids]), np.mean([row.rating for row in rows])
        name = file.rsplit("/", 1)[-1]
        print(
            f"| {name} | {clues:.1f} | {rating:.1f} | {np.mean(guesses):.0f} | {np.median(guesses):.0f} | {beyond:.0%} |"
        )


if __name__ == "__main__":
    main()
