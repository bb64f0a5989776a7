"""Every halting rule on validation rows: accuracy against segments and time.

    python benchmarks/halting_rules.py maze [--data maze-15x15-1k] [--segments 8 16 32] [--still 0.3 0.1 0.03]

For weights with a latent carry. `settled` is what a Reasoner does where halting was learned; `residual` is shown for several
bounds on how far the state moves.
"""

import argparse

from hrm import running
from hrm.checkpoint import load_weights
from hrm.cli import usual_data
from hrm.data import load_split
from hrm.evaluate import evaluate, suited
from hrm.reasoner import Reasoner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--data", help="data set with validation rows; default: as of `hrm eval`")
    parser.add_argument("--segments", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--still", type=float, nargs="+", default=[0.3, 0.1, 0.03])
    asked = parser.parse_args()
    found = load_weights(asked.weights, "cpu")
    data = asked.data or usual_data(found, "val")
    rows = load_split(data, "val")
    found = suited(found, rows, data)
    sound = Reasoner(found.model, found.task).task.sound
    print(f"{len(rows.inputs)} validation rows of {data}\n")
    print(
        f"| halt | most segments | exact@1 | {sound} | mean segments | ms a puzzle |\n| --- | --- | --- | --- | --- | --- |"
    )
    rules = [(rule, rule, 0.0) for rule in ("q", "stable", "settled", "never")]
    rules += [(f"residual < {still}", "residual", still) for still in asked.still]
    for most in asked.segments:
        for name, halt, running.STILL in rules:
            reasoner = Reasoner(found.model, found.task, halt=halt, max_segments=most, batch_size=128)
            report = evaluate(reasoner, rows)
            shares = f"{report['exact@1']:.1%} | {report['verified']:.1%}"
            took = report["seconds"] / report["rows"] * 1000
            print(f"| {name} | {most} | {shares} | {report['mean_segments']:.2f} | {took:.1f} |", flush=True)


if __name__ == "__main__":
    main()
