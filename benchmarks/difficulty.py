"""How hard a CSV of 9x9 puzzles is: clues, its own rating, and, over some of its rows, the guesses of our exact solver, the
values that stand after singles, those of them that a single assumption refutes (it and singles lead to a contradiction),
and the share of puzzles that single assumptions do not solve, however often such values are ruled out.

    python benchmarks/difficulty.py FILE.csv.gz … [--rows 150] [--seed 0]

The rows are drawn by the seed, for files may be sorted.
"""

import argparse

import numpy as np

from hrm.data import read_csv
from hrm.tasks.sudoku import Sudoku
from hrm.tasks.variants import beyond_assumptions, standing_and_refuted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rows", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    task = Sudoku()
    print(
        "| file | mean clues | mean rating in the file | our guesses: mean | median | values standing: median "
        "| refuted: median | beyond single assumptions |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for file in asked.files:
        rows = read_csv(file)
        grids = [task.parse(row.question) for row in rows]
        drawn = np.random.default_rng(asked.seed).permutation(len(grids))[: asked.rows]
        guesses = [task.rate(grids[k]) for k in drawn]
        beyond = np.mean([beyond_assumptions(task, grids[k]) for k in drawn])
        standing, refuted = np.median([standing_and_refuted(task, grids[k]) for k in drawn], 0)
        clues, ratings = np.mean([(g > 0).sum() for g in grids]), [row.rating for row in rows]
        rating = f"{np.mean(ratings):.1f}" if any(ratings) else "–"
        name = file.rsplit("/", 1)[-1]
        print(
            f"| {name} | {clues:.1f} | {rating} | {np.mean(guesses):.0f} | {np.median(guesses):.0f} | {standing:.0f} "
            f"| {refuted:.0f} | {beyond:.0%} |"
        )


if __name__ == "__main__":
    main()
