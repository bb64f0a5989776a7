"""Candidates: which values still stand in each cell, a Sudoku player's pencil marks, as the carry between segments.

A segment reads the candidates, gives every standing value of a cell a probability, and doubts whether the solution still
stands at all. Between segments the improbable values are ruled out; where none is, a value is assumed. In training the
model thus works on its own partial states, right ones and wrong ones (after the lattice deduction transformer,
2605.08605: on-policy states, cross-entropy on the open cells, a conflict signal).

Shapes: B puzzles, S cells, V tokens; candidates are (B, S, V) bool, probabilities (B, S, V) and 0 where ruled out. All
functions are pure and draw from the generator they are given.
"""

from typing import Any

import torch
from torch import Tensor

FEW_HINTS = 3
"""A training start with hints fills in 1 to all open cells, all times a uniform number to the power FEW_HINTS."""
ASSUME_EARLY = 0.3
"""Chance that training assumes a value although values were ruled out in this segment."""
WAIT = 0.5
"""Chance that a patient training row assumes nothing although nothing was ruled out."""
SUREST_CELL = 0.5
"""Chance that training assumes in the surest open cell; else in a random one."""
ANY_VALUE = 0.1
"""Chance that training assumes any standing value of the cell, whatever its probability."""
TEMPERATURE = 1.5
"""Else a value is drawn by its probability to the power 1 / TEMPERATURE."""
LEAVE_SEEN, LEAVE_UNSEEN = 0.76, 0.2
"""Chance that a training row whose solution no longer stands leaves, if the model doubts it and if it does not."""


def is_open(candidates: Tensor) -> Tensor:
    """(B, S) bool: more than one value stands."""
    return candidates.sum(-1) > 1


def stands(candidates: Tensor, labels: Tensor) -> Tensor:
    """(B,) bool: every cell's label (B, S) is among its candidates; cells without a label do not count."""
    known = labels >= 0
    return (candidates.gather(-1, labels.clamp(min=0).long()[..., None])[..., 0] | ~known).all(-1)


def ruled_out(candidates: Tensor, probabilities: Tensor, below: float | Tensor) -> Tensor:
    """Candidates without those of a probability less than `below`; the most probable of each cell always stays."""
    best = probabilities == probabilities.amax(-1, keepdim=True)
    return candidates & ((probabilities >= below) | best)


def surest(candidates: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """The open cell with the most probable value, and that value: (B,) and (B,)."""
    best, value = probabilities.max(-1)
    cell = best.masked_fill(~is_open(candidates), -1).argmax(-1)
    return cell, value.gather(1, cell[:, None])[:, 0]


def assumed(candidates: Tensor, rows: Tensor, cell: Tensor, value: Tensor) -> Tensor:
    """Candidates with `value` (B,) alone in `cell` (B,) for the rows of the mask `rows` (B,)."""
    _, cells, values = candidates.shape
    here = (torch.arange(cells, device=cell.device) == cell[:, None]) & rows[:, None]  # (B, S)
    only = torch.arange(values, device=value.device) == value[:, None]  # (B, V)
    return torch.where(here[..., None], only[:, None], candidates)


def training_starts(task: Any, batch: dict[str, Tensor], generator: torch.Generator, hints: float, wrong: float):
    """Candidates to start the puzzles of a batch from: `hints` and `wrong` are shares of the rows.

    The former get some open cells of their answer, mostly few, the latter one wrong value in one open cell; the rest start bare.
    """
    inputs, labels = batch["inputs"], batch["labels"].clamp(min=0)
    candidates = task.candidates(inputs)
    kind = _uniform(generator, len(inputs))
    open_, value = (
        is_open(candidates) & (batch["labels"] >= 0),
        torch.arange(candidates.shape[-1], device=inputs.device),
    )
    truth = candidates & (value == labels[..., None])
    count = 1 + (open_.sum(1, keepdim=True) * _uniform(generator, len(inputs), 1) ** FEW_HINTS).long()
    rank = _uniform(generator, *inputs.shape).masked_fill(~open_, 2).argsort(1).argsort(1)
    shown = open_ & (rank < count) & (kind < hints)[:, None]
    candidates = torch.where(shown[..., None], truth, candidates)
    cell = _uniform(generator, *inputs.shape).masked_fill(~open_, -1).argmax(1)
    others = (candidates & ~truth).gather(1, cell[:, None, None].expand(-1, 1, len(value)))[:, 0]
    chosen = _uniform(generator, *others.shape).masked_fill(~others, -1).argmax(1)
    misled = (kind >= hints) & (kind < hints + wrong) & others.any(1)
    return assumed(candidates, misled, cell, chosen)


def training_move(
    candidates: Tensor, probabilities: Tensor, below: float, generator: torch.Generator, patient: bool = False
) -> Tensor:
    """The next candidates of each puzzle in training: values ruled out, and where that leaves all as it was, one assumed.

    `patient`: now and then nothing is assumed, since a model that carries its states may still be thinking.
    """
    after = ruled_out(candidates, probabilities, below)
    open_, batch = is_open(after), len(after)
    still = (after == candidates).all((1, 2))
    chance = torch.where(still, 1 - WAIT, ASSUME_EARLY) if patient else torch.where(still, 1.0, ASSUME_EARLY)
    assumes = open_.any(1) & (_uniform(generator, batch) < chance)
    worth = torch.where(
        (_uniform(generator, batch) < SUREST_CELL)[:, None], probabilities.amax(-1), _uniform(generator, *open_.shape)
    )
    cell = worth.masked_fill(~open_, -1).argmax(1)
    at = cell[:, None, None].expand(-1, 1, after.shape[-1])
    standing, chance = after.gather(1, at)[:, 0], probabilities.gather(1, at)[:, 0]
    anything = (_uniform(generator, batch) < ANY_VALUE)[:, None]
    weight = torch.where(anything, 1.0, chance.clamp(min=1e-9) ** (1 / TEMPERATURE)) * standing
    return assumed(after, assumes, cell, torch.multinomial(weight, 1, generator=generator)[:, 0])


def training_leaves(
    candidates: Tensor, after: Tensor, standing: Tensor, q_halt: Tensor, generator: torch.Generator
) -> Tensor:
    """(B,) bool: the puzzle's turn in training is over: nothing is open or moves, or its solution is lost."""
    complete = ~is_open(after).any(1) & (after == candidates).all((1, 2))
    chance = torch.where(q_halt < 0, LEAVE_SEEN, LEAVE_UNSEEN)
    return complete | (~standing & (_uniform(generator, len(standing)) < chance))


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)
