"""Optimizers against formulas written out, schedules against their definitions."""

import math

import pytest
import torch

from hrm.config import load_recipe
from hrm.model import HRM
from hrm.optim import AdamATan2, Muon, RunningMean, SparseSignSGD, build_optimizers, lr_scale

from conftest import tiny  # isort: skip


@pytest.mark.parametrize("compiled", [False, True])
def test_adam_atan2_is_the_references_update(compiled):
    """p <- p (1 - lr wd); m, v by lerp; p <- p - lr/(1 - b1^t) atan2(m, sqrt(v)/sqrt(1 - b2^t)), in float64 by hand."""
    p = torch.nn.Parameter(torch.randn(5, 3))
    optimizer = AdamATan2([p], lr=0.01, betas=(0.9, 0.95), weight_decay=0.5, compiled=compiled)
    hand, m, v = p.detach().double(), torch.zeros(5, 3).double(), torch.zeros(5, 3).double()
    for t in range(1, 6):
        p.grad = torch.randn(5, 3) * 10.0 ** (3 - 2 * t)
        g = p.grad.double()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        hand = hand * (1 - 0.01 * 0.5)
        hand = hand - 0.01 / (1 - 0.9**t) * torch.atan2(m, v.sqrt() / math.sqrt(1 - 0.95**t))
        optimizer.step()
        torch.testing.assert_close(p.detach().double(), hand, rtol=1e-5, atol=1e-7)


def test_first_step_of_adam_atan2_is_almost_the_rate():
    """0.9967 lr, not the 0.785 lr of the package adam-atan2-pytorch: atan2(0.1, 1) / 0.1."""
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.tensor([1e-6, 1.0, -1e6])
    AdamATan2([p], lr=1.0, weight_decay=0.0).step()
    torch.testing.assert_close(p.detach(), torch.tensor([-0.9967, -0.9967, 0.9967]), rtol=1e-4, atol=0)


def test_adam_atan2_does_not_see_the_scale_of_gradients():
    a, b = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(4))
    one, other = AdamATan2([a], lr=0.1), AdamATan2([b], lr=0.1)
    for _ in range(4):
        a.grad = torch.randn(4)
        b.grad = a.grad * 1000
        one.step(), other.step()
    torch.testing.assert_close(a, b)


def test_sparse_sign_sgd_sums_duplicates_and_leaves_other_rows_alone():
    table = torch.randn(6, 3)
    before = table.clone()
    ids = torch.tensor([4, 1, 4, 4], dtype=torch.int32)
    grads = torch.tensor([[1.0, 1.0, 0.0], [-2.0, 0.0, 5.0], [1.0, -3.0, 0.0], [1.0, 1.0, 0.0]])
    SparseSignSGD(table, lr=0.1, weight_decay=0.5).step_rows(ids, grads)
    expected = before.clone()
    expected[4] = before[4] * 0.95 - 0.1 * torch.tensor([1.0, -1.0, 0.0])
    expected[1] = before[1] * 0.95 - 0.1 * torch.tensor([-1.0, 0.0, 1.0])
    torch.testing.assert_close(table, expected)


def test_schedules():
    def at(step, **changes):
        return lr_scale(step, **{"total": 100, "warmup": 10, "schedule": "constant", **changes})

    assert at(1) == 0.1 and at(5) == 0.5 and at(10) == at(100) == 1.0
    assert at(1, warmup=0) == 1.0
    cosine = dict(schedule="cosine", min_ratio=0.2)
    assert at(10, **cosine) == 1.0
    assert at(55, **cosine) == pytest.approx(0.2 + 0.8 * 0.5)
    assert at(100, **cosine) == pytest.approx(0.2)
    assert at(55, schedule="cosine", min_ratio=1.0) == 1.0
    linear = dict(schedule="linear_decay", min_ratio=0.0, decay_share=0.4)
    assert at(60, **linear) == 1.0 and at(80, **linear) == pytest.approx(0.5) and at(100, **linear) == 0.0
    with pytest.raises(ValueError, match="no schedule"):
        at(50, schedule="nope")


def test_every_parameter_has_exactly_one_optimizer():
    for name in ("hrm-sudoku-1k", "trm-sudoku-1k", "sudoku-cpu"):
        model = HRM(tiny())
        held = [
            p
            for optimizer, _ in build_optimizers(model, load_recipe(name))
            for g in optimizer.param_groups
            for p in g["params"]
        ]
        assert {id(p) for p in held} == {id(p) for p in model.parameters()} and len(held) == len({id(p) for p in held})


def test_muon_moves_as_torchs_does():
    shapes = [(48, 192), (48, 192), (192, 48), (32, 32)]
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.ones(s)) for s in shapes] for _ in range(2))
    settings = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}
    one, two = Muon(ours, **settings), torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **settings)
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        one.step()
        two.step()
    for p, q in zip(ours, theirs, strict=True):
        assert (p - q).norm() < 0.02 * (q - 1).norm()  # theirs rounds to bfloat16
    assert one.state_dict()["state"].keys() == two.state_dict()["state"].keys()


def test_muon_takes_the_matrices_of_the_levels_only():
    model = HRM(tiny())
    (muon, _), (adam, _) = build_optimizers(model, load_recipe("sudoku-cpu"))
    names = {id(p): name for name, p in model.named_parameters()}
    in_muon = {names[id(p)] for g in muon.param_groups for p in g["params"]}
    in_adam = {names[id(p)] for g in adam.param_groups for p in g["params"]}
    assert all("_level." in name for name in in_muon) and not any("_level." in name for name in in_adam)
    assert {"embed_tokens.embedding_weight", "lm_head.weight", "q_head.bias"} <= in_adam


def test_running_mean_with_warmup_is_a_plain_mean_at_first_and_an_ema_later():
    model = HRM(tiny())
    mean = RunningMean(model, 0.9, warmup=True)
    p, q = next(model.parameters()), next(mean.module.parameters())
    held = p.detach().clone()
    for n in range(1, 200):
        with torch.no_grad():
            p.fill_(float(n))
        mean.update_parameters(model)
        decay = min(0.9, n / (n + 10))
        held = held * decay + n * (1 - decay)
    torch.testing.assert_close(q, held)
    torch.testing.assert_close(q, torch.full_like(q, 199 - 9.0))  # an EMA lags a ramp by decay / (1 - decay)


def test_running_mean_starts_at_the_weights_and_is_not_debiased():
    model = HRM(tiny())
    mean = RunningMean(model, 0.9)
    p, q = next(model.parameters()), next(mean.module.parameters())
    first = p.detach().clone()
    assert torch.equal(p, q)
    with torch.no_grad():
        p.add_(1.0)
    mean.update_parameters(model)
    torch.testing.assert_close(q, first + 0.1)
