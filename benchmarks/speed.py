"""Speed of a training step and of solving, and the same of a checkout of sapientinc/HRM, turn by turn in one run.

    python benchmarks/speed.py train [RECIPE] [--batch 16] [--rounds 3] [--reference PATH]
    python benchmarks/speed.py solve [WEIGHTS] [--puzzles 64] [--rounds 5] [--reference PATH]

With `--reference` both run the paper's 27-million-parameter HRM on the same random weights and rows, in bfloat16 as the
reference does, after their outputs have been compared. The reference's missing CUDA parts are stood in for, outside its
checkout: flash_attn by scaled_dot_product_attention, the AdamATan2 extension by ours. Prints a Markdown table: medians
over the rounds, FLOPs by torch's counter, and the share of the matrix-product rate measured on this machine.
"""

import argparse
import sys
import types
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from hrm.bench import ceiling, processor, timed
from hrm.config import ModelConfig, load_recipe
from hrm.data import DeviceSampler, load_split
from hrm.halting import empty_carry
from hrm.model import HRM, machine_dtype
from hrm.optim import AdamATan2, SparseSignSGD
from hrm.reasoner import Reasoner
from hrm.supervision import supervised_segment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "solve"))
    parser.add_argument("name", nargs="?", help="recipe or weights")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--puzzles", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reference", help="checkout of sapientinc/HRM")
    asked = parser.parse_args()
    print(
        f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"bf16 matrix products {ceiling() / 1e9:.0f} GFLOP/s, `{' '.join(sys.argv)}`\n"
    )
    contenders = training(asked) if asked.what == "train" else solving(asked)
    report(contenders, asked.rounds)


Contender = tuple[str, Callable[[], object], str]
"""Name, one unit of work, what the unit is."""


def report(contenders: list[Contender], rounds: int) -> None:
    found, top = timed([(name, work) for name, work, _ in contenders], rounds), ceiling()
    base = found[0].median
    print(f"| | unit | median s | range | GFLOP | GFLOP/s | share of ceiling | {contenders[0][0]} ÷ this |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for one, (_, _, unit) in zip(found, contenders, strict=True):
        row = one.row(top)
        spread = f"{row['fastest_s']:.3f}–{row['slowest_s']:.3f}"
        work_done = f"{row['gflop']:.2f} | {row['gflop_per_s']:.0f} | {row['share_of_ceiling']:.0%}"
        print(f"| {one.name} | {unit} | {one.median:.3f} | {spread} | {work_done} | {base / one.median:.2f} |")


def paper_model() -> HRM:
    recipe = load_recipe("hrm-sudoku-1k", ["arch.forward_dtype=bfloat16"])
    torch.manual_seed(0)
    return HRM(ModelConfig(**recipe.arch.model_dump(), vocab_size=11, seq_len=81))


def training(asked: argparse.Namespace) -> list[Contender]:
    """One optimizer step at batch `--batch`."""
    name = asked.name or "hrm-sudoku-1k"
    recipe = load_recipe(name, [f"arch.forward_dtype={machine_dtype('cpu')}"])
    split = load_split(recipe.data_path, "train")
    if name == "hrm-sudoku-1k":
        model = paper_model()
    else:
        shape = {"vocab_size": split.metadata.vocab_size, "seq_len": split.metadata.seq_len}
        model = HRM(ModelConfig(**recipe.arch.model_dump(), **shape))
    batch = DeviceSampler(split, batch_size=asked.batch, seed=0).batch(0)
    contenders = []
    if asked.reference:
        contenders.append(("reference", reference_step(asked.reference, model, batch), f"step of {asked.batch}"))
    from hrm.optim import build_optimizers

    optimizers = [o for o, _ in build_optimizers(model, recipe)]
    sparse = SparseSignSGD(model.puzzle_emb.weights, 1e-4, 1.0)
    carry = empty_carry(model, batch)

    def ours() -> None:
        nonlocal carry
        cycles = recipe.random_H_cycles and round(sum(recipe.random_H_cycles) / 2)
        done = supervised_segment(
            model, carry, batch, torch.Generator(), loss_type=recipe.loss_type, q_loss_weight=0.5, H_cycles=cycles
        )
        (done.loss / asked.batch).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if model.config.puzzle_emb_ndim:
            sparse.step_rows(done.carry.data["puzzle_identifiers"], done.puzzle_rows.grad)
        carry = done.carry

    return [*contenders, ("ours", ours, f"step of {asked.batch}")]


def solving(asked: argparse.Namespace) -> list[Contender]:
    """One puzzle, and `--puzzles` of them at once, full depth and with halting."""
    tokens = load_split("sudoku-hard-1k", "test").inputs[: asked.puzzles]
    contenders: list[Contender] = []
    if asked.reference or not asked.name:
        model = paper_model().eval()
        reasoner = Reasoner(model, halt="never", batch_size=asked.puzzles)
        if asked.reference:
            solve = reference_solve(asked.reference, model)
            theirs, ours = solve(tokens[:8]), reasoner.run(tokens[:8]).tokens
            print(f"same answer in {np.mean(theirs == ours):.2%} of cells on 8 puzzles (random weights, bfloat16)\n")
            contenders.append(("reference, 1 puzzle", lambda: solve(tokens[:1]), "16 segments"))
        contenders.append(("ours, 1 puzzle", lambda: reasoner.run(tokens[:1]), "16 segments"))
        if asked.reference:
            contenders.append((f"reference, {asked.puzzles} puzzles", lambda: solve(tokens), "16 segments"))
        contenders.append((f"ours, {asked.puzzles} puzzles", lambda: reasoner.run(tokens), "16 segments"))
    if asked.name:
        for halt in ("never", "auto"):
            loaded = Reasoner.load(asked.name, halt=halt, batch_size=asked.puzzles)
            label = f"{asked.name}, halt={loaded.halt}"
            contenders.append((f"{label}, 1 puzzle", lambda r=loaded: r.run(tokens[:1]), "to its answer"))
            contenders.append((f"{label}, {asked.puzzles} puzzles", lambda r=loaded: r.run(tokens), "to their answers"))
    return contenders


# --- the reference, run from its checkout -----------------------------------------------------------------------------


def import_reference(path: str) -> tuple:
    """Its model and loss head, with flash_attn stood in for."""

    def flash_attn_func(q, k, v, causal=False):
        assert not causal
        return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)

    stand_in = types.ModuleType("flash_attn")
    stand_in.flash_attn_func = flash_attn_func
    sys.modules["flash_attn"] = stand_in
    sys.path.insert(0, path)
    try:
        from models.hrm.hrm_act_v1 import HierarchicalReasoningModel_ACTV1
        from models.losses import ACTLossHead
        from models.sparse_embedding import CastedSparseEmbeddingSignSGD_Distributed
    except ImportError as error:
        raise SystemExit(f"--reference {path}: not a checkout of sapientinc/HRM ({error})") from None
    return HierarchicalReasoningModel_ACTV1, ACTLossHead, CastedSparseEmbeddingSignSGD_Distributed


