"""Widen a trained model without changing what it computes: to go on training it, or to time a large network at real accuracy.

    python benchmarks/widen.py RUN OUT [--times 4] [--set mlp_round_to=256 …]

Every channel, head and hidden unit is copied, and what reads them is shared out among the copies, at random, for copies
read alike would be trained alike (Net2Net, Chen et al. 2015). So the wide model is as accurate as the narrow one, apart from
rounding, and costs what any model of its size costs. A model trained at that size would have other weights; that it
would halt as early is not said.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hrm import checkpoint as ckpt
from hrm.config import ModelConfig
from hrm.data import load_split
from hrm.model import HRM
from hrm.reasoner import Reasoner


def widened(narrow: HRM, times: int, changes: dict) -> HRM:
    """A model with `times` the channels and heads. Raises ValueError where its MLP is no whole number of copies wide."""
    config = narrow.config
    if not config.mixers <= {"attention", "groups", "conv"} or config.pos_encodings == "learned":
        kinds = f"mixer={config.mixer}, H_mixer={config.H_mixer}, pos_encodings={config.pos_encodings}"
        raise ValueError(f"{kinds}: only attention with RoPE, groups and conv are widened")
    wide = HRM(
        ModelConfig(
            **config.model_dump()
            | {key: getattr(config, key) * times for key in ("hidden_size", "num_heads", "puzzle_emb_ndim")}
            | changes
        )
    )
    tensors = narrow.state_dict()
    wide.load_state_dict(
        {name: copied(name, tensors[name], like, times, config.hidden_size) for name, like in wide.state_dict().items()}
    )
    return wide.eval()


def copied(name: str, tensor: Tensor, like: Tensor, times: int, channels: int) -> Tensor:
    if name.endswith(("embedding_weight", "puzzle_emb.weights")):
        return tensor.repeat(1, times) / math.sqrt(times)  # the model multiplies by the root of its width
    if name.endswith("_init"):
        return tensor.tile(times)
    if name.endswith("bias"):
        return tensor
    gated = ("gate_up_proj.weight", "own.weight", "line.weight", "box_.weight", "cell.weight")
    parts = 3 if "qkv" in name else 2 if name.endswith(gated) else 1  # of the output, each copied by itself
    # and of the input, where a cell hears its neighbours too
    heard = tensor.shape[1] // channels if name.endswith("gate_up_proj.weight") else 1
    out, into = like.shape[0] / tensor.shape[0], like.shape[1] / tensor.shape[1]
    if out != int(out) or into != int(into):
        raise ValueError(f"{name}: {tuple(like.shape)} is no whole number of copies of {tuple(tensor.shape)}")
    copies = tensor.unflatten(1, (heard, -1)).unflatten(0, (parts, -1)).repeat(1, int(out), 1, int(into))
    copies = copies.flatten(0, 1).unflatten(2, (int(into), -1))  # (outputs, heard, copies, channels)
    share = torch.rand(copies.shape) + 0.3
    return (copies * share / share.sum(2, keepdim=True)).flatten(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("out", type=Path)
    parser.add_argument("--times", type=int, default=4)
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=NUMBER", help="fields of the wide model's arch")
    parser.add_argument("--data", help="set whose first 64 test rows both are compared on")
    asked = parser.parse_args()
    found = ckpt.load_weights(asked.run, "cpu", forward_dtype="float32")
    changes = {key: int(value) for key, _, value in (field.partition("=") for field in asked.set)}
    wide = widened(found.model, asked.times, changes)
    ckpt.save_weights(asked.out, wide, found.task, {"trained_on": f"{asked.run}, widened {asked.times} times"})
    count = sum(p.numel() for p in wide.parameters())
    print(f"{asked.out}: {count:,} parameters, from {sum(p.numel() for p in found.model.parameters()):,}")
    if asked.data:
        tokens = load_split(asked.data, "test").inputs[:64]
        before, after = (Reasoner(model, found.task, halt="never").run(tokens).tokens for model in (found.model, wide))
        print(f"same answer in {np.mean(before == after):.2%} of cells of {len(tokens)} puzzles, float32")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
