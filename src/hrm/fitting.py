"""Test-time training for ARC: fit a model to the demonstrations of one task before its tests are asked.

An identifier that was not in training means nothing to a model, so a new task gets identifiers of its own, one for each
of a few augmentations, whose embeddings start at the mean of the trained ones. Sign-SGD moves them as in training; the
other weights stay, or with `everything` move too. The tests' answers never enter.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from .arc_data import arc_split
from .halting import empty_carry
from .model import HRM
from .optim import SparseSignSGD, adamw
from .sampling import DeviceSampler, stream_seed
from .supervision import supervised_segment
from .tasks.arc import Arc, ArcTask, Pair, draw_table, largest_side

AUGMENTATIONS = 31
"""Identifiers of a fitted task, besides its own."""
BATCH = 32
EMBEDDING_RATE, WEIGHTS_RATE = 3e-2, 5e-4
WARMUP = 20
TABLE, EXPLORATION = 41, 42  # streams of random numbers


@dataclass(frozen=True)
class Fitted:
    """A model that knows one task, under the identifiers 1 … len(table)."""

    model: HRM
    table: np.ndarray
    """(identifiers, 11): the augmentation that each stands for."""
    steps: int
    seconds: float
    loss: float
    """Mean cross-entropy of a demonstration's cells over the last steps."""


def fit(
    model: HRM,
    task: ArcTask,
    *,
    seconds: float = 60.0,
    most_steps: int | None = None,
    everything: bool = False,
    loss_type: str = "softmax_cross_entropy",
    augmentations: int = AUGMENTATIONS,
    seed: int = 0,
    report: Callable[[int, float, float], None] | None = None,
) -> Fitted:
    """A copy of `model` fitted to the demonstrations of `task` for `seconds`, at most `most_steps` steps.

    `report(step, seconds, loss)` is called every few steps. Raises ValueError if the model has no puzzle embedding or
    the grids do not fit its canvas.
    """
    config, side = model.config, Arc.for_cells(model.config.seq_len).side
    if not config.puzzle_emb_ndim:
        raise ValueError("these weights have no puzzle embedding to fit to a task")
    task = replace(task, tests=tuple(Pair(pair.input, None) for pair in task.tests))  # no answer may enter
    if (large := largest_side(task)) > side:
        raise ValueError(f"{task.name}: grids of up to {large} cells a side, these weights see {side}x{side}")
    table = draw_table(task, augmentations, np.random.default_rng([stream_seed(seed, TABLE), *task.name.encode()]))
    fitted = with_fresh_identifiers(model, len(table)).train()
    for parameter in fitted.parameters():
        parameter.requires_grad_(everything)
    split = arc_split({task.name: task.demos}, {task.name: table}, {task.name: 1}, len(table) + 1, None, "table", side)
    device = fitted.H_init.device
    sampler = DeviceSampler(split, batch_size=BATCH, seed=seed, device=str(device))
    rows = SparseSignSGD(fitted.puzzle_emb.weights, EMBEDDING_RATE, 0.0)
    weights = adamw(list(fitted.parameters()), WEIGHTS_RATE, (0.9, 0.95), 0.0) if everything else None
    carry, started, step, losses = empty_carry(fitted, sampler.batch(0)), time.perf_counter(), 0, []
    while time.perf_counter() - started < seconds and step != most_steps:
        generator = torch.Generator(device).manual_seed(stream_seed(seed, EXPLORATION, step))
        done = supervised_segment(fitted, carry, sampler.batch(step), generator, loss_type=loss_type, q_loss_weight=0.5)
        (done.loss / BATCH).backward()
        step += 1
        rows.param_groups[0]["lr"] = EMBEDDING_RATE * min(1.0, step / WARMUP)
        rows.step_rows(done.carry.data["puzzle_identifiers"], done.puzzle_rows.grad)
        if weights:
            weights.param_groups[0]["lr"] = WEIGHTS_RATE * min(1.0, step / WARMUP)
            weights.step()
            weights.zero_grad()
        carry = done.carry
        losses = [*losses[-9:], done.sums["lm_loss"] / BATCH]
        if report and step % 10 == 0:
            report(step, time.perf_counter() - started, float(torch.stack(losses).mean()))
    loss = float(torch.stack(losses).mean()) if losses else float("nan")
    fitted.eval().requires_grad_(False)
    return Fitted(fitted, table, step, time.perf_counter() - started, loss)


def with_fresh_identifiers(model: HRM, count: int) -> HRM:
    """A copy whose table holds the blank row and `count` rows at the mean of the trained ones: those that are not zero."""
    trained = model.state_dict()
    old = trained["puzzle_emb.weights"]
    known = old[1:][old[1:].any(1)]
    middle = known.mean(0) if len(known) else old[0]
    trained["puzzle_emb.weights"] = torch.cat((old[:1], middle.expand(count, -1)))
    fresh = HRM(model.config.model_copy(update={"num_puzzle_identifiers": count + 1})).to(old.device)
    fresh.load_state_dict(trained)
    return fresh
