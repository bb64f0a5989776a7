"""Accuracy of a run against training time, as a Markdown table.

    python benchmarks/curve.py runs/sudoku/sudoku-cpu
    python benchmarks/curve.py runs/arc/arc-mini --data data/arc-mini

The first of the validation rows that were measured as it trained; the second of every checkpoint that was kept
(`keep_checkpoints=N`), by `hrm eval CHECKPOINT` with the options that follow. Minutes are those spent in training steps (from
the logged speeds); evaluations and restarts are left out.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS = ("valid_and_shortest", "whole_task", "share_of_test_inputs")
"""What is told of a report beside what it is counted as."""


def main() -> None:
    run, options = Path(sys.argv[1]), sys.argv[2:]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds, before, spent = 0.0, 0, {0: 0.0}
    for line in lines:
        if "steps_per_second" in line:
            seconds += (line["step"] - before) / line["steps_per_second"]
            before = line["step"]
            spent[before] = seconds
    if options:
        names = [path.name.removeprefix("step_") for path in run.glob("step_*")]
        steps = sorted(int(name) for name in names if name.isdigit())  # not what a kill has left
        found = [(step, evaluated(run / f"step_{step}", options)) for step in steps]
    else:
        found = [
            (line["step"], {"counted": "exact@1", "exact@1": line["eval/exact_accuracy"]})
            for line in lines
            if "eval/exact_accuracy" in line
        ]
    if not found:
        raise SystemExit(
            f"{run}: {'no checkpoint' if options else 'never measured as it trained; give options of hrm eval'}"
        )
    report = found[0][1]
    ways = [way for way in (report.get("counted"), *WAYS) if way in report]
    print(f"| step | minutes | {' | '.join(ways)} |\n|{' --- |' * (2 + len(ways))}")
    for step, report in found:
        minutes = spent[max(logged for logged in spent if logged <= step)] / 60
        print(f"| {step} | {minutes:.1f} | {' | '.join(f'{report[way]:.1%}' for way in ways)} |")


def evaluated(checkpoint: Path, options: list[str]) -> dict[str, float]:
    """The report of `hrm eval CHECKPOINT OPTIONS`."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "hrm", "eval", str(checkpoint), *options, "--json", str(report)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return json.loads(report.read_text())


if __name__ == "__main__":
    main()
