"""The carry between segments and the decision to stop: refill, halting rules, Q targets.

A carry holds B running puzzles. Before a segment, rows that halted take a new puzzle and a fresh state; the others keep
theirs, and what was offered to them is not used. All decisions are pure functions of tensors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .model import HRM, Output

Batch = dict[str, Tensor]
"""inputs (B, S), labels (B, S), puzzle_identifiers (B,), all int32."""


@dataclass(frozen=True)
class Carry:
    """B puzzles in the middle of being solved."""

    state: tuple[Tensor, ...]
    """What goes from segment to segment: (z_H, z_L), (candidates,) or (candidates, z_H, z_L)."""
    steps: Tensor
    """(B,) int32: segments run since the puzzle came in."""
    halted: Tensor
    """(B,) bool: the row's puzzle is finished, its place is free."""
    data: Batch


def empty_carry(model: HRM, batch: Batch) -> Carry:
    """A carry in which every place is free."""
    rows, config = batch["inputs"], model.config
    free = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    state = model.initial_state(len(rows)) if config.latent else ()
    if config.deduces:
        state = (free.new_ones((*rows.shape, config.vocab_size)), *state)
    return Carry(state, torch.zeros_like(free, dtype=torch.int32), free, batch)


def refill(carry: Carry, batch: Batch, initial: tuple[Tensor, ...]) -> Carry:
    """Give every free place the puzzle that `batch` offers at that row, and the initial state."""

    def fresh(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(carry.halted.view(-1, *[1] * (old.ndim - 1)), new, old)

    return Carry(
        state=tuple(map(fresh, initial, carry.state)),
        steps=carry.steps.masked_fill(carry.halted, 0),
        halted=carry.halted,
        data={key: fresh(batch[key], old) for key, old in carry.data.items()},
    )


def wants_to_halt(out: Output, halting: str) -> Tensor:
    """(B,) bool: the learned wish to stop. Q-learning compares the two actions (paper 2, ACT); halt_only asks q > 0."""
    if halting == "q_learning":
        return out.q_halt > out.q_continue
    if halting == "halt_only":
        return out.q_halt > 0
    return torch.zeros_like(out.q_halt, dtype=torch.bool)


def exploration_floor(like: Tensor, *, max_steps: int, probability: float, generator: torch.Generator) -> Tensor:
    """(B,) int32, B that of `like`: a row's fewest segments, with `probability` uniform in 2..max_steps, else 0 (paper 2)."""
    explores = torch.rand(like.shape, device=like.device, generator=generator) < probability
    floor = torch.randint(2, max_steps + 1, like.shape, device=like.device, generator=generator, dtype=torch.int32)
    return explores * floor


def halt_mask(steps: Tensor, wants: Tensor, floor: Tensor, *, max_steps: int) -> Tensor:
    """(B,) bool: rows that stop after their `steps`-th segment."""
    return ((steps >= max_steps) | wants) & (steps >= floor)


def q_continue_target(following: Output, steps: Tensor, *, max_steps: int) -> Tensor:
    """(B,) in 0..1: the value of going on, read from the following segment (paper eq. for G_continue)."""
    best = torch.maximum(following.q_halt, following.q_continue)
    return torch.sigmoid(torch.where(steps >= max_steps, following.q_halt, best))
