"""Agreement with the references: re-run what a fixture file recorded and report the largest deviations.

A fixture holds a tiny model of sapientinc/HRM or TinyRecursiveModels, a batch, and what the reference computed from
them in float32: states and logits of every evaluation segment, and loss, halting and gradients of three training steps.
Every recorded tensor is compared; one that is missing, unknown, of another shape or not a number is a failure.

Two things are surprising. Each segment starts from the state that the file recorded before it: random recursive models
are chaotic (rounding grows about 13-fold a segment in a random TRM), so the reference itself, run freely on another
processor, is 4e-2 away from its own recording after four segments. And where even one segment amplifies rounding beyond
the tolerance, the bound is what rounding does to this very tensor, measured by re-running with weights moved by one
unit in the last place.
"""

import json
import re
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import config_from_reference, open_safetensors, state_from_reference
from .halting import empty_carry
from .model import HRM, State
from .supervision import supervised_segment

TOLERANCE = {"logits": 1e-4, "states": 1e-4, "loss": 1e-4, "gradients": 1e-4, "halting": 1e-4}
"""Absolute; gradients relative to each tensor's largest entry. Halting decisions and counts must be equal."""

ROUNDING_MARGIN = 4
"""Allowed multiple of the measured effect of rounding, where that exceeds the tolerance."""

TRAINING_STEPS = 3
OPTIONAL = re.compile(r"train/step2/grad/")
"""Fixtures promise gradients of steps 1 and 3; of step 2 they hold what the reference happened to keep."""


@dataclass
class Agreement:
    """Largest deviation of each group of one fixture, and what made it fail."""

    file: str
    kind: str
    deviation: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TOLERANCE, 0.0))
    compared: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.faults

    def line(self) -> str:
        """One line for people: verdict, deviations, the first fault."""
        numbers = "  ".join(f"{group} {value:.1e}" for group, value in self.deviation.items())
        text = f"{'ok  ' if self.ok else 'FAIL'} {self.file}  {self.kind}  {numbers}  ({self.compared} tensors)"
        if self.faults:
            more = f" (+{len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
            text += f"\n     {self.faults[0]}{more}"
        return text


def check(path: str | Path) -> Agreement:
    """Compare our model with the fixture `path`. Raises ValueError where the file is no fixture at all."""
    tensors, metadata = open_safetensors(path)
    if not {"kind", "config"} <= metadata.keys():
        raise ValueError(f"{path}: not a parity fixture: its header lacks 'kind' and 'config'")
    try:
        recorded_config = json.loads(metadata["config"])
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: header 'config' is not JSON: {error}") from None
    if not isinstance(recorded_config, dict):
        raise ValueError(f"{path}: header 'config' is no JSON object")
    report = Agreement(Path(path).name, metadata["kind"])
    stored = {key.removeprefix("model/"): value for key, value in tensors.items() if key.startswith("model/")}
    try:
        config = config_from_reference(recorded_config, metadata["kind"])
        model = HRM(config)
        state_from_reference(model, stored, where=str(path))
        batch = fixture_batch(tensors, config.seq_len, config.vocab_size, config.num_puzzle_identifiers)
        if recorded_config.get("batch_size", len(batch["inputs"])) != len(batch["inputs"]):
            raise ValueError(
                f"config says batch_size={recorded_config['batch_size']}, the batch has {len(batch['inputs'])}"
            )
    except ValueError as error:
        report.faults.append(str(error))
        return report
    theirs = {key: value for key, value in tensors.items() if not key.startswith(("model/", "batch/"))}
    states = recorded_states(model, batch, theirs)
    ours = rerun(model, batch, states)
    moved = [rerun(nudged(model, seed), batch, states) for seed in range(2)]
    for key in sorted(ours.keys() | theirs.keys()):
        if key not in theirs and OPTIONAL.match(key):
            continue
        rounding = max((gap(key, ours[key], other[key]) for other in moved), default=0.0) if key in ours else 0.0
        compare(report, key, ours.get(key), theirs.get(key), ROUNDING_MARGIN * rounding)
    return report


def fixture_batch(tensors: dict[str, Tensor], seq_len: int, vocab: int, identifiers: int) -> dict[str, Tensor]:
    """The fixture's batch, after a look at shapes and ranges."""
    names = ("inputs", "labels", "puzzle_identifiers")
    missing = [name for name in names if f"batch/{name}" not in tensors]
    if missing:
        raise ValueError(f"batch/{missing[0]} is missing")
    batch = {name: tensors[f"batch/{name}"] for name in names}
    rows = (*batch["inputs"].shape, 0)[0]
    shapes = {"inputs": (rows, seq_len), "labels": (rows, seq_len), "puzzle_identifiers": (rows,)}
    for name, shape in shapes.items():
        if batch[name].shape != shape or batch[name].is_floating_point():
            raise ValueError(f"batch/{name}: expected integers of shape {shape}, got {tuple(batch[name].shape)}")
    labels = batch["labels"]
    for name, limit in (("inputs", vocab), ("puzzle_identifiers", identifiers)):
        if rows == 0 or batch[name].min() < 0 or batch[name].max() >= limit:
            raise ValueError(f"batch/{name}: values must lie in 0..{limit - 1}")
    if not ((labels == -100) | ((labels >= 0) & (labels < vocab))).all():
        raise ValueError(f"batch/labels: values must be -100 or lie in 0..{vocab - 1}")
    return batch


