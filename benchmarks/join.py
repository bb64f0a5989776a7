"""Join the reports of `hrm eval … --json` on parts of one file, asked with the same options, into figures of the whole.

    benchmarks/join.py --distinct 8040 part-0.json part-1.json …

`--distinct`: how many of all rows are trials of their own (puzzles of one solution may lie in several parts); without it the
parts' own counts are added, and the interval may be too narrow.
"""

import argparse
import json
from pathlib import Path

from hrm.evaluate import wilson

SAME = ("counted", "passes", "max_segments", "patience", "halt", "accept", "weights")
"""What must not differ between the parts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--distinct", type=int)
    asked = parser.parse_args()
    parts = [json.loads(path.read_text()) for path in asked.reports]
    if differing := [key for key in SAME if any(part.get(key) != parts[0].get(key) for part in parts)]:
        parser.error(f"the reports differ in {', '.join(differing)}")
    if len({part["data_hash"] for part in parts}) < len(parts):
        parser.error("two reports are of the same rows")
    rows, counted = sum(part["rows"] for part in parts), parts[0]["counted"]

    def mean(key: str) -> float:
        return sum(part["rows"] * part[key] for part in parts) / rows

    distinct = asked.distinct or sum(part.get("distinct_solutions", part.get("distinct_questions")) for part in parts)
    low, high = wilson(mean(counted), distinct)
    print(f"{rows:,} rows, {len(parts)} reports: {counted} {mean(counted):.2%} ({low:.1%}–{high:.1%}), ", end="")
    print(f"{mean('mean_segments'):.1f} segments in {mean('mean_passes'):.2f} passes")
    if all("right_within_passes" in part for part in parts):
        within = {
            k: sum(p["rows"] * p["right_within_passes"][k] for p in parts) / rows
            for k in parts[0]["right_within_passes"]
        }
        print("right within " + ", ".join(f"{k}: {share:.1%}" for k, share in within.items()) + " passes")
    found: dict[str, list[float]] = {}
    for source, part in (pair for report in parts for pair in report.get("by_source", {}).items()):
        held = found.setdefault(source, [0, 0.0])
        held[0] += part["rows"]
        held[1] += part["rows"] * part[counted]
    for source, (count, right) in sorted(found.items(), key=lambda entry: -entry[1][0]):
        print(f"| {source or 'no named source'} | {count:,.0f} | {right / count:.1%} |")


if __name__ == "__main__":
    main()
