"""How hard 9x9 puzzles are: clues, their file's own rating, and, over some of them, the guesses of our exact solver, the
values that stand after singles, those of them that a single assumption refutes (it and singles lead to a contradiction),
the share of puzzles that single assumptions do not solve, however often such values are ruled out, what then stands in these,
how open these are (what stands, in the mean, after one of the values standing after singles has been assumed), how deep (the
same once single assumptions rule out no more, and after they have been followed to the end again), and how many have an exocet
(hrm.tasks.variants has the words at length).

    python benchmarks/difficulty.py DATA … [--split train] [--source NAME] [--skip 0] [--rows 150] [--seed 0]

DATA: a CSV file, a data-set folder or a built-in set. The rows are drawn by the seed from those after the first `--skip`, for
files may be sorted; what `hrm data build --beyond` and `--harden` made stands after the rows of the source.
"""

import argparse

import numpy as np

from hrm.data import load_rows
from hrm.tasks.sudoku import Sudoku
from hrm.tasks.variants import depth, has_exocet, left_by_assumptions, openness, standing_and_refuted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--split", default="train")
    parser.add_argument("--source", help="only rows whose file says that they come from there")
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--rows", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    task = Sudoku()
    print(
        "| data | mean clues | mean rating in the file | our guesses: mean | median | values standing: median "
        "| refuted: median | beyond single assumptions | values then left in these: median "
        "| their openness: quartiles | their depth: quartiles | with an exocet |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for data in asked.data:
        rows = load_rows(data, asked.split, lambda cells: task)
        which = np.arange(asked.skip, len(rows.inputs))
        if asked.source:
            if rows.sources is None or asked.source not in rows.sources:
                parser.error(f"{data}: no row says that it comes from {asked.source}")
            which = which[rows.sources[which] == asked.source]
        grids = task.decode(rows.inputs[which])
        drawn = np.random.default_rng(asked.seed).permutation(len(grids))[: asked.rows]
        guesses = [task.rate(grids[k]) for k in drawn]
        left = np.array([left_by_assumptions(task, grids[k]) for k in drawn])
        measured = [
            np.quantile([measure(task, grids[k]) for k in drawn[left > 0]] or [0], (0.25, 0.5, 0.75))
            for measure in (openness, depth)
        ]
        standing, refuted = np.median([standing_and_refuted(task, grids[k]) for k in drawn], 0)
        ratings = [] if rows.ratings is None else rows.ratings[which]
        name, clues = asked.source or data.rsplit("/", 1)[-1], (grids > 0).sum(1).mean()
        rating = f"{np.mean(ratings):.1f}" if np.any(ratings) else "–"
        print(
            f"| {name} | {clues:.1f} | {rating} | {np.mean(guesses):.0f} | {np.median(guesses):.0f} | {standing:.0f} "
            f"| {refuted:.0f} | {np.mean(left > 0):.0%} | {np.median(left[left > 0]) if left.any() else 0:.0f} "
            f"| {' | '.join(', '.join(f'{quarter:.0f}' for quarter in quarters) for quarters in measured)} "
            f"| {np.mean([has_exocet(task, grids[k]) for k in drawn]):.0%} |"
        )


if __name__ == "__main__":
    main()