def recorded_states(model: HRM, batch: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[State]:
    """The states that segments 1, 2, … start from: the initial one, then those in the file (zeros where it has none)."""
    states = [model.initial_state(len(batch["inputs"]))]
    for k in range(1, model.config.halt_max_steps):
        pair = [theirs.get(f"eval/segment{k}/{name}") for name in ("z_H", "z_L")]
        fits = [z is not None and z.shape == start.shape for z, start in zip(pair, states[0], strict=True)]
        states.append(tuple(pair) if all(fits) else tuple(map(torch.zeros_like, states[0])))
    return states


def nudged(model: HRM, seed: int) -> HRM:
    """A copy whose weights are moved up or down by one unit in the last place."""
    copy = deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in copy.parameters():
            p.mul_(1 + (torch.randint(0, 2, p.shape, generator=generator) * 2 - 1) * torch.finfo(p.dtype).eps)
    return copy


def rerun(model: HRM, batch: dict[str, Tensor], states: list[State]) -> dict[str, Tensor]:
    """All that a fixture records, computed by our model."""
    return {**evaluation(model.eval(), batch, states), **training(model.train(), batch, states)}


@torch.no_grad()
def evaluation(model: HRM, batch: dict[str, Tensor], states: list[State]) -> dict[str, Tensor]:
    """Every segment from its recorded start, keyed as in the fixture."""
    rows = model.puzzle_rows(batch["puzzle_identifiers"])
    seen = {}
    for k, start in enumerate(states, 1):
        state, out = model(start, batch["inputs"], rows)
        halted = torch.full((len(rows),), k >= len(states))
        named = {"logits": out.logits, "q_halt_logits": out.q_halt, "q_continue_logits": out.q_continue}
        named |= {"z_H": state[0], "z_L": state[1], "halted": halted}
        seen |= {f"eval/segment{k}/{name}": value for name, value in named.items()}
    return seen


def training(model: HRM, batch: dict[str, Tensor], states: list[State]) -> dict[str, Tensor]:
    """Three training segments over one batch, weights unchanged, keyed as in the fixture."""
    seen = {}
    carry = empty_carry(model, batch)
    for k in range(1, TRAINING_STEPS + 1):
        model.zero_grad()
        step = supervised_segment(
            model, carry, batch, torch.Generator(), loss_type="stablemax_cross_entropy", q_loss_weight=0.5
        )
        step.loss.backward()
        seen |= {f"train/step{k}/loss": step.loss, f"train/step{k}/halted": step.carry.halted}
        seen |= {f"train/step{k}/steps": step.carry.steps}
        seen |= {f"train/step{k}/metrics/{name}": value for name, value in step.sums.items()}
        grads = {f"inner.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
        if model.config.puzzle_emb_ndim:
            grads["inner.puzzle_emb.local_weights"] = step.puzzle_rows.grad
        seen |= {f"train/step{k}/grad/{name}": grad.clone() for name, grad in grads.items()}
        # a row that has run s segments is where evaluation was after s segments
        steps = (step.carry.steps % len(states)).tolist()
        start = tuple(torch.stack([states[s][level][row] for row, s in enumerate(steps)]) for level in (0, 1))
        carry = replace(step.carry, state=start)
    return seen


def compare(report: Agreement, key: str, ours: Tensor | None, theirs: Tensor | None, rounding: float) -> None:
    """Add one recorded tensor to the report; it may deviate by the tolerance, or by `rounding` if that is more."""
    if ours is None or theirs is None:
        missing = "our model has no such output" if ours is None else "missing from the file"
        report.faults.append(f"{key}: {missing}")
        return
    if ours.numel() == theirs.numel() == 1:
        ours = ours.view(theirs.shape)  # the fixtures keep scalars as one-element vectors
    if ours.shape != theirs.shape or ours.is_floating_point() != theirs.is_floating_point():
        kinds = [f"{str(t.dtype)[6:]} {tuple(t.shape)}" for t in (theirs, ours)]
        report.faults.append(f"{key}: {kinds[0]} in the file, {kinds[1]} in our model")
        return
    report.compared += 1
    group = group_of(key)
    deviation = gap(key, ours, theirs)
    bound = max(TOLERANCE[group], rounding) if theirs.is_floating_point() else 0.0
    if not report.deviation[group] >= deviation:  # so that nan stays
        report.deviation[group] = deviation
    if not deviation <= bound:
        report.faults.append(f"{key}: deviates by {deviation:.2e}, {bound:.1e} allowed")


def gap(key: str, ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of two tensors of one shape; of gradients relative to the second's largest entry."""
    difference = (ours.detach().double() - theirs.detach().double()).abs().max().item()
    return difference / (theirs.abs().max().item() or 1.0) if "/grad/" in key else difference


def group_of(key: str) -> str:
    """Which of the five groups a recorded tensor counts to."""
    if "/grad/" in key:
        return "gradients"
    if re.search(r"/(z_H|z_L)$", key):
        return "states"
    if key.endswith("/logits"):
        return "logits"
    return "loss" if key.endswith("loss") else "halting"
