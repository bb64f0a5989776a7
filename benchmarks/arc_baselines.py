"""What two attempts without any learning score on an ARC data set, to be read beside `hrm eval RUN --data FOLDER`.

    python benchmarks/arc_baselines.py SOURCE --data FOLDER

SOURCE: the zip, folder or JSON that the data set was built from (it holds the demonstrations). Prints both scores of:

nearest neighbour: the outputs of the two demonstrations whose inputs are most like the test input (share of equal cells
where the sizes agree, colours' histogram where they do not); copy: the test input itself, and the most frequent
demonstration output; untrained: attempts of a model with random weights are grids of noise and score 0 by construction,
so they are measured with `hrm eval` on a run of `steps=1`, not here.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from hrm.data import load_split
from hrm.tasks.arc import ArcTask, read_tasks
from hrm.voting import Ballot, scores


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """1 to 2 for grids of one size, by equal cells; 0 to 1 for others, by shared colours."""
    if a.shape == b.shape:
        return 1 + float((a == b).mean())
    counts = [np.bincount(grid.ravel(), minlength=10) / grid.size for grid in (a, b)]
    return float(np.minimum(*counts).sum())


def nearest(task: ArcTask, asked: np.ndarray) -> list[np.ndarray]:
    order = sorted(range(len(task.demos)), key=lambda k: -likeness(task.demos[k].input, asked))
    return [task.demos[k].output for k in order[:2]]


def copied(task: ArcTask, asked: np.ndarray) -> list[np.ndarray]:
    outputs = {pair.output.tobytes() + bytes(pair.output.shape): pair.output for pair in task.demos}
    common = Counter(pair.output.tobytes() + bytes(pair.output.shape) for pair in task.demos).most_common(1)[0][0]
    return [asked, outputs[common]]


def ballot_of(attempts: list[np.ndarray]) -> Ballot:
    """One vote for each grid, the first the surest."""
    ballot = Ballot()
    for rank, grid in enumerate(attempts):
        key = bytes(grid.shape) + grid.tobytes()
        ballot.grids[key], ballot.confidences[key] = grid, [1.0 - rank / 10]
    return ballot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--data", required=True, type=Path)
    asked = parser.parse_args()
    names = json.loads((asked.data / "identifiers.json").read_text())
    wanted = {names[number] for number in load_split(str(asked.data), "test").puzzle_identifiers}
    tasks = [task for part in read_tasks(asked.source).values() for task in part if task.name in wanted]
    print("| two attempts by | tasks | whole_task | share_of_test_inputs |\n| --- | --- | --- | --- |")
    for name, attempts in (("nearest neighbour", nearest), ("copy", copied)):
        ballots = {}
        for task in tasks:
            for number, pair in enumerate(task.tests):
                ballots[task.name, number] = ballot_of(attempts(task, pair.input))
        found = scores(tasks, ballots)
        print(f"| {name} | {found['tasks']} | {found['whole_task']:.1%} | {found['share_of_test_inputs']:.1%} |")


if __name__ == "__main__":
    main()
