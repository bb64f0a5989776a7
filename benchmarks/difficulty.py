"""How hard a CSV of 9x9 puzzles is: clues, its own rating, and the guesses of our exact solver on the first rows.

python benchmarks/difficulty.py FILE.csv.gz … [--rows 150]
"""

import argparse

import numpy as np

from hrm.data import read_csv
from hrm.tasks.sudoku import Sudoku


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rows", type=int, default=150)
    asked = parser.parse_args()
    task = Sudoku()
    print(
        "| file | mean clues | mean rating in the file | our guesses: mean | median |\n| --- | --- | --- | --- | --- |"
    )
    for file in asked.files:
        rows = read_csv(file)
        grids = [task.parse(row.question) for row in rows]
        guesses = [task.rate(grid) for grid in grids[: asked.rows]]
        clues, rating = np.mean([(g > 0).sum() for g in grids]), np.mean([row.rating for row in rows])
        name = file.rsplit("/", 1)[-1]
        print(f"| {name} | {clues:.1f} | {rating:.1f} | {np.mean(guesses):.0f} | {np.median(guesses):.0f} |")


if __name__ == "__main__":
    main()
