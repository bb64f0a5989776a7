"""The participation ratio of z_H and z_L: in how many dimensions each moves, of trained weights and of the same model untrained.

    python benchmarks/participation.py [WEIGHTS] [--puzzles 10 30 100] [--segments 16] [--controls 3] [--json FILE]

The paper (section 4, Figure 8) reports 89.95 for z_H and 30.22 for z_L of a trained HRM of width 512, of which the first grows
with the number of puzzles, and no difference before training, and takes that for a hierarchy of dimensions as in the cortex.
PR = (sum of eigenvalues)² / sum of their squares, of the covariance matrix of the states: between 1 and the width. A sample is
the state of one position (of a cell, or of one value of a cell on the lattice) after one segment; a position that has no state
counts as none. Every puzzle runs `--segments` of these, as in the reference's evaluation; where candidates are carried, its first
pass, up to as many. The interval is of 400 draws of the puzzles, with replacement. A control is the same model with weights
from a seed of its own.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrm.answers import Thought
from hrm.checkpoint import load_weights
from hrm.cli import usual_data
from hrm.data import load_split
from hrm.evaluate import suited
from hrm.model import HRM
from hrm.reasoner import Reasoner

DRAWS = 400


class Sums:
    """What a covariance matrix is made of, of each puzzle and each level apart."""

    def __init__(self, puzzles: int, width: int):
        self.count = np.zeros((puzzles, 2))
        self.first = np.zeros((puzzles, 2, width))
        self.second = np.zeros((puzzles, 2, width, width))

    def add(self, puzzle: int, level: int, states: np.ndarray) -> None:
        """States (N, D)."""
        states = states[states.any(1)].astype(np.float64)
        self.count[puzzle, level] += len(states)
        self.first[puzzle, level] += states.sum(0)
        self.second[puzzle, level] += states.T @ states

    def ratios(self, puzzles: np.ndarray) -> np.ndarray:
        """(2,) of z_H and z_L, over these puzzles."""
        count = self.count[puzzles].sum(0)[:, None]
        mean = self.first[puzzles].sum(0) / count
        covariance = self.second[puzzles].sum(0) / count[..., None] - mean[:, :, None] * mean[:, None, :]
        return np.trace(covariance, axis1=1, axis2=2) ** 2 / np.square(covariance).sum((1, 2))


def sums_of(model: HRM, task: str, tokens: np.ndarray, segments: int) -> Sums:
    """Of one pass over each puzzle, tokens (N, S)."""
    sums = Sums(len(tokens), model.config.hidden_size)

    def keep(thought: Thought) -> None:
        for level, states in enumerate(thought.states):
            sums.add(thought.row, level, states)

    Reasoner(model, task, passes=1, halt="never", max_segments=segments, states=True).run(tokens, watch=keep)
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", default="maze")
    parser.add_argument("--data", help="default: as of `hrm eval`")
    parser.add_argument("--puzzles", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--segments", type=int, default=16)
    parser.add_argument("--controls", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = load_weights(asked.weights, "cpu")
    if found.model.config.levels == "single":
        raise SystemExit(f"{asked.weights}: a model of one level has no ratio of two")
    data = asked.data or usual_data(found)
    rows = load_split(data, "test")
    model = suited(found, rows, data).model
    tokens = rows.inputs[: max(asked.puzzles)]
    models = {"trained": model}
    for seed in range(asked.controls):
        torch.manual_seed(seed)
        models[f"untrained, seed {seed}"] = HRM(model.config)
    print(f"{asked.weights}, width {model.config.hidden_size}, first test rows of {data}, {asked.segments} segments\n")
    print(
        "| weights | puzzles | PR of z_H | PR of z_L | z_H / z_L (95 % of the draws) |\n| --- | --- | --- | --- | --- |"
    )
    report: list[dict[str, Any]] = []
    for name, of in models.items():
        sums = sums_of(of, found.task, tokens, asked.segments)
        for count in asked.puzzles:
            mine = np.arange(min(count, len(tokens)))
            z_H, z_L = sums.ratios(mine)
            draws = np.random.default_rng(0).choice(mine, (DRAWS, len(mine)))
            low, high = np.quantile([np.divide(*sums.ratios(draw)) for draw in draws], [0.025, 0.975])
            print(
                f"| {name} | {len(mine)} | {z_H:.2f} | {z_L:.2f} | {z_H / z_L:.2f} ({low:.2f}–{high:.2f}) |", flush=True
            )
            report.append({"weights": name, "puzzles": len(mine), "z_H": z_H, "z_L": z_L, "low": low, "high": high})
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
