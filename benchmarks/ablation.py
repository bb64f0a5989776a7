"""What mattered: variants of a recipe, each trained for the same wall time, compared on validation rows.

    python benchmarks/ablation.py lattice-sudoku-1k --minutes 8 [--data FOLDER] [--only NAME …] [--seed 0]

Every variant's speed is measured first, then its number of steps set so that the run takes the time allowed (compiling
and evaluating left out), with the whole schedule inside it. Accuracy is exact@1 of the running mean at full depth and at
twice that, on the first --rows validation rows; no test row is read.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from hrm.config import load_recipe
from hrm.data import load_split
from hrm.evaluate import evaluate
from hrm.reasoner import Reasoner
from hrm.train import Ranks, Trainer, settle, train

VARIANTS: dict[str, list[str]] = {
    "as it is": [],
    "no reclued rows": ["reclue=0"],
    "hints only, no givens lost": ["reclue_drop=0"],
    "few hints": ["reclue_hints=10", "reclue_drop=0.9"],
    "one shared module": ["arch.levels=shared", "arch.H_layers=0"],
    "one state": ["arch.levels=single", "arch.H_layers=0", "arch.L_cycles=3"],
    "fixed initial state": ["arch.initial_state=fixed"],
    "carry of 16 segments": ["arch.halt_max_steps=16", "random_H_cycles=null", "arch.H_cycles=4"],
    "gradient through one cycle": ["arch.gradient=1"],
    "shallow, 3 to 8 cycles": ["random_H_cycles=[3,8]"],
    "deep, 4 to 32 cycles": ["random_H_cycles=[4,32]"],
    "width 32": ["arch.hidden_size=32"],
    "width 64": ["arch.hidden_size=64"],
    "batch 64": ["global_batch_size=64"],
    "AdamW": ["optimizer=adamw"],
    "no running mean": ["ema=null"],
    "MLP over positions, width 128": [
        *("arch.mixer=mlp", "arch.pos_encodings=learned", "arch.initial_state=fixed", "arch.puzzle_emb_len=1"),
        *("arch.hidden_size=128", "arch.expansion=2.25", "arch.mixer_expansion=2.9", "global_batch_size=64"),
    ],
    "attention with 2-D RoPE, width 128": [
        *("arch.mixer=attention", "arch.pos_encodings=rope2d", "arch.initial_state=fixed", "arch.puzzle_emb_len=1"),
        *("arch.hidden_size=128", "arch.num_heads=4", "global_batch_size=64"),
    ],
}
WARM, TIMED = 15, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--data", help="data-set folder with train and val splits; default: the recipe's")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS))
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, `{' '.join(sys.argv)}`\n")
    print("| variant | parameters | steps | steps/s | loss at the end | exact@1 | at twice the depth |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in asked.only or VARIANTS:
        overrides = [*VARIANTS[name], f"seed={asked.seed}", "test_at_end=false", "eval_every=null", "steps=1000000"]
        if asked.data:
            overrides.append(f"data_path={asked.data}")
        with tempfile.TemporaryDirectory() as folder:
            rate = speed(asked.recipe, overrides, Path(folder))
            recipe = load_recipe(asked.recipe, [*overrides, f"steps={max(10, round(rate * asked.minutes * 60))}"])
            losses: list[float] = []
            held: list[Trainer] = []
            train(
                recipe,
                runs=Path(folder),
                report=lambda step, metrics, seen=losses: seen.append(metrics.get("train/lm_loss", float("nan"))),
                started=held.append,
            )
            trainer = held[0]
            rows = load_split(recipe.data_path, "val")
            model = (trainer.mean.module if trainer.mean else trainer.model).eval()
            depth = model.config.max_segments
            shares = [
                evaluate(
                    Reasoner(model, recipe.task, halt="never", max_segments=most, batch_size=128), rows, asked.rows
                )
                for most in (depth, 2 * depth)
            ]
            print(
                f"| {name} | {sum(p.numel() for p in model.parameters()):,} | {trainer.step} | {rate:.2f} "
                f"| {losses[-1]:.3f} | {shares[0]['exact@1']:.1%} | {shares[1]['exact@1']:.1%} |",
                flush=True,
            )


def speed(name: str, overrides: list[str], folder: Path) -> float:
    """Training steps a second, after compilation, over the depths that the recipe draws."""
    recipe = settle(load_recipe(name, overrides), folder, None)
    trainer = Trainer(recipe, folder, Ranks(), lambda step, metrics: None)
    for _ in range(WARM):
        trainer.train_step()
    started = time.perf_counter()
    for _ in range(TIMED):
        trainer.train_step()
    return TIMED / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
