"""Speed of a training step and of solving, and the same of a checkout of sapientinc/HRM, turn by turn in one run.

    python benchmarks/speed.py train [RECIPE] [--batch 16] [--rounds 3] [--reference PATH]
    python benchmarks/speed.py memory [RECIPE] [--batch 16] [--reference PATH]
    python benchmarks/speed.py solve [WEIGHTS] [--puzzles 64] [--batch 64] [--alone 16] [--rounds 5] [--reference PATH]

`train` tells what drawing a batch costs as well, augmented and labelled as the recipe says.
`--device cuda` measures `train` and `solve` on a GPU (not run on one yet).

With `--reference`, for a RECIPE of the paper's kind, both run one HRM on the same weights and rows: the paper's network of 27
million parameters at random, or for `solve` WEIGHTS trained in our code, whose exact@1 is then printed for each. Both compute
in the machine's dtype, the faster one here; the reference's own is bfloat16, which a CPU without bf16 products emulates
(`--reference-dtype`). The reference's missing CUDA parts are stood in for, outside its checkout: flash_attn by
scaled_dot_product_attention, the AdamATan2 extension by ours. Prints a Markdown table: medians over the rounds, FLOPs of the
uncompiled work by torch's counter, and the share of the matrix-product rate measured on this machine. `memory` runs each way
of training in a process of its own and tells by how much its largest resident size, over two steps after two to warm up,
exceeds what the process held before anything was built: weights, gradients, optimizer state and activations. (Linux, CPU.)
"""

import argparse
import ctypes
import gc
import itertools
import subprocess
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from hrm.bench import Timed, ceiling, flop_counter, processor, timed
from hrm.config import ModelConfig, Recipe, load_recipe
from hrm.data import Split, load_split
from hrm.halting import empty_carry
from hrm.model import HRM, machine_dtype
from hrm.optim import AdamATan2, SparseSignSGD, build_optimizers
from hrm.reasoner import Reasoner
from hrm.sampling import DeviceSampler
from hrm.supervision import supervised_deduction, supervised_segment
from hrm.tasks import task_for
from hrm.train import augmentation, model_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "memory", "solve"))
    parser.add_argument("name", nargs="?", help="recipe or weights")
    parser.add_argument(
        "--batch",
        type=int,
        help="train: rows of a step (16); solve: the reference's rows of a batch, our slots (all puzzles)",
    )
    parser.add_argument("--puzzles", type=int, default=64, help="solve: so many together")
    parser.add_argument("--alone", type=int, default=16, help="solve: and the first so many one after the other")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", default="sudoku-hard-1k", help="solve: built-in set or folder to take test rows from")
    parser.add_argument(
        "--backends", nargs="*", help="solve: ours to measure; default: eager, compiled and, on the CPU, openvino"
    )
    parser.add_argument(
        "--halts", nargs="*", default=["never", "auto"], help="solve: ours to measure, of trained weights"
    )
    parser.add_argument("--reference", help="checkout of sapientinc/HRM")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--reference-dtype", choices=("bfloat16", "float32"), help="default: the machine's")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.what == "memory" and asked.device != "cpu":
        parser.error("memory: of a CPU process only")
    asked.reference_dtype = asked.reference_dtype or machine_dtype(asked.device)
    if asked.backends is None:
        asked.backends = ["eager", "compiled", *["openvino"] * (asked.device == "cpu")]
    asked.batch = asked.batch or (asked.puzzles if asked.what == "solve" else 16)
    if asked.measure:
        print(needed(training(asked)[asked.measure]))
        return
    machine = processor() if asked.device == "cpu" else torch.cuda.get_device_name()
    print(
        f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{machine_dtype(asked.device)} matrix products {ceiling(asked.device) / 1e9:.0f} GFLOP/s, `{' '.join(sys.argv)}`\n"
    )
    if asked.what == "memory":
        report_memory(list(training(asked)))
    elif asked.what == "train":
        steps, way = {name: make() for name, make in training(asked).items()}, f"step of {asked.batch}"
        sampler, drawn = drawing(asked)[-1], itertools.count()
        steps["ours, drawing the next batch"] = lambda: sampler.batch(next(drawn))
        contenders = [Contender(name, way, asked.batch, step, Counted(step)) for name, step in steps.items()]
        for one in contenders:
            one.counted()  # a first step, which compiles otherwise than those that follow it
        report(contenders, asked.rounds, asked.device)
    else:
        report_exact(asked, report(solving(asked), asked.rounds, asked.device))


