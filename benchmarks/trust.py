"""How often the values are right that a search assumes, against the chance that the model gave them.

    python benchmarks/trust.py WEIGHTS --data FILE.csv [--rows 240] [--passes 32]

Only assumptions made while the solution still stood are counted: of the others none can be right. Beside each chance stands
what a search takes it to be worth (`hrm.deduction.TRUST`).
"""

import argparse
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from hrm import deduction
from hrm.candidates import stands
from hrm.data import load_rows
from hrm.reasoner import DEDUCTION_PASSES, Reasoner
from hrm.running import answer_all
from hrm.tasks import task_for

EDGES = (0.0, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--data", required=True, help="CSV of puzzles and answers")
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--passes", type=int, default=DEDUCTION_PASSES)
    parser.add_argument("--backend", default="auto")
    asked = parser.parse_args()
    reasoner = Reasoner.load(asked.weights, passes=asked.passes, backend=asked.backend)
    split = load_rows(asked.data, "test", partial(task_for, "sudoku"))
    puzzles, labels = split.inputs[: asked.rows], split.labels[: asked.rows]
    told, lost, answers = assumptions(reasoner, puzzles, labels)
    right = (answers.tokens == labels).all(1)
    print(f"{len(puzzles)} puzzles of {asked.data}: {right.mean():.1%} right within {asked.passes} passes, ", end="")
    print(f"{answers.segments.mean():.1f} segments; the true value of a cell ruled out in {lost} passes\n")
    print(
        "| the model's chance | assumptions | on average | right | taken to be worth |\n| --- | --- | --- | --- | --- |"
    )
    for low, high in pairwise(EDGES):
        here = told[(told[:, 0] > low) & (told[:, 0] <= high)]
        if len(here):
            worth = np.mean([deduction.trusted(chance) for chance in here[:, 0]])
            said, true = here.mean(0)
            print(f"| {low:.2f} to {high:.2f} | {len(here)} | {said:.1%} | {true:.1%} | {worth:.1%} |")


def assumptions(reasoner: Reasoner, puzzles: np.ndarray, labels: np.ndarray):
    """Rows of chance and whether it was right, one for each assumption; passes that ruled a true value out; the answers."""
    batch, known = reasoner.running(), torch.from_numpy(labels.astype(np.int64))
    told, lost, originals = [], 0, (deduction.surest, deduction.assumed)

    def surest(after, chances):
        nonlocal lost
        here = known[[walk.number for walk in batch.walks]]
        lost += int((stands(batch.carried[0], here) & ~stands(after, here)).sum())
        surest.chances = chances
        return originals[0](after, chances)

    def assumed(after, rows, cell, value):
        here = known[[walk.number for walk in batch.walks]]
        for place in torch.nonzero(rows & stands(after, here))[:, 0].tolist():
            at, chosen = int(cell[place]), int(value[place])
            told.append((float(surest.chances[place, at, chosen]), chosen == here[place, at]))
        return originals[1](after, rows, cell, value)

    deduction.surest, deduction.assumed = surest, assumed
    try:
        with torch.inference_mode(), reasoner.model.cast_once():
            names = np.zeros(len(puzzles), np.int32)
            answers = answer_all(batch, puzzles, names, reasoner.batch_size)
    finally:
        deduction.surest, deduction.assumed = originals
    return np.array(told, float).reshape(-1, 2), lost, answers


if __name__ == "__main__":
    main()
