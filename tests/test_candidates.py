"""Candidates as the carry: what is ruled out and assumed, where training starts, and how a search goes back."""

import dataclasses
import io
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import tiny
from rich.console import Console

from hrm import candidates as c
from hrm import display
from hrm.data import load_split
from hrm.deduction import CAUTION, DOUBT, trusted
from hrm.display import Waiting, Watcher, answer_board, marks_board
from hrm.evaluate import evaluate
from hrm.halting import empty_carry
from hrm.layers import Standing
from hrm.model import HRM, Output
from hrm.reasoner import DEDUCTION_PASSES, Reasoner
from hrm.supervision import supervised_deduction
from hrm.tasks.sudoku import Sudoku

TASK = Sudoku(2, 3)
SPLIT = load_split("sudoku-6x6-1k", "test")
LATTICE = dict(mixer="groups", pos_encodings="none", box=(2, 3), seq_len=36, vocab_size=8, puzzle_emb_ndim=0)
DEDUCES = dict(carry="candidates", halting="halt_only", gradient="segment", num_puzzle_identifiers=1, halt_max_steps=40)


def model(**changes) -> HRM:
    torch.manual_seed(3)
    return HRM(tiny(**LATTICE | DEDUCES | changes))


def batch(count: int) -> dict[str, torch.Tensor]:
    arrays = {"inputs": SPLIT.inputs[:count], "labels": SPLIT.labels[:count]}
    found = {key: torch.from_numpy(value.astype(np.int32)) for key, value in arrays.items()}
    return found | {"puzzle_identifiers": torch.zeros(count, dtype=torch.int32)}


def test_a_puzzle_starts_with_every_digit_in_open_cells_and_its_givens_elsewhere():
    marks = TASK.candidates(batch(3)["inputs"])
    given = batch(3)["inputs"] > 1
    assert marks.shape == (3, 36, 8) and not marks[..., :2].any()
    assert torch.equal(marks.sum(-1), torch.where(given, 1, 6)) and torch.equal(c.is_open(marks), ~given)
    assert c.stands(marks, batch(3)["labels"]).all() and c.stands(marks, torch.full((3, 36), -100)).all()
    marks[1, 5] = False
    assert c.stands(marks, batch(3)["labels"]).tolist() == [True, False, True]


def test_ruling_out_keeps_the_best_and_assuming_changes_one_cell():
    marks = torch.tensor([[[1, 1, 1], [1, 1, 0]], [[1, 0, 0], [1, 1, 1]]]).bool()
    chances = torch.tensor([[[0.6, 0.39, 0.01], [0.05, 0.95, 0]], [[1, 0, 0], [0.3, 0.4, 0.3]]])
    assert c.ruled_out(marks, chances, 0.1).tolist() == [[[1, 1, 0], [0, 1, 0]], [[1, 0, 0], [1, 1, 1]]]
    assert c.ruled_out(marks, chances, 0.5).tolist() == [[[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 1, 0]]]
    by_row = c.ruled_out(marks, chances, torch.tensor([0.001, 0.35])[:, None, None])
    assert by_row.tolist() == [[[1, 1, 1], [1, 1, 0]], [[1, 0, 0], [0, 1, 0]]]
    cell, value = c.surest(marks, chances)
    assert cell.tolist() == [1, 1] and value.tolist() == [1, 1]  # row 1: cell 0 is surer, but not open
    after = c.assumed(marks, torch.tensor([True, False]), cell, value)
    assert after.tolist() == [[[1, 1, 1], [0, 1, 0]], marks[1].int().tolist()]