class Counted:
    """A unit of uncompiled work that counts the FLOPs of its first run."""

    def __init__(self, unit: Callable[[], object]) -> None:
        self.unit, self.flops = unit, None

    def __call__(self) -> object:
        if self.flops is not None:
            return self.unit()
        with flop_counter() as counter:
            done = self.unit()
        self.flops = counter.get_total_flops()
        return done


class Contender(NamedTuple):
    name: str
    way: str
    """How it takes its rows."""
    rows: int
    work: Callable[[], object]
    counted: Counted
    """The same work as torch's counter can see it."""


def report(contenders: list[Contender], rounds: int, device: str) -> list[Timed]:
    found, top = timed([(one.name, one.work) for one in contenders], rounds, device), ceiling(device)
    base = found[0].median / contenders[0].rows
    print(f"| | rows | median ms a row | range | GFLOP a row | GFLOP/s | share of ceiling | {found[0].name} ÷ this |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for one, (_, way, rows, _, counted) in zip(found, contenders, strict=True):
        if counted.flops is None:
            counted()
        row, each = one.row(counted.flops, top), 1000 / rows
        spread = f"{row['fastest_s'] * each:.1f}–{row['slowest_s'] * each:.1f}"
        done = f"{row['gflop'] / rows:.2f} | {row['gflop_per_s']:.0f} | {row['share_of_ceiling']:.0%}"
        print(f"| {one.name} | {way} | {one.median * each:.1f} | {spread} | {done} | {base * rows / one.median:.2f} |")
    return found


def report_memory(names: list[str]) -> None:
    first = None
    print(f"| | MB | {names[0]} ÷ this |\n| --- | --- | --- |")
    for name in names:
        asked = [sys.executable, *sys.argv, "--measure", name]
        held = int(subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])
        first = first or held
        print(f"| {name} | {held / 1e6:,.0f} | {first / held:.2f} |", flush=True)


def needed(make: Callable[[], Callable[[], object]]) -> int:
    """Bytes by which two steps of what `make` builds exceed what this process holds now, at their largest."""
    torch.compile(lambda x: x + 1)(torch.ones(2))  # so that what compiling itself loads is here before
    before = resident()
    step = make()
    for _ in range(2):
        step()
    resident()  # what warming up alone needed is given back
    Path("/proc/self/clear_refs").write_text("5")  # forgets the largest size so far
    for _ in range(2):
        step()
    return memory_of_process("VmHWM") - before


