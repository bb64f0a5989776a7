"""Validation accuracy of a run against training time, as a Markdown table.

    python benchmarks/curve.py runs/sudoku/sudoku-cpu

Minutes are those spent in training steps (from the logged speeds); evaluations and restarts are left out.
"""

import json
import sys
from pathlib import Path


def main() -> None:
    lines = map(json.loads, (Path(sys.argv[1]) / "metrics.jsonl").read_text().splitlines())
    seconds, before = 0.0, 0
    print("| step | minutes | exact@1 on validation rows |\n| --- | --- | --- |")
    for line in lines:
        if "steps_per_second" in line:
            seconds += (line["step"] - before) / line["steps_per_second"]
            before = line["step"]
        if "eval/exact_accuracy" in line:
            print(f"| {line['step']} | {seconds / 60:.1f} | {line['eval/exact_accuracy']:.1%} |")


if __name__ == "__main__":
    main()