def test_training_starts_bare_with_hints_or_misled_in_one_cell():
    rows = batch(400)
    starts = c.training_starts(TASK, rows, torch.Generator().manual_seed(0), 0.3, 0.2)
    plain = TASK.candidates(rows["inputs"])
    assert (starts <= plain).all() and (starts.sum(-1) >= 1).all()
    filled = (c.is_open(plain) & ~c.is_open(starts)).sum(1)
    standing = c.stands(starts, rows["labels"])
    assert (filled[~standing] == 1).all()  # one wrong value, nothing else
    assert 0.15 < (~standing).float().mean() < 0.25
    hinted = standing & (filled > 0)
    assert 0.25 < hinted.float().mean() < 0.35
    hints, room = filled[hinted].float(), c.is_open(plain).sum(1)[hinted]
    assert hints.median() < 6 and (hints / room).max() > 0.9  # mostly few, now and then nearly all
    again = c.training_starts(TASK, rows, torch.Generator().manual_seed(0), 0.3, 0.2)
    assert torch.equal(starts, again)
    unknown = torch.rand(rows["labels"].shape) < 0.3
    partly = rows | {"labels": rows["labels"].masked_fill(unknown, -100)}
    starts = c.training_starts(TASK, partly, torch.Generator().manual_seed(0), 0.5, 0.5)
    assert torch.equal(starts[unknown], plain[unknown])  # nothing is known to be shown there


def test_training_moves_rule_out_then_assume_and_never_empty_a_cell():
    marks = TASK.candidates(batch(200)["inputs"])
    chances = torch.rand(marks.shape) * marks
    chances /= chances.sum(-1, keepdim=True)
    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        before, marks = marks, c.training_move(marks, chances, 0.05, generator)
        assert (marks <= before).all() and (marks.sum(-1) >= 1).all()
        was_open = c.is_open(before).any(1)
        assert (marks != before)[was_open].any((1, 2)).all()  # every unfinished puzzle moves
        chances = chances * marks / (chances * marks).sum(-1, keepdim=True)
    assert not c.is_open(marks).any()


def test_training_rows_leave_when_full_or_lost():
    full = torch.zeros(4000, 2, 3, dtype=torch.bool)
    full[..., 1] = True
    open_ = full.clone()
    open_[:, 0] = True
    generator, certain = torch.Generator().manual_seed(0), torch.ones(4000)
    yes, no = certain.bool(), ~certain.bool()
    assert c.training_leaves(full, full, yes, certain, generator).all()
    assert not c.training_leaves(open_, open_, yes, -certain, generator).any()  # a false alarm changes nothing
    assert not c.training_leaves(open_, full, yes, certain, generator).any()  # its last move has not been seen yet
    seen, unseen = (c.training_leaves(open_, open_, no, q, generator).float().mean() for q in (-certain, certain))
    assert abs(seen - c.LEAVE_SEEN) < 0.03 and abs(unseen - c.LEAVE_UNSEEN) < 0.03


def test_a_training_segment_grades_standing_rows_and_its_loss_is_what_it_says():
    net, rows = model(), batch(16)
    carry = empty_carry(net, rows)
    done = supervised_deduction(
        net, carry, rows, torch.Generator().manual_seed(0), TASK, q_loss_weight=0.5, hints=0.0, wrong=0.5
    )
    starts = c.training_starts(TASK, rows, torch.Generator().manual_seed(0), 0.0, 0.5)
    standing = c.stands(starts, rows["labels"])
    assert 0 < standing.sum() < 16
    expected = 0.0
    ids = net.puzzle_rows(rows["puzzle_identifiers"])
    states = list(net.cycles(net.initial_state(16), starts, ids))
    for state in states:
        out = net.read(state, starts)
        for row in range(16):
            open_ = c.is_open(starts)[row]
            if standing[row]:
                nll = -out.logits[row].log_softmax(-1).gather(-1, rows["labels"][row].long()[:, None])[:, 0]
                expected = expected + nll[open_].mean()
            sound = out.q_halt[row].sigmoid()
            expected = expected - 0.5 * torch.log(sound if standing[row] else 1 - sound)
    torch.testing.assert_close(done.loss, expected / len(states))
    done.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    (after,) = done.carry.state
    assert (after <= starts).all() and done.carry.steps.eq(1).all()


