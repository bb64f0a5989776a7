"""What makes a training step fast on this machine, each change with what was expected of it and what it gave.

    python benchmarks/training_speed.py [RECIPE] [--steps 40] [--warm 100] [--rounds 2] [--only NAME …]

Each variant runs in processes of its own, turn by turn; a rate is the best of its rounds, in steps of the recipe's batch a
second, after `--warm` steps, which compile and let the carry fill with states of all stages. "two runs" trains two models
at once with one thread each and counts the steps of both.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import hrm.optim
from hrm.bench import processor
from hrm.config import load_recipe
from hrm.train import Ranks, Trainer, settle

VARIANTS: dict[str, dict] = {
    "float32, eager": {"set": ["arch.forward_dtype=float32", "compile=false"], "expected": "the start"},
    "float32, compiled": {"set": ["arch.forward_dtype=float32"], "expected": "1.5 to 2, fused elementwise work"},
    "float32, compiled, every position": {
        "set": ["arch.forward_dtype=float32", "arch.lattice=full"],
        "expected": "0.5: about a third of the values still stand",
    },
    "float32, compiled, torch's Muon": {
        "set": ["arch.forward_dtype=float32"],
        "torchs_muon": True,
        "expected": "0.9 where bfloat16 products are emulated",
    },
    "bfloat16, eager": {"set": ["arch.forward_dtype=bfloat16", "compile=false"], "expected": "2, if products dominate"},
    "bfloat16, compiled": {"set": ["arch.forward_dtype=bfloat16"], "expected": "both"},
    "bfloat16, compiled, two runs": {
        "set": ["arch.forward_dtype=bfloat16"],
        "runs": 2,
        "expected": "a little more in all: no waiting of threads for each other",
    },
    "bfloat16, C++ templates for products": {
        "set": ["arch.forward_dtype=bfloat16"],
        "templates": True,
        "expected": "1.2, elementwise work fused into products",
    },
    "bfloat16, batch 8": {
        "set": ["arch.forward_dtype=bfloat16", "global_batch_size=8"],
        "expected": "1.2 in rows, states stay in the cache",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="candidates-sudoku-1k")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(rate(asked, VARIANTS[asked.one])))
        return
    names = asked.only or list(VARIANTS)
    best = dict.fromkeys(names, 0.0)
    for _ in range(asked.rounds):
        for name in names:
            best[name] = max(best[name], measured(asked, name))
    print(f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}, `{' '.join(sys.argv)}`\n")
    print("| variant | expected | rows a second | against the first |\n| --- | --- | --- | --- |")
    for name in names:
        print(f"| {name} | {VARIANTS[name]['expected']} | {best[name]:.0f} | {best[name] / best[names[0]]:.2f} |")


def measured(asked: argparse.Namespace, name: str) -> float:
    """Rows a second of one round, all runs of the variant together."""
    runs = VARIANTS[name].get("runs", 1)
    environment = dict(os.environ) | ({"OMP_NUM_THREADS": "1"} if runs > 1 else {})
    command = [sys.executable, __file__, asked.recipe, "--one", name]
    command += ["--steps", str(asked.steps), "--warm", str(asked.warm)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(runs)]
    return sum(json.loads(process.communicate()[0].splitlines()[-1]) for process in started)


def rate(asked: argparse.Namespace, variant: dict) -> float:
    if variant.get("torchs_muon"):
        hrm.optim.Muon.step = torch.optim.Muon.step
    if variant.get("templates"):
        import torch._inductor.config as inductor

        inductor.max_autotune, inductor.max_autotune_gemm_backends = True, "CPP,ATEN"
    with tempfile.TemporaryDirectory() as folder:
        recipe = settle(load_recipe(asked.recipe, variant["set"]), Path(folder), None)
        trainer = Trainer(recipe, Path(folder), Ranks(), lambda step, metrics: None)
        for _ in range(asked.warm):
            trainer.train_step()
        trainer.read_metrics()  # waits for the device
        started = time.perf_counter()
        for _ in range(asked.steps):
            trainer.train_step()
        trainer.read_metrics()
        return asked.steps * recipe.global_batch_size / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
