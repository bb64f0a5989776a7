"""Train a recipe with several seeds and report exact@1 on its test split and the wall time of each.

python benchmarks/accuracy.py sudoku-6x6-demo [key=value …] [--seeds 0 1 2]
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from hrm.config import load_recipe
from hrm.train import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, `{' '.join(sys.argv)}`\n")
    print("| seed | exact@1 on unseen puzzles | rows | seconds |\n| --- | --- | --- | --- |")
    shares, seconds = [], []
    for seed in asked.seeds:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            recipe = load_recipe(asked.recipe, [*asked.overrides, f"seed={seed}", "test_at_end=true"])
            metrics = train(recipe, runs=Path(folder)).metrics
            seconds.append(time.perf_counter() - started)
            shares.append(metrics["test/exact_accuracy"])
            print(f"| {seed} | {shares[-1]:.2%} | {metrics['test/rows']} | {seconds[-1]:.0f} |", flush=True)
    print(f"| mean | {statistics.mean(shares):.2%} (lowest {min(shares):.2%}) | | {statistics.mean(seconds):.0f} |")


if __name__ == "__main__":
    main()