def resident() -> int:
    """Bytes in use, what is free given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return memory_of_process("VmRSS")


def memory_of_process(field: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def paper_model(device: str) -> HRM:
    recipe = load_recipe("hrm-sudoku-1k", [f"arch.forward_dtype={machine_dtype(device)}"])
    torch.manual_seed(0)
    return HRM(ModelConfig(**recipe.arch.model_dump(), vocab_size=11, seq_len=81)).to(device)


def training(asked: argparse.Namespace) -> dict[str, Callable[[], Callable[[], object]]]:
    """What makes an optimizer step of `--batch`: the reference's, ours as it is, compiled, and without the target's forward.

    The last leaves out what TRM leaves out, the second forward for the target of Q_continue: another halting, named so.
    Steps meet one batch again and again.
    """
    recipe, split, sampler = drawing(asked)
    batch = sampler.batch(0)

    def model(**changes) -> HRM:
        torch.manual_seed(0)
        return HRM(model_config(recipe, split.metadata, **changes)).to(asked.device)

    def theirs(compiled: bool) -> Callable[[], object]:
        return reference_step(asked, model(), batch, compiled)

    def ours(compiled: bool, **changes) -> Callable[[], object]:
        net = model(**changes)
        if compiled:
            net.compile_levels()
        return our_step(net, recipe, batch, compiled)

    contenders = {"reference": partial(theirs, False), "reference, compiled": partial(theirs, True)}
    contenders = contenders if asked.reference else {}
    contenders |= {"ours": partial(ours, False), "ours, compiled": partial(ours, True)}
    if recipe.arch.halting == "q_learning":
        contenders |= {"ours, compiled, halt_only": partial(ours, True, halting="halt_only")}
    return contenders


def drawing(asked: argparse.Namespace) -> tuple[Recipe, Split, DeviceSampler]:
    """The recipe, its training rows, and what draws batches of them, augmented and labelled as it says."""
    recipe = load_recipe(asked.name or "hrm-sudoku-1k", [f"arch.forward_dtype={machine_dtype(asked.device)}"])
    split = load_split(recipe.data_path, "train")
    augment = augmentation(recipe, task_for(recipe.task, split.metadata.seq_len))
    return recipe, split, DeviceSampler(split, batch_size=asked.batch, seed=0, device=asked.device, augment=augment)


def our_step(model: HRM, recipe: Recipe, batch: dict[str, torch.Tensor], compiled: bool) -> Callable[[], object]:
    optimizers = [o for o, _ in build_optimizers(model, recipe, compiled)]
    sparse = SparseSignSGD(model.puzzle_emb.weights, 1e-4, 1.0) if model.config.puzzle_emb_ndim else None
    carry, rows = empty_carry(model, batch), len(batch["inputs"])
    cycles = recipe.random_H_cycles and round(sum(recipe.random_H_cycles) / 2)
    graded = {"q_loss_weight": recipe.q_loss_weight, "H_cycles": cycles}
    generator, segment = torch.Generator(model.H_init.device), partial(supervised_segment, loss_type=recipe.loss_type)
    if model.config.deduces:
        task = task_for(recipe.task, model.config.seq_len)
        segment = partial(supervised_deduction, task=task, hints=recipe.start_hints, wrong=recipe.start_wrong)

    def step() -> None:
        nonlocal carry
        done = segment(model, carry, batch, generator, **graded)
        (done.loss / rows).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if sparse:
            sparse.step_rows(done.carry.data["puzzle_identifiers"], done.puzzle_rows.grad)
        carry = done.carry

    return step


def solving(asked: argparse.Namespace) -> list[Contender]:
    """Puzzles one by one and together: the reference's fixed number of segments, ours the same and with halting.

    Without weights the paper's network is drawn at random, and only full depth means anything.
    """
    tokens = load_split(asked.data, "test").inputs[: asked.puzzles]
    alone = [tokens[[row]] for row in range(min(asked.alone, len(tokens)))]
    takes = {f"{len(alone)}, one by one": alone, f"{len(tokens)} together": [tokens]}
    contenders: list[Contender] = []

    def units(solve: Callable[[np.ndarray], object]) -> dict[str, Callable[[], object]]:
        return {
            way: partial(lambda batches: [solve(batch) for batch in batches], taken) for way, taken in takes.items()
        }

    def counted(work: dict[str, Callable[[], object]]) -> dict[str, Counted]:
        return {way: Counted(unit) for way, unit in work.items()}

    def add(name: str, work: dict[str, Callable[[], object]], seen: dict[str, Counted]) -> None:
        for way, taken in takes.items():
            contenders.append(Contender(name, way, sum(map(len, taken)), work[way], seen[way]))

    if asked.name:
        model = Reasoner.load(asked.name, asked.device).model
    else:
        model = paper_model(asked.device).eval()
    if asked.reference:
        theirs = counted(units(reference_solve(asked, model)))
        add(f"reference, {asked.reference_dtype}", theirs, theirs)
    # a carry of candidates is at its end when its grid is full, and has no other depth
    halts = ("auto",) if model.config.deduces else asked.halts if asked.name else ("never",)
    for halt in halts:
        ours = partial(Reasoner, model, halt=halt, passes=1, batch_size=asked.batch)
        eager = counted(units(ours(backend="eager").run))
        for backend in asked.backends:
            reasoner = ours(backend=backend)
            add(f"{backend}, halt={reasoner.halt}", eager if backend == "eager" else units(reasoner.run), eager)
    return contenders


def report_exact(asked: argparse.Namespace, found: list[Timed]) -> None:
    """What each got right of the rows that it took together, in its first run."""
    if not asked.name:
        return
    labels = load_split(asked.data, "test").labels[: asked.puzzles]
    print()
    for one in found[1::2]:
        (got,) = one.result
        answers = getattr(got, "tokens", got)
        depth = "" if answers is got else f", {got.segments.mean():.2f} segments a puzzle"
        print(f"{one.name}: exact@1 {(answers == labels).all(1).mean():.2%} of {len(labels)}{depth}")


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


def build_reference(asked: argparse.Namespace, model: HRM, batch_size: int) -> tuple:
    kind, head, sparse = import_reference(asked.reference)
    names = "H_cycles L_cycles H_layers L_layers hidden_size expansion num_heads pos_encodings".split()
    config = {name: getattr(model.config, name) for name in names} | {"halt_max_steps": model.config.max_segments}
    config |= {"batch_size": batch_size, "num_puzzle_identifiers": 1}
    config |= {name: getattr(model.config, name) for name in ("seq_len", "vocab_size")}
    config |= {"halt_exploration_prob": 0.1, "puzzle_emb_ndim": model.config.puzzle_emb_ndim}
    config |= {"forward_dtype": asked.reference_dtype}
    with torch.device(asked.device):  # as its pretrain.py does
        theirs = head(kind(config), "stablemax_cross_entropy")
    theirs.load_state_dict({f"model.inner.{key}": value for key, value in model.state_dict().items()})
    return theirs, sparse


def reference_step(
    asked: argparse.Namespace, model: HRM, batch: dict[str, torch.Tensor], compiled: bool
) -> Callable[[], object]:
    theirs, sparse_kind = build_reference(asked, model, len(batch["inputs"]))
    sparse = sparse_kind(theirs.model.puzzle_emb.buffers(), lr=1e-4, weight_decay=1.0, world_size=1)
    dense = AdamATan2(theirs.parameters(), 1e-4, (0.9, 0.95), 1.0, compiled=compiled)
    theirs.train()
    with torch.device(asked.device):
        carry = theirs.initial_carry(batch)
    run = torch.compile(theirs, dynamic=False) if compiled else theirs  # as its pretrain.py does

    def step() -> None:
        nonlocal carry
        carry, loss, _, _, _ = run(carry=carry, batch=batch, return_keys=[])
        (loss / len(batch["inputs"])).backward()
        for optimizer in (sparse, dense):
            optimizer.step()
            optimizer.zero_grad()

    return step


def reference_solve(asked: argparse.Namespace, model: HRM) -> Callable[[np.ndarray], np.ndarray]:
    theirs, _ = build_reference(asked, model, 1)
    theirs.eval()

    def solve(tokens: np.ndarray) -> np.ndarray:
        batches = np.split(tokens, range(asked.batch, len(tokens), asked.batch))
        return np.concatenate([solve_batch(batch) for batch in batches])

    @torch.inference_mode()
    def solve_batch(tokens: np.ndarray) -> np.ndarray:
        inputs = torch.from_numpy(tokens).to(asked.device, torch.int32)
        batch = {"inputs": inputs, "labels": inputs, "puzzle_identifiers": inputs.new_zeros(len(inputs))}
        with torch.device(asked.device):
            carry = theirs.initial_carry(batch)
        while True:
            carry, _, _, out, finished = theirs(carry=carry, batch=batch, return_keys=["logits"])
            if finished:
                return out["logits"].argmax(-1).cpu().numpy().astype(np.uint8)

    return solve


if __name__ == "__main__":
    main()
