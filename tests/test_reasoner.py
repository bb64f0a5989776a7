"""Inference: rows halt and leave, waiting puzzles take their places, and nobody's answer depends on the company."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import TRM, benchmark, tiny

from hrm import checkpoint as ckpt
from hrm.answers import Answers
from hrm.backends import work_of_update
from hrm.data import load_split
from hrm.evaluate import distinct_of, evaluate, wilson
from hrm.looks import Look
from hrm.model import HRM
from hrm.reasoner import Reasoner
from hrm.tasks.maze import Maze
from hrm.tasks.sudoku import Sudoku


def six_by_six(**changes) -> HRM:
    """A random model for 6x6 puzzles whose Q_halt says something different for each puzzle."""
    torch.manual_seed(3)
    plain = {"puzzle_emb_ndim": 0} if changes.get("mixer") == "groups" else {}
    shape = dict(seq_len=36, vocab_size=8, num_puzzle_identifiers=1, halt_max_steps=6)
    model = HRM(tiny(**shape | plain | changes))
    if model.config.deduces:
        return model
    tokens = torch.from_numpy(puzzles(40).astype(np.int32))
    with torch.no_grad():
        model.q_head.weight.normal_(std=2.0)
        model.q_head.bias.zero_()
        _, out = model(model.initial_state(40), tokens, model.puzzle_rows(torch.zeros(40, dtype=torch.int32)))
        model.q_head.bias -= torch.stack((out.q_halt, out.q_continue)).median(1).values  # half want to halt at once
    return model


def puzzles(count: int) -> np.ndarray:
    return load_split("sudoku-6x6-1k", "test").inputs[:count]


KINDS = [
    ({}, "q"),
    (TRM, "q"),
    ({"levels": "single"}, "stable"),
    ({}, "settled"),
    ({"halting": "fixed"}, "auto"),
    ({}, "never"),
]


@pytest.mark.parametrize(("changes", "halt"), KINDS)
def test_answers_do_not_depend_on_batch_size_or_neighbours(changes, halt):
    model = six_by_six(**changes)
    tokens = puzzles(23)
    alone = [Reasoner(model, halt=halt, batch_size=1).run(row[None]) for row in tokens]
    for batch_size in (1, 4, 64):
        together = Reasoner(model, halt=halt, batch_size=batch_size).run(tokens)
        assert np.array_equal(together.tokens, np.concatenate([a.tokens for a in alone]))
        assert together.segments.tolist() == [int(a.segments[0]) for a in alone]
        np.testing.assert_allclose(together.confidence, [a.confidence[0] for a in alone], atol=1e-4)


def test_rows_leave_when_they_halt():
    """The work done is the sum of the segments, not rows times the longest."""
    model = six_by_six()
    rows = []
    model.register_forward_hook(lambda m, args, out: rows.append(len(args[1])))
    answers = Reasoner(model, halt="q", batch_size=8).run(puzzles(40))
    assert sum(rows) == answers.segments.sum() < 40 * 6
    assert len(set(answers.segments.tolist())) > 1 and max(rows) == 8


def test_halting_rules_by_hand(monkeypatch):
    model = six_by_six()
    tokens = puzzles(10)
    for row in tokens:
        thoughts = []
        Reasoner(model, halt="never").run(row[None], watch=thoughts.append)
        assert [t.segment for t in thoughts] == list(range(1, 7)) and [t.halted for t in thoughts] == [False] * 5 + [
            True
        ]
        same = [k for k in range(1, 6) if np.array_equal(thoughts[k].tokens, thoughts[k - 1].tokens)]
        state, wishes = model.initial_state(1), []
        ids = torch.zeros(1, dtype=torch.int32)
        with torch.no_grad():
            for k in range(1, 7):
                state, out = model(state, torch.from_numpy(row[None].astype(np.int32)), model.puzzle_rows(ids))
                assert np.array_equal(thoughts[k - 1].tokens, out.logits.argmax(-1)[0].numpy())
                wishes.append(bool(out.q_halt > out.q_continue))
        wanted = [k for k in range(6) if wishes[k]]
        assert Reasoner(model, halt="q").run(row[None]).segments[0] == (wanted[0] + 1 if wanted else 6)
        both = [k for k in same if wishes[k]]
        assert Reasoner(model, halt="settled").run(row[None]).segments[0] == (both[0] + 1 if both else 6)
        assert Reasoner(model, halt="stable").run(row[None]).segments[0] == (same[0] + 1 if same else 6)
        moved = [thought.residual for thought in thoughts]
        monkeypatch.setattr("hrm.running.STILL", sorted(moved)[2])
        still = [k for k in range(6) if moved[k] < sorted(moved)[2]]
        assert Reasoner(model, halt="residual").run(row[None]).segments[0] == still[0] + 1


def test_more_segments_than_trained_can_be_asked_for():
    assert Reasoner(six_by_six(), halt="never", max_segments=9).run(puzzles(2)).segments.tolist() == [9, 9]


def test_solve_tells_answer_verdict_and_trace():
    reasoner = Reasoner(six_by_six())
    text = reasoner.task.format(reasoner.task.decode(puzzles(1)[0]))
    solution = reasoner.solve(text)
    assert solution.puzzle == text and len(solution.answer) == 36
    assert not solution.verified and solution.fault  # random weights
    assert len(solution.trace) == solution.segments and solution.trace[-1].halted
    assert 0 <= solution.confidence <= 1
    many = list(reasoner.solve_many([text] * 3))
    assert [s.answer for s in many] == [solution.answer] * 3
    assert not any(thought.states for thought in solution.trace)
    looked_into = Reasoner(reasoner.model, states=True).solve(text)
    for thought in looked_into.trace:  # the heads read from the states what the thought says
        read = reasoner.model.read(tuple(torch.from_numpy(z)[None] for z in thought.states), None)
        assert (read.logits.argmax(-1)[0].numpy() == thought.tokens).all() and len(thought.states) == 2


def test_verification_is_by_the_rules_not_by_the_label():
    """A model that copies an answer given to it is verified; one wrong cell is not."""
    split = load_split("sudoku-6x6-1k", "test")
    reasoner = Reasoner(six_by_six())
    answer = split.labels[0].copy()
    reasoner.run = lambda tokens, watch=None, a=answer: type(
        "A", (), {"tokens": a[None], "segments": np.ones(1, int), "confidence": np.ones(1), "passes": np.ones(1, int)}
    )
    text = reasoner.task.format(reasoner.task.decode(split.inputs[0]))
    assert next(reasoner.solve_many([text])).verified
    answer[0] = answer[1]
    wrong = next(reasoner.solve_many([text]))
    assert not wrong.verified and wrong.fault


def test_options_are_checked():
    with pytest.raises(ValueError, match="choose one of auto, q, stable, settled, residual, never"):
        Reasoner(six_by_six(), halt="soon")
    for halt in ("q", "settled"):
        with pytest.raises(ValueError, match="learned no halting"):
            Reasoner(six_by_six(halting="fixed"), halt=halt)
    for option in ({"passes": 2}, {"pins": 1}, {"check": True}):
        with pytest.raises(ValueError, match="not for arc, of which no rules are known"):
            Reasoner(six_by_six(), "arc", **option)
    with pytest.raises(ValueError, match="hrm solve arc TASK.json"):
        Reasoner(six_by_six(), "arc").solve("12")


def test_evaluation_counts_what_it_says():
    split = load_split("sudoku-6x6-1k", "test")
    reasoner = Reasoner(six_by_six(), halt="never")
    right = split.labels[:10].copy()
    right[3, 5] = right[3, 5] % 6 + 2 if right[3, 5] < 7 else 2  # one cell wrong
    right[7, :] = 1  # all blank
    segments = np.arange(10)
    said = {"tokens": right, "segments": segments, "confidence": np.ones(10), "passes": np.ones(10, int)}
    reasoner.run = lambda tokens, ids: type("A", (), said)
    report = evaluate(reasoner, split, 10)
    assert report["rows"] == 10 and report["exact@1"] == 0.8 and report["verified"] == 0.8
    assert report["cell_accuracy"] == pytest.approx((8 + 35 / 36) / 10) and report["mean_segments"] == 4.5
    assert report["q_halt"]["accuracy"] == 0.8 and report["q_halt"]["expected_calibration_error"] == pytest.approx(0.2)
    low, high = report["exact@1_ci95"]
    assert low < 0.8 < high
    assert "by_source" not in report  # there is but one
    mixed = dataclasses.replace(split, sources=np.array(["first"] * 4 + [""] * 996))
    parts = {"first": {"rows": 4, "exact@1": 0.75}, "": {"rows": 6, "exact@1": pytest.approx(5 / 6)}}
    assert evaluate(reasoner, mixed, 10)["by_source"] == parts
    reasoner.passes, said["passes"] = 4, np.array([1, 1, 2, 4, 4, 3, 2, 4, 1, 4])  # rows 3 and 7 are wrong
    assert evaluate(reasoner, split, 10)["right_within_passes"] == {1: 0.3, 2: 0.5, 4: 0.8}
    reasoner.select = "votes"  # which looks at every pass, however soon one was right
    assert "right_within_passes" not in evaluate(reasoner, split, 10)


def test_answers_that_a_symmetry_makes_one_another_are_one_trial():
    split, known = load_split("sudoku-hard-1k", "test"), np.ones((10, 81), np.bool_)
    turn = Sudoku(3, 3).draw_symmetry(5, torch.Generator().manual_seed(0))
    asked, told = (
        np.concatenate((rows, turn.apply(torch.from_numpy(rows)).numpy()))
        for rows in (split.inputs[:5], split.labels[:5])
    )
    assert distinct_of(Sudoku(3, 3), asked, told, known) == 5
    assert distinct_of(Sudoku(3, 3), asked, told, known & (np.arange(81) > 0)) == 10
    maze = load_split("maze-15x15-1k", "test").labels[:3]
    turned = np.rot90(maze.reshape(3, 15, 15), axes=(1, 2)).reshape(3, 225)
    both = np.concatenate((maze, turned))
    assert distinct_of(Maze(15, 15), both, both, np.ones((6, 225), np.bool_)) == 3
    small = load_split("sudoku-6x6-1k", "test")  # of 49 solutions up to symmetry
    assert distinct_of(Sudoku(2, 3), small.inputs, small.labels, small.labels > 0) == 1000


def test_wilson_interval_against_published_values():
    """Brown, Cai & DasGupta 2001: x = 0 of 10 gives 0 to 0.278; 8 of 10 gives 0.490 to 0.943."""
    assert wilson(0.0, 10) == pytest.approx([0, 0.2775], abs=1e-3)
    assert wilson(0.8, 10) == pytest.approx([0.490, 0.943], abs=1e-3)
    assert wilson(1.0, 100)[1] == pytest.approx(1.0)


# --- several looks

LATTICE = dict(mixer="groups", pos_encodings="none", box=(2, 3), initial_state="random", halting="halt_only")


def answers(tokens, confidence, residual, halted) -> Answers:
    found = Answers.empty(*np.shape(tokens))
    found.tokens[:], found.confidence[:], found.residual[:], found.halted[:] = tokens, confidence, residual, halted
    found.segments[:], found.passes[:] = 2, 1
    return found


class Script(list):
    """A batch of looks that are over after one segment; a list of what was let in at a time: numbers, and their looks.

    `says(number, look, tokens)` is what a look answers, one row.
    """

    def __init__(self, reasoner: Reasoner, says: Callable[[int, int, np.ndarray], Answers]):
        self.says, self.found = says, {}
        reasoner.looking = lambda: self

    def enter(self, numbers, tokens, names, looks):
        self.append((list(numbers), list(looks)))
        self.found |= {puzzle[0]: self.says(*puzzle) for puzzle in zip(numbers, looks, tokens, strict=True)}

    def step(self, watch):
        found, self.found = self.found, {}
        return list(found), Answers.joined(list(found.values()))


def scripted(reasoner: Reasoner, looks: list[Answers]) -> Script:
    """Let the looks of `reasoner` answer what `looks` says."""
    return Script(reasoner, lambda number, look, tokens: looks[look].take([number]))


GRIDS = np.stack([np.full(36, v, np.uint8) for v in (2, 3, 4)])


def test_confidence_stops_at_the_first_pass_that_halts_sure_of_itself():
    reasoner = Reasoner(six_by_six(**LATTICE), passes=3)
    asked = scripted(
        reasoner,
        [
            answers(GRIDS, [0.9, 0.4, 0.8], [1, 1, 1], [True, True, False]),
            answers(GRIDS[[0, 2, 0]], [0.9, 0.9, 0.3], [1, 1, 1], [True, True, True]),
            answers(GRIDS[[0, 0, 1]], [0.9, 0.9, 0.2], [1, 1, 1], [True, True, False]),
        ],
    )
    found = reasoner.run(GRIDS)
    assert asked == [([0, 1, 2], [0, 0, 0]), ([1, 2], [1, 1]), ([2], [2])]
    assert found.tokens[:, 0].tolist() == [2, 4, 4]  # accepted at once, at the second look, the most confident of three
    assert found.passes.tolist() == [1, 2, 3] and found.segments.tolist() == [2, 4, 6]


def test_how_sure_a_pass_must_be_is_asked_of_the_reasoner_and_else_of_the_weights():
    configured = six_by_six(**LATTICE, accept_above=0.8)
    for model, how, looks in ((configured, {}, 2), (configured, {"accept": 0.6}, 1), (six_by_six(**LATTICE), {}, 1)):
        reasoner = Reasoner(model, passes=3, **how)
        asked = scripted(reasoner, [answers(GRIDS[:1], sure, 1, True) for sure in (0.7, 0.85, 0.9)])
        found = reasoner.run(GRIDS[:1])
        assert asked == [([0], [look]) for look in range(looks)] and found.passes.tolist() == [looks]


@pytest.mark.parametrize("how", [{}, {"passes": 3, "check": True}, {"passes": 3, "select": "votes"}])
def test_how_sure_is_only_asked_where_confidence_chooses(how):
    with pytest.raises(ValueError, match=r"accept=0\.6: only where confidence chooses among several: give passes"):
        Reasoner(six_by_six(**LATTICE), accept=0.6, **how)
    with pytest.raises(ValueError, match=r"accept=2: from 0 to 1"):
        Reasoner(six_by_six(**LATTICE), passes=3, accept=2)


@pytest.mark.parametrize("shape", [(2, 25), (36,)])
def test_tokens_of_another_size_are_refused(shape):
    with pytest.raises(ValueError, match=r"tokens of shape .*: expected \(puzzles, 36\)"):
        Reasoner(six_by_six(**LATTICE)).run(np.full(shape, 2, np.uint8))


def test_residual_and_votes_look_at_every_pass():
    looks = [
        answers(GRIDS[:2], [0.6, 0.9], [0.5, 0.1], [True, True]),
        answers(GRIDS[[1, 2]], [0.5, 0.5], [0.2, 0.3], [True, True]),
        answers(GRIDS[[1, 2]], [0.4, 0.3], [0.3, 0.2], [True, True]),
    ]
    for select, expected in (("residual", [3, 3]), ("votes", [3, 3])):
        reasoner = Reasoner(six_by_six(**LATTICE), passes=3, select=select)
        asked = scripted(reasoner, looks)
        found = reasoner.run(GRIDS[:2])
        assert asked == [([0, 1], [look, look]) for look in range(3)]
        assert found.tokens[:, 0].tolist() == expected, select
        assert found.passes.tolist() == [3, 3]


def test_the_thinking_program_counts_the_looks_that_a_user_gets(tmp_path, monkeypatch, capsys):
    split, task, model = load_split("sudoku-6x6-1k", "test"), Sudoku(2, 3), six_by_six(initial_state="random")
    torch.nn.init.zeros_(model.lm_head.weight)  # one answer to all, so that Q alone halts
    ckpt.save_weights(tmp_path / "w", model, "sudoku", {})
    grids = ([task.format(task.decode(grid)) for grid in part[:8]] for part in (split.inputs, split.labels))
    (tmp_path / "few.csv").write_text("\n".join(["question,answer", *map(",".join, zip(*grids, strict=True))]))
    asked = f"thinking {tmp_path}/w --data {tmp_path}/few.csv --segments 2 --passes 2 --pins 0 --accept 1"
    monkeypatch.setattr("sys.argv", asked.split())
    benchmark("thinking").main()
    said = dict(line.split(" | ")[::4][:2] for line in capsys.readouterr().out.splitlines() if " looks, " in line)
    passes = Reasoner.load(tmp_path / "w", passes=2).run(split.inputs[:8]).passes.mean()
    assert 1 < passes < 2
    assert said == {"| up to 2 looks, confidence": f"{passes:.2f}", "| up to 2 looks, confidence above 1": "2.00"} | {
        f"| 2 looks, {select}": "2.00" for select in ("residual", "votes", "any")
    }


def test_check_accepts_by_the_rules_alone():
    split = load_split("sudoku-6x6-1k", "test")
    right, wrong = split.labels[:3], GRIDS
    reasoner = Reasoner(six_by_six(**LATTICE), passes=2, check=True)
    asked = scripted(
        reasoner,
        [
            answers(np.where([[1], [0], [0]], right, wrong), 0.1, 1, False),
            answers(np.where([[0], [1], [0]], right, wrong), [0.9, 0.0, 0.9], 1, False),
        ],
    )
    found = reasoner.run(split.inputs[:3])
    assert asked == [([0, 1, 2], [0, 0, 0]), ([1, 2], [1, 1])]
    assert (found.tokens[:2] == right[:2]).all() and (found.tokens[2] == wrong[2]).all()


@pytest.mark.parametrize("select", ["confidence", "residual", "votes"])
@pytest.mark.parametrize("changes", [LATTICE, {"puzzle_emb_ndim": 0}])
def test_neither_labels_nor_rules_reach_the_selection(select, changes, monkeypatch):
    split = load_split("sudoku-6x6-1k", "test")
    given = split.inputs[:6]
    torch.manual_seed(0)
    options = dict(passes=3, select=select, halt="stable", max_segments=3, noise=0.1)
    reasoner = Reasoner(six_by_six(**changes), **options)
    seen = []
    run = reasoner.run
    reasoner.run = lambda *a: seen.append(run(*a)) or seen[-1]
    evaluate(reasoner, split, 6)
    shuffled = dataclasses.replace(split, labels=split.labels[np.random.default_rng(0).permutation(len(split.labels))])
    evaluate(reasoner, shuffled, 6)
    monkeypatch.setattr(type(reasoner.task), "verify_batch", lambda *_: pytest.fail("rules used"))
    seen.append(run(given))
    for other in seen[1:]:
        assert (other.tokens == seen[0].tokens).all() and (other.passes == seen[0].passes).all()


@pytest.mark.parametrize("changes", [LATTICE, {"puzzle_emb_ndim": 0}])
def test_several_looks_do_not_depend_on_batch_size_or_neighbours(changes):
    split = load_split("sudoku-6x6-1k", "test")
    model = six_by_six(**changes)
    options = dict(passes=3, select="votes", halt="stable", max_segments=4, noise=0.2)
    together = Reasoner(model, batch_size=3, **options).run(split.inputs[:7])
    for row in range(7):
        alone = Reasoner(model, batch_size=1, **options).run(split.inputs[row : row + 1])
        assert (alone.tokens[0] == together.tokens[row]).all() and alone.segments[0] == together.segments[row]


def test_a_look_turns_the_puzzle_and_its_answer_back():
    split = load_split("sudoku-6x6-1k", "test")
    reasoner = Reasoner(six_by_six(**LATTICE))
    tokens, labels = (torch.from_numpy(a[:5].astype(np.int32)) for a in (split.inputs, split.labels))
    for number in range(4):
        look = Look(number, reasoner.model, reasoner.task, noise=0.0, seed=0)
        turned, answer = map(look.symmetry.apply, (tokens, labels))
        back = look.symmetry.inverse()
        assert torch.equal(turned, tokens) == (number == 0)
        verified = reasoner.task.verify_batch(
            *(reasoner.task.decode(t.numpy().astype(np.uint8)) for t in (turned, answer))
        )
        assert verified.all() and torch.equal(back.apply(answer), labels)
        assert torch.equal(back.place((turned > 1).float()), (tokens > 1).float())
        assert torch.equal(look.start[0], reasoner.model.initial_state(1)[0]) == (number == 0)


def test_noise_joins_looks_after_the_first_and_depends_on_the_segment():
    batch = Reasoner(six_by_six(**LATTICE), passes=3, noise=0.5, halt="never").looking()
    seen, undisturbed, engine = [], [], batch.engine
    batch.engine = lambda state, *rest: seen.append(state[0]) or engine(state, *rest)
    for numbers, looks in (([0, 1], [0, 2]), ([2, 3], [2, 1])):
        batch.enter(numbers, puzzles(2), np.zeros(2, np.int32), looks)
        undisturbed.append(batch.state[0])
        batch.step()
    first, second = (disturbed - plain for disturbed, plain in zip(seen, undisturbed, strict=True))
    assert not first[0].any() and not second[0].any()
    assert all(0.4 < moved.std() < 0.6 for moved in (first[1], *second[1:]))
    assert not torch.equal(second[1], second[2]) and not torch.equal(second[2], second[3])
    torch.testing.assert_close(second[2], first[1])  # the same look and segment


def test_pins_fill_the_most_doubtful_cells_with_either_value_until_accepted():
    split = load_split("sudoku-6x6-1k", "test")
    given, labels = split.inputs[:2], split.labels[:2]
    open_cells = [np.flatnonzero(row == 1) for row in given]
    reasoner = Reasoner(six_by_six(**LATTICE), pins=6)
    log = []

    def says(row, look, tokens):
        assert look == 0
        found = answers(np.where(given[[row]] > 1, given[[row]], 2), [0.1], 1, True)
        found.runner_up[:] = labels[row]
        found.margin[:] = 1.0
        found.margin[0, open_cells[row][:3]] = 0.1, 0.3, 0.2
        changed = np.flatnonzero(tokens != given[row])
        log.append((row, changed.tolist(), tokens[changed].tolist()))
        # row 0 is solved once its third doubtful cell holds the right value; row 1 never
        if row == 0 and changed.tolist() == [open_cells[0][2]] and tokens[changed[0]] == labels[0, changed[0]]:
            found.tokens[:], found.confidence[:] = labels[0], 0.9
        elif len(changed) == 1:
            found.confidence[:] = 0.2 + 0.01 * len(log)
        return found

    Script(reasoner, says)
    found = reasoner.run(given)
    first, second = open_cells[0][0], open_cells[0][2]
    tried = [(cells, values) for row, cells, values in log if row == 0]
    assert tried[0] == ([], [])
    assert [cells for cells, _ in tried[1:]] == [[first]] * (len([c for c, _ in tried if c == [first]])) + [
        [second]
    ] * (len(tried) - 1 - len([c for c, _ in tried if c == [first]]))
    assert (found.tokens[0] == labels[0]).all() and found.confidence[0] == pytest.approx(0.9)
    assert found.passes[1] == 7 and found.passes[0] == len(tried) and found.confidence[1] < 0.5
    assert len([1 for row, _, _ in log if row == 1]) == 7


def test_pins_never_touch_a_given():
    split = load_split("sudoku-6x6-1k", "test")
    given = split.labels[:2].copy()
    given[0, 5] = 1  # one blank; row 1 has none
    reasoner, asked_for = Reasoner(six_by_six(**LATTICE), pins=6), []

    def says(row, look, tokens):
        assert look == 0
        asked_for.append((row, tokens))
        return answers(np.full_like(tokens, 2)[None], [0.1], 1, True)

    Script(reasoner, says)
    found = reasoner.run(given)
    pinned = np.stack([tokens for row, tokens in asked_for if row == 0][1:])
    assert len(pinned) == 6 and (np.delete(pinned, 5, 1) == np.delete(given[0], 5)).all()
    assert found.passes.tolist() == [7, 1]


def test_pins_go_by_the_first_look_whatever_later_ones_say():
    given = load_split("sudoku-6x6-1k", "test").labels[:1].copy()
    given[0, 5] = 1
    reasoner, pinned = Reasoner(six_by_six(**LATTICE), pins=2), []

    def says(row, look, tokens):
        assert look == 0
        pinned.append(int(tokens[5]))
        first = len(pinned) == 1
        found = answers(np.full_like(tokens, 2 if first else 5)[None], [0.1 * len(pinned)], 1, True)
        found.runner_up[:] = 3 if first else 4
        return found

    Script(reasoner, says)
    reasoner.run(given)
    assert pinned == [1, 2, 3]


def test_a_confidence_that_is_no_number_is_worth_nothing():
    reasoner = Reasoner(six_by_six(**LATTICE), passes=3)
    scripted(reasoner, [answers(GRIDS[[look]], [sure], 1, True) for look, sure in enumerate((np.nan, 0.2, 0.3))])
    assert reasoner.run(GRIDS[:1]).tokens[0, 0] == GRIDS[2, 0]


@pytest.mark.parametrize("seed", [0, 5])
def test_a_batch_of_looks_sees_and_answers_what_each_would_alone(seed):
    model = six_by_six(initial_state="random", num_puzzle_identifiers=3)
    torch.nn.init.normal_(model.puzzle_emb.weights)
    reasoner = Reasoner(model, passes=3, noise=0.3, seed=seed, halt="never", max_segments=3)
    batch, thoughts, found = reasoner.looking(), [], {}
    tokens, names, looks = puzzles(5), np.array([0, 1, 2, 2, 1], np.int32), [0, 2, 1, 2, 0]
    for coming in ([0, 1], [2, 3, 4], [], []):
        if coming:
            batch.enter(coming, tokens[coming], names[coming], [looks[row] for row in coming])
        numbers, answered = batch.step(thoughts.append)
        found |= {number: answered.take([place]) for place, number in enumerate(numbers)}
    assert not len(batch) and sorted(found) == [0, 1, 2, 3, 4]
    for row in range(5):
        look = Look(looks[row], model, reasoner.task, noise=0.3, seed=seed)
        source, renamed = look.symmetry.source[0].numpy(), look.symmetry.tokens[0].numpy()
        seen = torch.from_numpy(renamed[tokens[row][source]].astype(np.int32))[None]
        state, who = look.start, model.puzzle_rows(torch.from_numpy(names[[row]]))
        for segment in range(3):
            with torch.inference_mode():
                state = tuple(z + drawn for z, drawn in zip(state, look.noise(segment), strict=True))
                state, out = model(state, seen, who)
            chances, order = out.logits[0].softmax(-1).topk(2)
            (thought,) = (t for t in thoughts if (t.row, t.segment) == (row, segment + 1))
            assert (renamed[thought.tokens[source]] == order[:, 0].numpy()).all()
            np.testing.assert_allclose(thought.certainty[source], chances[:, 0], atol=1e-5)
        assert (renamed[found[row].runner_up[0][source]] == order[:, 1].numpy()).all()
        np.testing.assert_allclose(found[row].margin[0][source], chances[:, 0] - chances[:, 1], atol=1e-5)
        np.testing.assert_allclose(found[row].confidence[0], out.q_halt.sigmoid()[0], atol=1e-5)


WAYS = [
    ({}, {}),
    (LATTICE, dict(passes=3, halt="stable", noise=0.2)),
    (LATTICE, dict(passes=3, halt="stable", select="votes")),
    ({"puzzle_emb_ndim": 0}, dict(passes=3, select="residual")),
    (LATTICE, dict(passes=4, check=True)),
    (LATTICE, dict(passes=2, pins=3, halt="stable")),
    (LATTICE | dict(carry="candidates", gradient="segment", initial_state="fixed"), dict(passes=3)),
    (LATTICE | dict(carry="both", gradient="segment"), dict(passes=3, check=True)),
]


@pytest.mark.parametrize(("changes", "options"), WAYS)
def test_a_running_batch_answers_as_run_does_whoever_enters_and_leaves(changes, options):
    tokens, names = puzzles(8), np.zeros(8, np.int32)
    reasoner = Reasoner(six_by_six(**changes), max_segments=5, **options)
    whole, found, left = reasoner.run(tokens), Answers.empty(8, 36), []
    thoughts: list[int] = []
    running = reasoner.running()

    def step():
        numbers, answers = running.step(lambda thought: thoughts.append(thought.row))
        found.put(np.array(numbers, np.int64), answers)
        left.extend(numbers)

    running.enter([0, 7, 1, 2], tokens[[0, 7, 1, 2]], names[:4])
    step()
    assert thoughts == [0, 7, 1, 2]
    running.enter([3, 4, 5], tokens[3:6], names[:3])
    running.drop({7, 6})  # 6 is not in it yet
    step()
    running.enter([6], tokens[6:7], names[:1])
    while len(running):
        step()
    rows = list(range(7))
    assert sorted(left) in (rows, [*rows, 7])
    for name in ("tokens", "segments", "passes", "halted"):
        assert np.array_equal(getattr(found, name)[rows], getattr(whole, name)[rows]), name
    np.testing.assert_allclose(found.confidence[rows], whole.confidence[rows], atol=1e-4)


def test_the_participation_ratio_counts_the_dimensions_that_states_move_in():
    program, rng = benchmark("participation"), np.random.default_rng(0)
    sums = program.Sums(20, 12)
    turn, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    flat = np.zeros((20, 500, 12))
    flat[..., :4] = rng.normal(size=(20, 500, 4))
    round_ = rng.normal(size=(20, 500, 12)) + 5.0  # where they are does not count, how they spread does
    for puzzle in range(20):
        sums.add(puzzle, 0, np.concatenate((round_[puzzle], np.zeros((300, 12)))))  # and nothing is no state
        sums.add(puzzle, 1, flat[puzzle] @ turn)
    z_H, z_L = sums.ratios(np.arange(20))
    values = np.linalg.eigvalsh(np.cov(round_.reshape(-1, 12).T))
    assert z_H == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-6) and 11.9 < z_H < 12 and 3.9 < z_L < 4


@pytest.mark.parametrize("option", ["passes", "max_segments", "batch_size"])
def test_options_of_zero_are_refused(option):
    with pytest.raises(ValueError, match=f"{option}=0: at least 1"):
        Reasoner(six_by_six(), **{option: 0})


def test_every_pass_of_a_pinned_puzzle_is_watched_under_a_number_of_its_own():
    thoughts = []
    reasoner = Reasoner(six_by_six(halt_max_steps=2), passes=2, pins=2, check=True)
    reasoner.solve("." * 36, watch=thoughts.append)
    assert [thought.look for thought in thoughts if thought.halted] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"noise": 0.1}, "give passes as well"),
        ({"select": "votes"}, "give passes as well"),
        ({"noise": 0.1, "pins": 2}, "give passes as well"),
        ({"check": True}, "give passes or pins as well"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, cure):
    with pytest.raises(ValueError, match=cure):
        Reasoner(six_by_six(), **options)


def test_several_looks_need_the_tokens_of_the_task():
    with pytest.raises(ValueError, match="passes=2: sudoku has 8 tokens, this model knows 11"):
        Reasoner(six_by_six(vocab_size=11), passes=2)
    assert len(Reasoner(six_by_six(vocab_size=11)).run(puzzles(2)).tokens) == 2


def test_pins_go_with_confidence_only():
    with pytest.raises(ValueError, match="goes by confidence"):
        Reasoner(six_by_six(**LATTICE), pins=2, select="votes")


def test_short_segments_keep_to_one_thread_and_the_number_is_given_back(monkeypatch):
    seen: list[int] = []
    model = six_by_six()
    model.L_level.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    Reasoner(model).run(puzzles(2))
    assert set(seen) == {1}
    seen.clear()
    monkeypatch.setattr("hrm.backends.SHARED_WORK", 2 * work_of_update(model))  # two puzzles are worth two threads
    Reasoner(model, halt="never").run(puzzles(2))
    Reasoner(model, halt="never").run(puzzles(1))
    assert seen == [2] * (len(seen) // 2) + [1] * (len(seen) // 2) and torch.get_num_threads() == 2


def test_counts_too_large_for_an_array_are_refused():
    for option in ("passes", "pins"):
        with pytest.raises(ValueError, match=f"{option}=2147483648: at most 2147483647"):
            Reasoner(six_by_six(), **{option: 2**31})
    with pytest.raises(ValueError, match="pins=-1: at least 0"):
        Reasoner(six_by_six(), pins=-1)