def test_carrying_both_goes_on_from_the_states_that_the_last_segment_left():
    net, rows = model(carry="both"), batch(4)
    graded = dict(q_loss_weight=0.5, hints=0.0, wrong=0.0)
    carry = empty_carry(net, rows)
    first = supervised_deduction(net, carry, rows, torch.Generator().manual_seed(0), TASK, **graded)
    candidates, *state = first.carry.state
    alone, _ = net(net.initial_state(4), TASK.candidates(rows["inputs"]), net.puzzle_rows(rows["puzzle_identifiers"]))
    for ours, expected in zip(state, alone, strict=True):
        torch.testing.assert_close(ours, expected.detach())
        assert not ours.requires_grad
    going_on = dataclasses.replace(first.carry, halted=torch.tensor([True, False, False, True]))
    second = supervised_deduction(net, going_on, rows, torch.Generator().manual_seed(1), TASK, **graded)
    begin = tuple(
        torch.where(going_on.halted[:, None, None], z0, z) for z0, z in zip(net.initial_state(4), state, strict=True)
    )
    seen = torch.where(going_on.halted[:, None, None], TASK.candidates(rows["inputs"]), candidates)
    expected, _ = net(begin, seen, net.puzzle_rows(rows["puzzle_identifiers"]))
    for ours, wanted in zip(second.carry.state[1:], expected, strict=True):
        torch.testing.assert_close(ours, wanted.detach())


def test_carrying_both_puzzles_can_start_from_states_of_their_own():
    net, rows = model(carry="both", initial_state="random"), batch(4)
    generator = torch.Generator().manual_seed(5)
    drawn = net.initial_state(4, torch.Generator().manual_seed(5))
    assert not torch.equal(drawn[0][0], drawn[0][1])  # the draw that comes first in a segment
    done = supervised_deduction(
        net, empty_carry(net, rows), rows, generator, TASK, q_loss_weight=0.5, hints=0.0, wrong=0.0
    )
    expected, _ = net(drawn, TASK.candidates(rows["inputs"]), net.puzzle_rows(rows["puzzle_identifiers"]))
    torch.testing.assert_close(done.carry.state[1], expected[0].detach())
    answers = [Reasoner(net.eval(), passes=1, max_segments=8).run(SPLIT.inputs[:3]) for _ in range(2)]
    assert np.array_equal(answers[0].tokens, answers[1].tokens)  # inference keeps one draw


