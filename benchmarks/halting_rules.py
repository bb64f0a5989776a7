"""Every halting rule on the validation rows: accuracy against segments.

python benchmarks/halting_rules.py WEIGHTS   # with a latent carry, such as a run of sudoku-cpu
"""

import sys

from hrm.data import load_split
from hrm.evaluate import evaluate
from hrm.reasoner import Reasoner


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    weights = sys.argv[1]
    rows = load_split("sudoku-hard-1k", "val")
    print("| halt | most segments | exact@1 | mean segments | seconds |\n| --- | --- | --- | --- | --- |")
    for most in (16, 32):
        for halt in ("q", "stable", "settled", "never"):
            report = evaluate(Reasoner.load(weights, halt=halt, max_segments=most, batch_size=128), rows)
            print(
                f"| {halt} | {most} | {report['exact@1']:.1%} | {report['mean_segments']:.2f} | {report['seconds']:.1f} |"
            )


if __name__ == "__main__":
    main()
