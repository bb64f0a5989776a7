"""Cross-entropies against other formulas, and the segment loss against sums written out."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from conftest import batch_for, tiny

from hrm.losses import (
    IGNORE,
    Constraints,
    deduction_loss,
    log_stablemax,
    segment_loss,
    softmax_cross_entropy,
    stablemax_cross_entropy,
)
from hrm.model import Output


def stablemax_by_definition(x: torch.Tensor) -> torch.Tensor:
    """s(x) / sum s(x) in float64, as the paper writes it."""
    x = x.double()
    s = torch.where(x < 0, 1 / (1 - x), x + 1)
    return s / s.sum(-1, keepdim=True)


def test_stablemax_in_float32_is_the_float64_definition():
    logits = torch.randn(50, 11) * torch.logspace(-6, 4, 50)[:, None]
    expected = stablemax_by_definition(logits).log()
    torch.testing.assert_close(log_stablemax(logits).double(), expected, rtol=1e-5, atol=1e-6)


def test_stablemax_gradient_is_finite_everywhere_and_right_at_zero():
    logits = torch.tensor([[0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30]], requires_grad=True)
    log_stablemax(logits)[0, :4].sum().backward()
    assert torch.isfinite(logits.grad).all()
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_stablemax, x)


def test_softmax_is_torchs_and_ignored_cells_count_nothing():
    logits, labels = torch.randn(3, 7, 5), torch.randint(0, 5, (3, 7))
    labels[1, 2] = IGNORE
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORE)
    torch.testing.assert_close(softmax_cross_entropy(logits, labels), expected.view(3, 7))
    assert softmax_cross_entropy(logits, labels)[1, 2] == stablemax_cross_entropy(logits, labels)[1, 2] == 0


def test_segment_loss_sums_rows_of_cell_means_and_counts_halted_rows():
    batch = batch_for(tiny(), rows=3)
    labels = batch["labels"]
    labels[2] = IGNORE  # a padding row
    logits = F.one_hot(labels.clamp(min=0).long(), 6).float() * 5
    logits[1, 3] = torch.roll(logits[1, 3], 1)  # row 1 gets one cell wrong
    out = Output(logits, torch.tensor([2.0, -1.0, 0.0]), torch.tensor([0.5, 0.5, 0.5]))
    target = torch.tensor([0.3, 0.6, 0.9])
    halted, steps = torch.tensor([True, True, True]), torch.tensor([4, 2, 1], dtype=torch.int32)
    loss, sums = segment_loss(
        out,
        labels,
        halted=halted,
        steps=steps,
        cross_entropy="softmax_cross_entropy",
        halting="q_learning",
        target_q_continue=target,
        q_loss_weight=0.5,
    )
    cells = sum(softmax_cross_entropy(logits, labels)[row, 1:].sum() / 15 for row in (0, 1))
    exact = torch.tensor([1.0, 0.0, 1.0])  # a row without labels counts as right, as in the reference
    q_halt = -(exact * out.q_halt.sigmoid().log() + (1 - exact) * (1 - out.q_halt.sigmoid()).log()).sum()
    p = out.q_continue.sigmoid()
    q_continue = -(target * p.log() + (1 - target) * (1 - p).log()).sum()
    torch.testing.assert_close(loss, cells + 0.5 * (q_halt + q_continue))
    assert sums["count"] == 2 and sums["exact_accuracy"] == 1 and sums["steps"] == 6
    assert sums["accuracy"].item() == pytest.approx(1 + 14 / 15)
    assert sums["q_halt_accuracy"] == 2


def test_fixed_halting_has_no_q_loss():
    batch = batch_for(tiny())
    out = Output(torch.randn(4, 16, 6), torch.randn(4), torch.randn(4))
    loss, sums = segment_loss(
        out,
        batch["labels"],
        halted=torch.ones(4, dtype=torch.bool),
        steps=torch.ones(4, dtype=torch.int32),
        cross_entropy="stablemax_cross_entropy",
        halting="fixed",
        target_q_continue=None,
        q_loss_weight=0.5,
    )
    assert loss == sums["lm_loss"] and "q_halt_loss" not in sums


def test_the_loss_of_the_rules_is_how_far_each_value_is_from_once_in_each_unit():
    right = torch.tensor([(3 * (r % 2) + r // 2 + c) % 6 for r in range(6) for c in range(6)])  # boxes of 2x3
    wrong = right.clone()
    wrong[0] = wrong[1]  # one value twice, one never, in a row, a column and a box
    logits = 50.0 * F.one_hot(torch.stack((right, wrong)) + 2, 8)
    logits = torch.cat((logits, torch.zeros(1, 36, 8)))  # the third row knows nothing: each value 6/8 times
    logits = logits.requires_grad_()
    loss = Constraints(0.5, (2, 3)).loss(logits)
    torch.testing.assert_close(loss, torch.tensor([0.0, 6 / (3 * 6 * 6), (6 / 8 - 1) ** 2]))
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all() and logits.grad[2].abs().sum() > 0


@pytest.mark.parametrize("carry", ["latent", "candidates"])
def test_the_rules_are_graded_beside_the_cells(carry):
    labels = torch.tensor([[(3 * (r % 2) + r // 2 + c) % 6 + 2 for r in range(6) for c in range(6)]] * 2)
    out = Output(torch.randn(2, 36, 8), torch.zeros(2), torch.zeros(2))
    common = dict(halted=torch.ones(2).bool(), steps=torch.ones(2), q_loss_weight=0.0)
    standing = torch.tensor([True, False])
    if carry == "latent":
        grade = partial(
            segment_loss, out, labels, cross_entropy="softmax_cross_entropy", halting="fixed", target_q_continue=None
        )
    else:
        grade = partial(deduction_loss, [out], labels, open_cells=torch.ones(2, 36), standing=standing)
    rules = Constraints(0.3, (2, 3))
    plain, told = grade(**common), grade(**common, constraints=rules)
    extra = rules.loss(out.logits)
    expected = extra.sum() if carry == "latent" else extra[0]  # a solution that has fallen breaks no rule that matters
    torch.testing.assert_close(told[0] - plain[0], 0.3 * expected)
    torch.testing.assert_close(told[1]["constraint_loss"], expected)
    assert "constraint_loss" not in plain[1]