@pytest.mark.parametrize("levels", ["separate", "single"])
def test_on_a_lattice_of_standing_values_packed_and_masked_states_agree(monkeypatch, levels):
    net = model(carry="both", lattice="standing", levels=levels)
    torch.nn.init.normal_(net.q_head.weight)
    marks = c.training_starts(TASK, batch(5), torch.Generator().manual_seed(0), 0.5, 0.3)
    mask = net.view.stands(marks).flatten(1)
    start = tuple(torch.randn_like(z) for z in net.initial_state(5))
    found = []
    for packs in (True, False):
        net.zero_grad()
        if not packs:
            monkeypatch.setattr("hrm.model.standing_positions", lambda mask, box: Standing(mask))
        state, out = net(start, marks, net.puzzle_rows(batch(5)["puzzle_identifiers"]))
        ((out.logits * marks).sum() + out.q_halt.sum() + state[0].square().sum()).backward()
        assert not state[0][~mask].any() and state[0][mask].any(-1).all()
        found.append([*state, out.logits, out.q_halt, *(p.grad for p in net.parameters())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_what_a_value_thought_before_it_was_ruled_out_is_forgotten():
    net = model(carry="both", lattice="standing")
    marks = TASK.candidates(batch(3)["inputs"])
    out = ~net.view.stands(marks).flatten(1)[..., None]
    start = net.initial_state(3)
    rows = net.puzzle_rows(batch(3)["puzzle_identifiers"])
    other = tuple(torch.where(out, torch.randn_like(z), z) for z in start)
    assert torch.equal(net(start, marks, rows)[1].logits, net(other, marks, rows)[1].logits)


def test_a_step_that_broke_down_gives_a_loss_that_is_not_finite_and_no_exception():
    net, rows = model(carry="both"), batch(6)
    torch.nn.init.constant_(net.lm_head.weight, torch.nan)
    carry, generator = empty_carry(net, rows), torch.Generator().manual_seed(0)
    for _ in range(3):
        done = supervised_deduction(net, carry, rows, generator, TASK, q_loss_weight=0.5, hints=0.2, wrong=0.2)
        carry = done.carry
        assert not torch.isfinite(done.loss) and (carry.state[0].sum(-1) >= 1).all()


@pytest.mark.parametrize("passes", [1, 5])
def test_carrying_both_a_puzzle_is_answered_alike_alone_and_in_a_batch(passes):
    net = model(carry="both", forward_dtype="float32", rule_out_below=0.1).eval()
    tokens = SPLIT.inputs[:9]
    together = Reasoner(net, batch_size=4, passes=passes, max_segments=12).run(tokens)
    alone = [Reasoner(net, passes=passes, max_segments=12).run(tokens[k : k + 1]) for k in range(9)]
    assert together.segments.max() > 1
    for name in ("tokens", "segments", "passes"):
        assert np.array_equal(getattr(together, name), np.concatenate([getattr(a, name) for a in alone])), name


# --- solving, with a script in the model's place: it knows the answer, or guesses and only sees that it is lost


class Scripted(HRM):
    """Knows the labels: doubts states that lost them; gives each standing value the chance that `chances` says."""

    labels: torch.Tensor
    knows = 0.0
    doubts = True
    asked = 0

    def forward(self, state, grid, rows, H_cycles=None):
        self.asked += len(grid)
        # whose puzzle is it? the one whose givens are all alone in their cells
        inputs = batch(len(self.labels))["inputs"]
        marks = TASK.candidates(inputs)
        whose = [next(k for k in range(len(marks)) if (one <= marks[k]).all()) for one in grid]
        labels = self.labels[whose]
        truth = torch.arange(8) == labels[..., None]
        logits = torch.where(truth, self.knows, 0.0).masked_fill(~grid, -1e4)
        standing = c.stands(grid, labels)
        q = torch.where(standing, 5.0, -5.0) if self.doubts else torch.full((len(grid),), 5.0)
        return state, Output(logits, q, q)


def scripted(count: int, **attributes) -> Scripted:
    found = model()
    found.__class__ = Scripted
    found.labels = batch(count)["labels"]
    vars(found).update(attributes)
    return found


def test_a_model_that_knows_the_answer_needs_one_pass():
    answers = Reasoner(scripted(4, knows=20.0), passes=1).run(SPLIT.inputs[:4])
    assert (answers.tokens == SPLIT.labels[:4]).all() and answers.halted.all()
    assert (answers.passes == 1).all() and (answers.segments == 2).all()  # one to rule out, one to see that it is full
    assert (answers.confidence > 0.99).all()


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_model_that_guesses_goes_back_until_it_is_right(batch_size):
    reasoner = Reasoner(scripted(5), passes=500, batch_size=batch_size)
    thoughts = []
    answers = reasoner.run(SPLIT.inputs[:5], watch=thoughts.append)
    assert (answers.tokens == SPLIT.labels[:5]).all() and answers.halted.all() and (answers.passes > 5).all()
    for row in range(5):
        mine = [t for t in thoughts if t.row == row]
        assert [t.segment for t in mine] == list(range(1, answers.segments[row] + 1))
        assert [t.halted for t in mine] == [False] * (len(mine) - 1) + [True]
        dead_ends = sum(t.confidence < DOUBT for t in mine)
        assert answers.passes[row] == 1 + dead_ends == mine[-1].look + 1
        assert (mine[-1].candidates.sum(-1) == 1).all()
    alone = Reasoner(scripted(5), passes=500, batch_size=1).run(SPLIT.inputs[:5])
    assert alone.passes.tolist() == answers.passes.tolist() and alone.segments.tolist() == answers.segments.tolist()


def test_a_pass_that_goes_back_starts_from_fresh_states():
    class Aging(Scripted):
        ages: ClassVar[list[float]] = []

        def forward(self, state, grid, rows, H_cycles=None):
            self.ages.append(float((state[0] - self.H_init).mean()))
            return tuple(z + 1 for z in state), super().forward(state, grid, rows)[1]

    net = scripted(1, config=model(carry="both").config)
    net.__class__, thoughts = Aging, []
    Reasoner(net, passes=20, batch_size=1, states=True).run(SPLIT.inputs[:1], watch=thoughts.append)
    assert thoughts[-1].look > 2 and len(thoughts) == len(net.ages)
    after = [float((torch.from_numpy(t.states[0]) - net.H_init).mean()) for t in thoughts]
    assert after == pytest.approx([age + 1 for age in net.ages], abs=1e-4)
    looks = [t.look for t in thoughts]
    expected = [looks[:k].count(look) for k, look in enumerate(looks)]  # segments of this pass so far
    np.testing.assert_allclose(net.ages, expected, atol=1e-5)


@pytest.mark.parametrize("sure", [0.6, 0.95])
def test_the_next_pass_sets_out_from_the_most_probable_branch(sure):
    """A wrong first assumption that shows only in the full grid is taken back before those that followed it, though the
    model had given it more than them (0.95): its word counts less than it says."""

    class Late(Scripted):
        def forward(self, state, grid, rows, H_cycles=None):
            _, out = super().forward(state, grid, rows)
            bare, truth = TASK.candidates(batch(1)["inputs"])[0], self.labels[0]
            cell = int(c.is_open(bare[None]).int().argmax())
            wrong = next(v for v in range(bare.shape[1]) if bare[cell, v] and v != truth[cell])
            chance = torch.full(grid.shape, 0.1 / 5).scatter(2, truth.expand(len(grid), -1)[..., None], 0.9)
            undecided = c.is_open(grid)[:, cell]
            chance[undecided] = 0.05  # no value of any cell is likely, but in one cell a wrong one is
            chance[undecided, cell] = (1 - sure) / 8
            chance[undecided, cell, wrong] = sure
            chance[undecided, cell, truth[cell]] = (1 - sure) / 2
            q = torch.where(c.is_open(grid).any(1), 5.0, out.q_halt)
            return state, Output(chance.log().masked_fill(~grid, -1e4), q, q)

    net = scripted(1, knows=1.0)
    net.__class__ = Late
    net.config = net.config.model_copy(update={"rule_out_below": 1e-6})
    answers = Reasoner(net, passes=3).run(SPLIT.inputs[:1])
    assert (answers.tokens == SPLIT.labels[:1]).all() and answers.halted.all() and (answers.passes == 2).all()
    assert (Reasoner(net, passes=1).run(SPLIT.inputs[:1]).tokens != SPLIT.labels[:1]).any()


def test_the_models_word_for_an_assumption_counts_less_than_it_says():
    assert trusted(0.5) == 0.5 and trusted(1.0) == 1.0 and trusted(1e-9) < 0.001
    for chance in (0.6, 0.9, 0.99):
        assert 0.5 < trusted(chance) < chance and trusted(chance) + trusted(1 - chance) == pytest.approx(1)


def test_one_pass_never_goes_back_and_says_how_sure_it_is():
    answers = Reasoner(scripted(5), passes=1).run(SPLIT.inputs[:5])
    assert not answers.halted.any() and (answers.passes == 1).all() and (answers.confidence < 0.01).all()
    assert (answers.tokens > 1).all() and not (answers.tokens == SPLIT.labels[:5]).all(1).any()
    few = Reasoner(scripted(5), passes=4).run(SPLIT.inputs[:5])
    assert (few.passes == 4).all() and not few.halted.any()


def test_a_bound_on_segments_ends_each_pass():
    answers = Reasoner(scripted(3), passes=4, max_segments=3).run(SPLIT.inputs[:3])
    assert (answers.segments <= 12).all() and (answers.passes == 4).all()


@pytest.mark.parametrize("belief", [0.04, 0.6])
def test_a_false_alarm_before_any_guess_ends_no_pass(belief):
    net = scripted(2, knows=20.0)
    doubting(net, belief)
    seen = []
    answers = Reasoner(net, passes=3).run(SPLIT.inputs[:2], watch=seen.append)
    assert seen[0].confidence < DOUBT and (answers.tokens == SPLIT.labels[:2]).all()
    passes = 1 if belief > 0.5 else 3
    assert (answers.passes == passes).all() and (answers.segments == 2 * passes).all()
    assert (answers.halted == (belief > 0.5)).all()


def test_a_grid_that_is_not_believed_starts_over_with_more_caution():
    net = scripted(1, knows=6.5)  # every other value has 0.0015
    net.config = net.config.model_copy(update={"rule_out_below": 0.003})
    doubting(net, 0.04)
    seen = []
    Reasoner(net, passes=3).run(SPLIT.inputs[:1], watch=seen.append)
    first, second = ([t for t in seen if t.look == look] for look in (0, 1))
    assert (first[0].candidates.sum(-1) == 1).all() and len(first) == 2
    assert (second[0].candidates.sum(-1) > 1).sum() > 9  # nothing is ruled out below 0.0003
    assert DOUBT > 0.04 > CAUTION * DOUBT and len(second) > 9  # and guesses that it doubts go on


def doubting(net: Scripted, belief: float) -> None:
    """Let a model believe in full grids by `belief`, and in others by 0.04."""
    honest = net.forward

    def forward(state, grid, rows, H_cycles=None):
        _, out = honest(state, grid, rows)
        return state, out._replace(q_halt=torch.logit(torch.where(c.is_open(grid).any(1), 0.04, belief)))

    net.forward = forward


def test_checked_answers_obey_the_rules_and_unchecked_ones_are_the_models_own():
    nearly = SPLIT.labels[:3].copy()
    for row in range(3):
        nearly[row, np.flatnonzero(SPLIT.inputs[row] == 1)[:3]] = 1  # three open cells, 216 ways to fill them
    blind = scripted(3, doubts=False)
    own = Reasoner(blind, passes=300).run(nearly)
    assert (own.passes == 1).all() and own.halted.all() and not (own.tokens == SPLIT.labels[:3]).all(1).any()
    checked = Reasoner(blind, passes=300, check=True).run(nearly)
    assert (checked.tokens == SPLIT.labels[:3]).all() and checked.halted.all() and (checked.passes > 10).all()
    few = Reasoner(blind, passes=5, check=True).run(nearly)
    assert not few.halted.any() and (few.passes == 5).all()


def test_patience_is_how_long_nothing_falls_before_a_value_is_assumed():
    never = model(rule_out_below=1e-9)
    for patience in (1, 3):
        reasoner, seen = Reasoner(never, passes=1, patience=patience), []
        assert reasoner.max_segments == never.config.max_segments * patience
        reasoner.run(SPLIT.inputs[:1], watch=lambda thought: seen.append(thought.candidates.sum()))
        assert [a > b for a, b in pairwise(seen[: 3 * patience + 1])] == ([False] * (patience - 1) + [True]) * 3
    assert Reasoner(model(patience=7)).patience == 7 and Reasoner(model()).patience == 1
    with pytest.raises(ValueError, match="patience=0: at least 1"):
        Reasoner(never, patience=0)


def test_neither_labels_nor_rules_reach_the_answers(monkeypatch):
    reasoner = Reasoner(model(rule_out_below=0.15), passes=6, max_segments=60)
    seen, run = [], reasoner.run
    reasoner.run = lambda *a: seen.append(run(*a)) or seen[-1]
    evaluate(reasoner, SPLIT, 8)
    shuffled = dataclasses.replace(SPLIT, labels=SPLIT.labels[np.random.default_rng(0).permutation(len(SPLIT.labels))])
    evaluate(reasoner, shuffled, 8)
    monkeypatch.setattr(Sudoku, "verify_batch", lambda *_: pytest.fail("rules used"))
    monkeypatch.setattr(Sudoku, "clues_fault", lambda *_: pytest.fail("rules used"))
    monkeypatch.setattr(Sudoku, "solve", lambda *_: pytest.fail("solver used"))
    seen.append(run(SPLIT.inputs[:8]))
    for other in seen[1:]:
        assert (other.tokens == seen[0].tokens).all() and (other.passes == seen[0].passes).all()


def test_pencil_marks_are_drawn_in_line_and_told_in_words():
    given = TASK.decode(SPLIT.inputs[0])
    marks = TASK.candidates(batch(1)["inputs"])[0].numpy()
    text = marks_board(TASK, given, marks[:, 2:]).plain.splitlines()
    assert len({len(line) for line in text}) == 1 and len(text) == 6 + 4
    assert [word for line in text for word in line.split() if word[0].isdigit()] == [
        TASK.symbols[d - 1] if d else TASK.symbols for d in given
    ]
    console = Console(record=True, width=120, force_terminal=False, file=io.StringIO())
    with Watcher(console, TASK, given, 40) as watcher:
        solution = Reasoner(scripted(1), passes=500).solve(TASK.format(given), watcher)
    lines = console.export_text().splitlines()
    assert len(lines) == solution.segments and lines[-1].endswith("0 marks in 0 open cells")
    assert lines[0].startswith("segment   1: pass 1,") and f"pass {solution.passes}," in lines[-1]
    assert solution.verified and answer_board(TASK, given, solution).plain.count("·") == 0


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_solve_says_on_a_terminal_how_far_it_is(terminal, monkeypatch):
    monkeypatch.setattr(display, "SILENT_SECONDS", -1)
    puzzle, console = TASK.format(TASK.decode(SPLIT.inputs[0])), Console(force_terminal=terminal, file=io.StringIO())
    with Waiting(console) as waiting:
        solution = Reasoner(scripted(1), passes=500).solve(puzzle, waiting)
    assert solution.passes > 1
    assert (f"pass {solution.passes}, segment {solution.segments}" in console.file.getvalue()) == terminal


def test_options_of_other_carries_are_refused_and_the_default_is_a_search():
    assert Reasoner(model()).passes == DEDUCTION_PASSES and Reasoner(model()).halt == "full"
    for options in ({"noise": 0.1}, {"pins": 2}, {"select": "votes"}, {"halt": "stable"}):
        with pytest.raises(ValueError, match="only max_segments, passes, patience and check apply"):
            Reasoner(model(), **options)


def test_the_shipped_weights_fill_in_any_single_blank_and_solve_a_puzzle_however_it_is_turned():
    nine, rows = Sudoku(), load_split("sudoku-hard-1k", "test")
    reasoner = Reasoner.load("sudoku", passes=1)
    answer = rows.labels[0].astype(np.int32)
    blanks = np.where(np.eye(nine.seq_len, dtype=bool), nine.blank, answer)
    assert (reasoner.run(blanks).tokens == answer).all()
    solved = int(np.flatnonzero((reasoner.run(rows.inputs[:8]).tokens == rows.labels[:8]).all(1))[0])
    given, wanted = (
        torch.from_numpy(side[solved].astype(np.int32)).expand(16, -1) for side in (rows.inputs, rows.labels)
    )
    turned, turned_answers = nine.augment(given, wanted, torch.Generator().manual_seed(0))
    assert len(np.unique(turned.numpy(), axis=0)) == 16
    assert (reasoner.run(turned.numpy()).tokens == turned_answers.numpy()).all()
