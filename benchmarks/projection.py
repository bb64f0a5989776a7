"""How long the full recipes take: FLOPs of a step counted, its time measured at a small batch, the rest arithmetic.

    python benchmarks/projection.py hrm-arc trm-arc [--data FOLDER] [--batch 2] [--share 0.4] [--peak 989e12]

The recipes are ones of a latent carry. Hours are projections, not measurements: on this machine, step time at `--batch` times
(recipe's batch ÷ that) times the recipe's steps; on one and eight H200, FLOPs of the whole run over `--share` of their bf16
peak, a share that this program assumes.
"""

import argparse
import time

import torch

from hrm.bench import flops_of, processor
from hrm.config import load_recipe
from hrm.data import load_split
from hrm.halting import empty_carry
from hrm.model import HRM, machine_dtype
from hrm.optim import build_optimizers
from hrm.sampling import DeviceSampler
from hrm.supervision import supervised_segment
from hrm.train import model_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--data", help="data-set folder, instead of the recipe's")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.4)
    parser.add_argument("--peak", type=float, default=989e12)
    asked = parser.parse_args()
    print(
        f"{processor()}, {torch.get_num_threads()} threads; H200: {asked.share:.0%} of {asked.peak:.3g} FLOP/s assumed\n"
    )
    print("| recipe | steps | batch | GFLOP an example | PFLOP in all | s at a batch of", end=" ")
    print(f"{asked.batch} | hours here | hours, 1 H200 | hours, 8 H200 |\n|" + " --- |" * 9)
    for name in asked.recipes:
        recipe = load_recipe(name, [f"data_path={asked.data}"] if asked.data else [])
        split = load_split(recipe.data_path, "train")
        meta = split.metadata
        model = HRM(model_config(recipe, meta, forward_dtype=machine_dtype("cpu")))
        batch = DeviceSampler(split, batch_size=asked.batch, seed=0).batch(0)
        optimizers = [o for o, _ in build_optimizers(model, recipe)]
        carry = empty_carry(model, batch)

        def step(model=model, carry=carry, batch=batch, recipe=recipe, optimizers=optimizers) -> None:
            how = {"loss_type": recipe.loss_type, "q_loss_weight": recipe.q_loss_weight}
            supervised_segment(model, carry, batch, torch.Generator(), **how).loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

        step()
        flops = flops_of(step)
        started = time.perf_counter()
        for _ in range(3):
            step()
        seconds = (time.perf_counter() - started) / 3
        steps = recipe.total_steps(meta.total_groups * meta.mean_puzzle_examples)
        example = flops / asked.batch
        whole = example * recipe.global_batch_size * steps
        here = seconds * recipe.global_batch_size / asked.batch * steps / 3600
        h200 = whole / (asked.share * asked.peak) / 3600
        print(
            f"| {name} | {steps:,} | {recipe.global_batch_size} | {example / 1e9:.0f} | {whole / 1e15:,.0f} |", end=" "
        )
        print(f"{seconds:.2f} | {here:,.0f} | {h200:.1f} | {h200 / 8:.1f} |", flush=True)


if __name__ == "__main__":
    main()
