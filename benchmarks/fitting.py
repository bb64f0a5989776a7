"""How many ARC tasks that weights were never trained on they answer after fitting to the demonstrations, as `hrm solve arc` does.

    python benchmarks/fitting.py RUN --source SOURCE --data FOLDER --seconds 20 [--everything] [--rate 1e-2] [--part training]

Asked are SOURCE's tasks of one part whose grids fit RUN's canvas and that are not in FOLDER, the data set of RUN, two attempts
by vote over the fitted identifiers; beside it what the nearest demonstration scores (arc_baselines.py). `--rate` is of the
embeddings, to choose it on tasks of the training part.
"""

import argparse
import json
import sys
from pathlib import Path

from arc_baselines import ballot_of, nearest

from hrm import fitting
from hrm.checkpoint import load_weights
from hrm.reasoner import Reasoner
from hrm.tasks.arc import Arc, largest_side, read_tasks
from hrm.voting import Asked, scores, vote


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--source", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--part", default="training")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--everything", action="store_true")
    parser.add_argument("--rate", type=float, default=fitting.EMBEDDING_RATE)
    asked = parser.parse_args()
    fitting.EMBEDDING_RATE = asked.rate
    found = load_weights(asked.run)
    side = Arc.for_cells(found.model.config.seq_len).side
    known = {name.split("|||")[0] for name in json.loads((asked.data / "identifiers.json").read_text())}
    every = [task for task in read_tasks(asked.source)[asked.part] if largest_side(task) <= side]
    tasks = [task for task in every if task.name not in known]
    ballots, beside, steps = {}, {}, 0
    for number, task in enumerate(tasks, 1):
        print(f"{number} of {len(tasks)}", end="\r", file=sys.stderr)
        fitted = fitting.fit(
            found.model, task, seconds=asked.seconds, everything=asked.everything, loss_type=found.loss_type
        )
        steps += fitted.steps
        ballots |= vote([Reasoner(fitted.model, "arc")], [Asked(task, fitted.table, 1)])
        beside |= {(task.name, k): ballot_of(nearest(task, pair.input)) for k, pair in enumerate(task.tests)}
    print(
        "| two attempts by | tasks | steps a task | whole_task | share_of_test_inputs |\n| --- | --- | --- | --- | --- |"
    )
    what = f"{'all weights' if asked.everything else 'embeddings'} fitted for {asked.seconds:g} s, rate {asked.rate:g}"
    for name, told, taken in ((what, ballots, f"{steps / len(tasks):.0f}"), ("nearest neighbour", beside, "–")):
        result = scores(tasks, told)
        print(
            f"| {name} | {len(tasks)} | {taken} | {result['whole_task']:.1%} | {result['share_of_test_inputs']:.1%} |"
        )


if __name__ == "__main__":
    main()
