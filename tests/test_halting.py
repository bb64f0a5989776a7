"""Refill, halting rules and Q targets."""

import torch
from conftest import TRM, batch_for, tiny

from hrm.halting import (
    Carry,
    empty_carry,
    exploration_floor,
    halt_mask,
    q_continue_target,
    refill,
    wants_to_halt,
)
from hrm.model import HRM, Output
from hrm.supervision import supervised_segment

LOSS = dict(loss_type="softmax_cross_entropy", q_loss_weight=0.5)


def test_refill_replaces_halted_rows_and_only_them():
    model = HRM(tiny())
    old, new = batch_for(model.config, seed=1), batch_for(model.config, seed=2)
    state = tuple(torch.randn_like(z) for z in model.initial_state(4))
    halted = torch.tensor([True, False, True, False])
    carry = refill(Carry(state, torch.tensor([5, 6, 7, 8]), halted, old), new, model.initial_state(4))
    for key in old:
        for row, free in enumerate(halted):
            assert torch.equal(carry.data[key][row], (new if free else old)[key][row])
    assert carry.steps.tolist() == [0, 6, 0, 8]
    assert torch.equal(carry.state[0][0], model.initial_state(1)[0][0]) and torch.equal(carry.state[1][3], state[1][3])


def test_a_row_halts_at_the_limit_or_when_it_wants_to_but_never_below_its_floor():
    steps, wants = torch.tensor([1, 1, 3, 4, 4]), torch.tensor([False, True, True, False, False])
    floor = torch.tensor([0, 0, 4, 0, 4])
    assert halt_mask(steps, wants, floor, max_steps=4).tolist() == [False, True, False, True, True]


def test_the_learned_wish_of_each_kind():
    out = Output(torch.empty(0), torch.tensor([1.0, 1.0, -1.0, 0.0]), torch.tensor([0.5, 2.0, -2.0, 0.0]))
    assert wants_to_halt(out, "q_learning").tolist() == [True, False, True, False]
    assert wants_to_halt(out, "halt_only").tolist() == [True, True, False, False]
    assert not wants_to_halt(out, "fixed").any()


def test_exploration_is_uniform_from_two_to_the_limit_with_the_asked_probability():
    rows = torch.zeros(40_000)
    floor = exploration_floor(rows, max_steps=5, probability=0.3, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(floor, minlength=6) / len(rows)
    assert abs(share[0] - 0.7) < 0.01 and share[1] == 0
    assert ((share[2:] - 0.075).abs() < 0.006).all()


def test_q_target_is_the_better_action_and_only_halting_at_the_end():
    following = Output(torch.empty(0), torch.tensor([-1.0, 2.0, -1.0]), torch.tensor([1.0, 1.0, 1.0]))
    target = q_continue_target(following, torch.tensor([1, 1, 4]), max_steps=4)
    torch.testing.assert_close(target, torch.sigmoid(torch.tensor([1.0, 2.0, -1.0])))


def test_a_row_keeps_its_puzzle_until_it_halts_and_then_takes_the_next():
    torch.manual_seed(1)
    model = HRM(tiny(halt_max_steps=3, halt_exploration_prob=0.0))
    carry = empty_carry(model, batch_for(model.config))
    seen = []
    for k in range(7):
        carry = supervised_segment(model, carry, batch_for(model.config, seed=k), torch.Generator(), **LOSS).carry
        seen.append((carry.data["inputs"].clone(), carry.steps.tolist(), carry.halted.tolist()))
    # Q starts near "never halt", so every row runs to the limit
    assert [steps for _, steps, _ in seen] == [[k % 3 + 1] * 4 for k in range(7)]
    for k, (inputs, _, halted) in enumerate(seen):
        assert torch.equal(inputs, batch_for(model.config, seed=k - k % 3)["inputs"])
        assert halted == [k % 3 == 2] * 4


def test_halt_only_makes_no_second_forward():
    for changes, expected in (({}, 2), (TRM, 1), ({"halting": "fixed"}, 1)):
        model = HRM(tiny(**changes))
        calls = []
        model.register_forward_hook(lambda *_: calls.append(1))
        batch = batch_for(model.config)
        supervised_segment(model, empty_carry(model, batch), batch, torch.Generator(), **LOSS)
        assert len(calls) == expected
