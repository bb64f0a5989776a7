"""Make the generated data sets that ship in the package, the same bytes every time.

    python benchmarks/make_datasets.py [--check] [hard-val] [6x6] [maze-15x15]

hard-val: 256 hard 9×9 puzzles for validation, each the hardest found in a short search near a random minimal puzzle,
with no solution grid (up to symmetry) of the training and test files. 6x6: 1,000 training, 256 validation and 1,000 test
puzzles with 2×3 boxes, minimal and unique, no two alike. maze-15x15: 1,000, 200 and 1,000 mazes with paths of 32 cells and
more, no two alike up to symmetry. `--check` compares with the files in place instead of writing.
(sudoku_hard_train, sudoku_hard_test and maze_30x30_* are the project's earlier output, made by the same methods in other
programs; `hrm data build maze --source generate --min-path 110` makes more of the latter. sudoku_beyond_train is what
`hrm data build sudoku --source sudoku-hard-1k --seed 0 --beyond 800` adds.)
"""

import argparse
import gzip
import os
import sys
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np

from hrm.building import distinct_puzzles
from hrm.data import Row, read_csv
from hrm.tasks.maze import Maze
from hrm.tasks.sudoku import Sudoku

FOLDER = Path(__file__).parents[1] / "src" / "hrm" / "datasets"
SEED = 20261123


def hard_val_rows(taken: set[int]) -> Iterator[Row]:
    """Hard puzzles whose solution grids are not among `taken`, nor twice, up to symmetry."""
    task = Sudoku()
    for number in count():
        rng = np.random.default_rng([SEED, number])
        puzzle, solution, rating = task.harden(task.generate(rng)[0], rng, steps=int(rng.integers(2, 12)))
        key = task.same_orbit_key(solution)
        if key not in taken:
            taken.add(key)
            yield Row("hrm-generated", task.format(puzzle), task.format(solution), rating)


def hard_val() -> dict[str, list[Row]]:
    task = Sudoku()
    taken = {
        task.same_orbit_key(task.parse(row.answer))
        for split in ("train", "test")
        for row in read_csv(FOLDER / f"sudoku_hard_{split}.csv.gz")
    }
    return {"sudoku_hard_val": list(islice(hard_val_rows(taken), 256))}


def six_by_six_rows() -> Iterator[Row]:
    """Minimal 6x6 puzzles, no two alike."""
    task = Sudoku(2, 3)
    rng = np.random.default_rng([SEED, 6])
    seen: set[str] = set()
    while True:
        puzzle, solution = task.generate(rng)
        text = task.format(puzzle)
        if text not in seen:
            seen.add(text)
            yield Row("hrm-generated", text, task.format(solution), task.rate(puzzle))


def six_by_six() -> dict[str, list[Row]]:
    rows = list(islice(six_by_six_rows(), 2256))
    return {"sudoku_6x6_train": rows[:1000], "sudoku_6x6_val": rows[1000:1256], "sudoku_6x6_test": rows[1256:]}


def maze_15x15() -> dict[str, list[Row]]:
    rows = distinct_puzzles(Maze(15, 15), np.random.Generator(np.random.Philox(7)), 2200, min_path=32)
    return {"maze_15x15_train": rows[:1000], "maze_15x15_val": rows[1000:1200], "maze_15x15_test": rows[1200:]}


def packed(rows: list[Row]) -> bytes:
    lines = ["source,question,answer,rating", *(f"{r.source},{r.question},{r.answer},{r.rating}" for r in rows)]
    return gzip.compress("".join(line + "\n" for line in lines).encode(), 9, mtime=0)


MAKERS = {"hard-val": hard_val, "6x6": six_by_six, "maze-15x15": maze_15x15}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("which", nargs="*")
    asked = parser.parse_args()
    wrong = 0
    for which in asked.which or MAKERS:
        for name, rows in MAKERS[which]().items():
            path, content = FOLDER / f"{name}.csv.gz", packed(rows)
            ratings = [row.rating for row in rows]
            print(f"{name}: {len(rows)} rows, mean rating {np.mean(ratings):.1f}, median {np.median(ratings):.0f}")
            if asked.check:
                same = path.read_bytes() == content
                wrong += not same
                print("  same bytes as in the package" if same else "  DIFFERS from the package")
            else:
                aside = path.with_suffix(".tmp")
                aside.write_bytes(content)
                os.replace(aside, path)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