def build_reference(path: str, model: HRM, batch_size: int) -> tuple:
    kind, head, sparse = import_reference(path)
    names = "H_cycles L_cycles H_layers L_layers hidden_size expansion num_heads pos_encodings halt_max_steps".split()
    config = {name: getattr(model.config, name) for name in names}
    config |= {"batch_size": batch_size, "seq_len": 81, "vocab_size": 11, "num_puzzle_identifiers": 1}
    config |= {"halt_exploration_prob": 0.1, "puzzle_emb_ndim": model.config.puzzle_emb_ndim}
    theirs = head(kind(config), "stablemax_cross_entropy")
    theirs.load_state_dict({f"model.inner.{key}": value for key, value in model.state_dict().items()})
    return theirs, sparse


def reference_step(path: str, model: HRM, batch: dict[str, torch.Tensor]) -> Callable[[], object]:
    theirs, sparse_kind = build_reference(path, model, len(batch["inputs"]))
    sparse = sparse_kind(theirs.model.puzzle_emb.buffers(), lr=1e-4, weight_decay=1.0, world_size=1)
    dense = AdamATan2(theirs.parameters(), 1e-4, (0.9, 0.95), 1.0)
    theirs.train()
    carry = theirs.initial_carry(batch)

    def step() -> None:
        nonlocal carry
        carry, loss, _, _, _ = theirs(carry=carry, batch=batch, return_keys=[])
        (loss / len(batch["inputs"])).backward()
        for optimizer in (sparse, dense):
            optimizer.step()
            optimizer.zero_grad()

    return step


def reference_solve(path: str, model: HRM) -> Callable[[np.ndarray], np.ndarray]:
    theirs, _ = build_reference(path, model, 1)
    theirs.eval()

    @torch.inference_mode()
    def solve(tokens: np.ndarray) -> np.ndarray:
        inputs = torch.from_numpy(tokens).to(torch.int32)
        batch = {"inputs": inputs, "labels": inputs, "puzzle_identifiers": inputs.new_zeros(len(inputs))}
        carry = theirs.initial_carry(batch)
        while True:
            carry, _, _, out, finished = theirs(carry=carry, batch=batch, return_keys=["logits"])
            if finished:
                return out["logits"].argmax(-1).numpy().astype(np.uint8)

    return solve


if __name__ == "__main__":
    main()
