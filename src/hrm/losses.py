"""Cross-entropies and the loss of one segment.

The loss is a sum over the batch (the caller divides by the global batch size), so that short batches and several
processes weigh right. All of it runs in float32: the reference's float64 is not needed and does not exist on MPS.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .model import Output

IGNORE = -100
"""Label of a cell that has no answer."""


def log_stablemax(logits: Tensor) -> Tensor:
    """log of s(x) / sum s(x), s(x) = x + 1 for x >= 0 and 1 / (1 - x) below (paper section 2; Prieto et al. 2025).

    Written with log1p, exact in float32 where the quotient form would cancel.
    """
    log_s = torch.where(logits < 0, -torch.log1p(-logits.clamp(max=0)), torch.log1p(logits.clamp(min=0)))
    return log_s - torch.logsumexp(log_s, -1, keepdim=True)


def stablemax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (B, S) of logits (B, S, V) under stablemax; 0 where the label is IGNORE."""
    return _nll(log_stablemax(logits.float()), labels)


def softmax_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (B, S) of logits (B, S, V) under softmax; 0 where the label is IGNORE."""
    return _nll(F.log_softmax(logits.float(), -1), labels)


def _nll(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    target = labels.clamp(min=0).long()
    return -log_probabilities.gather(-1, target[..., None])[..., 0] * (labels != IGNORE)


CROSS_ENTROPIES = {"stablemax_cross_entropy": stablemax_cross_entropy, "softmax_cross_entropy": softmax_cross_entropy}


def correct_cells(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per row: share of labelled cells that are right (B,), whether all are (B,) bool, how many are labelled (B,)."""
    labelled = labels != IGNORE
    count = labelled.sum(-1)
    right = (labelled & (logits.argmax(-1) == labels)).sum(-1)
    return right / count.clamp(min=1), right == count, count


class Constraints(NamedTuple):
    """A loss of the puzzle's rules: its weight, and rows and columns of a box."""

    weight: float
    box: tuple[int, int]

    def loss(self, logits: Tensor) -> Tensor:
        """Of each row of a batch (B,): the mean squared distance from 1 of how often a row, column or box expects a value, for
        logits (B, S, V) whose last tokens are the values."""
        high, wide = self.box
        n = high * wide
        chances = (
            logits.float().softmax(-1)[..., -n:].unflatten(1, (wide, high, high, wide))
        )  # (B, S, n) as rows of boxes
        expected = torch.stack(
            (chances.sum((3, 4)).flatten(1, 2), chances.sum((1, 2)).flatten(1, 2), chances.sum((2, 4)).flatten(1, 2))
        )  # (3, B, n, n): of every row, column and box
        return (expected - 1).square().mean((0, 2, 3))


def deduction_loss(
    outs: list[Output],
    labels: Tensor,
    *,
    open_cells: Tensor,
    standing: Tensor,
    halted: Tensor,
    steps: Tensor,
    q_loss_weight: float,
    constraints: Constraints | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a segment over candidates: the mean over its cycles `outs`, summed over the batch, and its metrics' sums.

    Cross-entropy is averaged over a row's `open_cells` (B, S), and only where the solution is `standing` (B,); which of
    the two is so, Q_halt learns. Metrics are those of `segment_loss`; q_halt_accuracy too is about standing.
    """
    last = outs[-1]
    with torch.no_grad():
        share, exact, _ = correct_cells(last.logits, labels)
        sums = {
            "count": halted.sum(),
            "accuracy": (share * halted).sum(),
            "exact_accuracy": (exact & halted).sum(),
            "q_halt_accuracy": (((last.q_halt >= 0) == standing) & halted).sum(),
            "steps": (steps * halted).sum(),
        }
    weight = open_cells / open_cells.sum(-1, keepdim=True).clamp(min=1) * standing[:, None]
    answers = sum((softmax_cross_entropy(out.logits, labels) * weight).sum() for out in outs) / len(outs)
    doubts = sum(
        F.binary_cross_entropy_with_logits(out.q_halt, standing.float(), reduction="sum") for out in outs
    ) / len(outs)
    loss = answers + q_loss_weight * doubts
    sums |= {"lm_loss": answers.detach(), "q_halt_loss": doubts.detach()}
    if constraints:
        broken = sum((constraints.loss(out.logits) * standing).sum() for out in outs) / len(outs)
        loss, sums["constraint_loss"] = loss + constraints.weight * broken, broken.detach()
    return loss, sums


def segment_loss(
    out: Output,
    labels: Tensor,
    *,
    halted: Tensor,
    steps: Tensor,
    cross_entropy: str,
    halting: str,
    target_q_continue: Tensor | None,
    q_loss_weight: float,
    constraints: Constraints | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a segment, summed over the batch, and the sums behind its metrics (reference: losses.py, ACTLossHead).

    Each row's cells are averaged. Q_halt learns whether the answer is right, Q_continue what going on is worth.
    Metrics count the rows that halted in this segment; losses count all rows.
    """
    with torch.no_grad():
        share, exact, count = correct_cells(out.logits, labels)
        done = halted & (count > 0)
        sums = {
            "count": done.sum(),
            "accuracy": (share * done).sum(),
            "exact_accuracy": (exact & done).sum(),
            "q_halt_accuracy": (((out.q_halt >= 0) == exact) & done).sum(),
            "steps": (steps * done).sum(),
        }
    losses = CROSS_ENTROPIES[cross_entropy](out.logits, labels)
    loss = (losses.sum(-1) / count.clamp(min=1)).sum()
    sums["lm_loss"] = loss.detach()
    if halting != "fixed":
        q_halt_loss = F.binary_cross_entropy_with_logits(out.q_halt, exact.float(), reduction="sum")
        loss = loss + q_loss_weight * q_halt_loss
        sums["q_halt_loss"] = q_halt_loss.detach()
    if target_q_continue is not None:
        q_continue_loss = F.binary_cross_entropy_with_logits(out.q_continue, target_q_continue, reduction="sum")
        loss = loss + q_loss_weight * q_continue_loss
        sums["q_continue_loss"] = q_continue_loss.detach()
    if constraints:
        broken = constraints.loss(out.logits).sum()
        loss, sums["constraint_loss"] = loss + constraints.weight * broken, broken.detach()
    return loss, sums
