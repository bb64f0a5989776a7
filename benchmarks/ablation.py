"""What mattered: variants of a recipe, each trained for the same wall time, compared on validation rows.

    python benchmarks/ablation.py candidates-sudoku-1k --minutes 5 [--data FOLDER] [--only NAME …] [--rows 256]
        [--passes 32] [--seed 0] [--set KEY=VALUE …]

The speeds of all variants are measured first, one after another, for nothing else should run beside that; then each gets as
many steps as take the time allowed (compiling and evaluating left out), with the whole schedule inside them. --set holds for all
variants, to make a large recipe small. Counted are
exact@1, one pass, what of that passes the puzzle's rules, and selected@k, up to --passes passes with the answer chosen by the
model's own signals, on the first --rows validation rows; no test row is read.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from hrm.bench import processor
from hrm.config import load_recipe
from hrm.data import load_split
from hrm.evaluate import count_name, evaluate
from hrm.reasoner import Reasoner
from hrm.train import Ranks, Trainer, settle, train

LATENT = [
    *(
        "arch.carry=latent",
        "arch.lattice=full",
        "arch.initial_state=random",
        "arch.gradient=3",
        "random_H_cycles=[4,16]",
    ),
    *("arch.halt_max_steps=1", "arch.halt_max_steps_eval=32", "q_loss_weight=0.05", "augment=true"),
]
VARIANTS: dict[str, list[str]] = {
    "as it is": [],
    "candidates alone are carried": ["arch.carry=candidates"],
    "rate falls over the last 0.4": ["lr_decay_share=0.4"],
    "random initial states": ["arch.initial_state=random"],
    "latent carry": LATENT,
    "latent carry, reclued rows": [*LATENT, "reclue=0.8"],
    "both levels one module": ["arch.levels=shared", "arch.H_layers=0"],
    "one state": ["arch.levels=single", "arch.H_layers=0", "arch.L_cycles=3"],
    "every position computes": ["arch.lattice=full"],
    "2 cycles a segment": ["arch.H_cycles=2"],
    "6 cycles a segment": ["arch.H_cycles=6"],
    "graded after the last cycle only": ["arch.gradient=1"],
    "no doubt is learned": ["q_loss_weight=0"],
    "no starts with hints": ["start_hints=0"],
    "no starts with a wrong value": ["start_wrong=0"],
    "rule out below 0.01": ["arch.rule_out_below=0.01"],
    "width 32": ["arch.hidden_size=32"],
    "width 64": ["arch.hidden_size=64"],
    "batch 16": ["global_batch_size=16"],
    "batch 64": ["global_batch_size=64"],
    "AdamW": ["optimizer=adamw"],
    "rates tripled": ["muon_lr=0.01", "lr=6e-3"],
    "no running mean": ["ema=null"],
    "no loss of the rules": ["constraint_weight=0"],
    "not told its answer": ["arch.feedback=false"],
    "told its answer as it is": ["feedback_noise=0"],
    "queries and keys of any length": ["arch.qk_norm=false"],
    "not told row, column and box": ["arch.unit_embedding=false"],
    "places by 2-D RoPE alone": ["arch.unit_embedding=false", "arch.pos_encodings=rope2d"],
    "places learned one by one": ["arch.unit_embedding=false", "arch.pos_encodings=learned"],
    "deeper as it goes": ["depth_schedule=[[0,1],[0.3,2],[0.6,3]]"],
    "halting by Q-learning": ["arch.halting=q_learning"],
    "one segment, no deep supervision": ["arch.halt_max_steps=1"],
    "slow attention above conv": ["arch.H_mixer=attention", "arch.pos_encodings=rope2d", "arch.num_heads=4"],
    "MLP over positions, width 128": [
        *("arch.mixer=mlp", "arch.pos_encodings=learned", "arch.hidden_size=128", "augment=true"),
        *("arch.lattice=full", "arch.expansion=2.25", "arch.mixer_expansion=2.9", "global_batch_size=64"),
    ],
    "attention with 2-D RoPE, width 128": [
        *("arch.mixer=attention", "arch.pos_encodings=rope2d", "arch.hidden_size=128", "augment=true"),
        *("arch.lattice=full", "arch.num_heads=4", "global_batch_size=64"),
    ],
}
TIMED = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--data", help="data-set folder with train and val splits; default: the recipe's")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS))
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--passes", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    chosen, recipes = {}, []
    for name in asked.only or VARIANTS:
        overrides = [f"seed={asked.seed}", "test_at_end=false", "eval_every=null", "steps=1000000", *asked.set]
        overrides += [*VARIANTS[name], *([f"data_path={asked.data}"] if asked.data else [])]
        try:
            recipe = load_recipe(asked.recipe, overrides)
        except ValueError as error:
            if asked.only:
                raise
            print(f"{name}: not of this recipe: {error}", file=sys.stderr)
        else:
            if recipe in recipes:
                print(f"{name}: changes nothing of this recipe", file=sys.stderr)
                continue
            recipes.append(recipe)
            chosen[name] = overrides
    if not recipes:
        parser.error(f"{asked.recipe}: no variant is of this recipe")
    if recipes[0].task == "text":
        asked.passes = 1  # without known symmetries there is but one look
    rates = {name: speed(asked.recipe, overrides) for name, overrides in chosen.items()}
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, `{' '.join(sys.argv)}`\n")
    columns = ["variant", "parameters", "steps", "steps/s", "loss at the end", "exact@1", "by the rules"]
    columns += [f"selected@{asked.passes}"] * (asked.passes > 1) + ["segments"]
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|", flush=True)
    for name, overrides in chosen.items():
        recipe = load_recipe(asked.recipe, [*overrides, f"steps={max(10, round(rates[name] * asked.minutes * 60))}"])
        losses: list[float] = []
        held: list[Trainer] = []
        with tempfile.TemporaryDirectory() as folder:
            train(
                recipe,
                runs=Path(folder),
                report=lambda step, metrics, seen=losses: seen.append(metrics.get("train/lm_loss", float("nan"))),
                started=held.append,
            )
        trainer = held[0]
        rows = load_split(recipe.data_path, "val")
        model = (trainer.mean.module if trainer.mean else trainer.model).eval()
        reasoners = [Reasoner(model, recipe.task, passes=k, batch_size=128) for k in sorted({1, asked.passes})]
        found = [evaluate(reasoner, rows, asked.rows) for reasoner in reasoners]
        shares = [report[count_name(reasoner)] for reasoner, report in zip(reasoners, found, strict=True)]
        shares.insert(1, found[0].get("verified"))
        print(
            f"| {name} | {sum(p.numel() for p in model.parameters()):,} | {trainer.step} | {rates[name]:.2f} "
            f"| {losses[-1]:.3f} | {' | '.join('–' if share is None else f'{share:.1%}' for share in shares)} "
            f"| {found[-1]['mean_segments']:.0f} |",
            flush=True,
        )


def speed(name: str, overrides: list[str]) -> float:
    """Training steps a second, after compilation, over the depths that the recipe draws or goes through."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = settle(load_recipe(name, overrides), Path(folder), None)
        trainer = Trainer(recipe, Path(folder), Ranks(), lambda step, metrics: None)
        trainer.total = TIMED
        for _ in range(2):  # the first time round it compiles
            trainer.step, started = 0, time.perf_counter()
            for _ in range(TIMED):
                trainer.train_step()
        return TIMED / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
