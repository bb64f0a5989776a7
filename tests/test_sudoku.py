"""Sudoku: text, rules, exact solver, generator, symmetries, and the data that ship, against independent oracles."""

import itertools

import numpy as np
import pytest
import torch
from conftest import benchmark
from hypothesis import given, settings
from hypothesis import strategies as st
from pysat.solvers import Cadical153

from hrm.data import load_split
from hrm.tasks import task_for
from hrm.tasks.sudoku import Sudoku, TooHard, parse_any

SHAPES = {4: Sudoku(2, 2), 6: Sudoku(2, 3), 9: Sudoku(3, 3), 16: Sudoku(4, 4), 25: Sudoku(5, 5)}
NINE = SHAPES[9]


def units_by_hand(task: Sudoku) -> list[list[int]]:
    """Rows, columns and boxes, from the definition."""
    n = task.size
    cells = list(itertools.product(range(n), range(n)))
    keys = [lambda r, c: r, lambda r, c: c, lambda r, c: (r // task.box_rows, c // task.box_cols)]
    units = []
    for key in keys:
        groups: dict = {}
        for r, c in cells:
            groups.setdefault(key(r, c), []).append(r * n + c)
        units += groups.values()
    return units


def sat_solutions(task: Sudoku, puzzle: np.ndarray, limit: int = 2) -> list[list[int]]:
    """Solutions by a SAT solver: one variable a (cell, digit)."""
    n = task.size

    def var(k: int, d: int) -> int:
        return k * n + d

    with Cadical153() as solver:
        for k in range(n * n):
            solver.add_clause([var(k, d) for d in range(1, n + 1)])
        for unit in units_by_hand(task):
            for d in range(1, n + 1):
                for a, b in itertools.combinations(unit, 2):
                    solver.add_clause([-var(a, d), -var(b, d)])
        for k, d in enumerate(puzzle.tolist()):
            if d:
                solver.add_clause([var(k, d)])
        found = []
        while len(found) < limit and solver.solve():
            true = [v for v in solver.get_model() if v > 0]
            found.append([(v - 1) % n + 1 for v in sorted(true)])
            solver.add_clause([-v for v in true])
        return found


def hard(count: int, split: str = "test") -> list[np.ndarray]:
    return [NINE.decode(row) for row in load_split("sudoku-hard-1k", split).inputs[:count]]


# --- solver


def test_solver_finds_what_a_sat_solver_finds_on_hard_puzzles():
    for puzzle in hard(15):
        assert [s.tolist() for s in NINE.solve(puzzle)] == sat_solutions(NINE, puzzle)


def test_solver_sees_several_solutions_and_none():
    rng = np.random.default_rng(0)
    for puzzle in hard(6):
        fewer = puzzle.copy()
        fewer[rng.choice(np.flatnonzero(fewer), 2, replace=False)] = 0
        assert len(NINE.solve(fewer)) == min(2, len(sat_solutions(NINE, fewer)))
        wrong = puzzle.copy()
        k = np.flatnonzero(wrong == 0)[0]
        wrong[k] = NINE.solve(puzzle)[0][k] % 9 + 1
        assert NINE.solve(wrong) == [] == sat_solutions(NINE, wrong)
    clash = np.zeros(81, np.uint8)
    clash[:2] = 5
    assert NINE.solve(clash) == []


def test_all_288_grids_of_4x4_are_found():
    four = SHAPES[4]
    solutions = four.solve(np.zeros(16, np.uint8), limit=1000)
    assert len({s.tobytes() for s in solutions}) == 288
    assert all(all(sorted(s[u]) == [1, 2, 3, 4] for u in units_by_hand(four)) for s in solutions)


@pytest.mark.parametrize("size", [16, 25])
def test_large_grids_are_solved_and_checked(size):
    task, rng = SHAPES[size], np.random.default_rng(1)
    solution = task.random_grid(rng)
    assert all(sorted(solution[u]) == list(range(1, size + 1)) for u in units_by_hand(task))
    puzzle = solution.copy()
    puzzle[rng.random(size * size) < 0.3] = 0
    assert any(task.verify(puzzle, s) for s in task.solve(puzzle, limit=5))
    assert task.parse(task.format(puzzle, "grid")).tolist() == puzzle.tolist()


def test_guesses_are_bounded_on_request_and_counted():
    assert NINE.rate(NINE.parse("123456789" + "." * 72)) > 0
    with pytest.raises(TooHard, match="more than 3 guesses"):
        NINE.solve(np.zeros(81, np.uint8), max_guesses=3)
    easy = NINE.solve(hard(1)[0])[0].copy()
    easy[[0, 40, 80]] = 0
    assert NINE.rate(easy) == 0


# --- text


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_text_round_trips(data):
    task = SHAPES[data.draw(st.sampled_from(list(SHAPES)))]
    grid = np.array(
        data.draw(st.lists(st.integers(0, task.size), min_size=task.seq_len, max_size=task.seq_len)), np.uint8
    )
    line = task.format(grid)
    for text in (
        line,
        line.replace(".", "0"),
        line.replace(".", "_"),
        line.lower(),
        task.format(grid, "grid"),
        f" {line}\n",
    ):
        assert np.array_equal(task.parse(text), grid), text
    found, again = parse_any(line)
    assert found == task and np.array_equal(again, grid)
    assert np.array_equal(task.decode(task.encode(grid)), grid) and task.encode(grid).max() < task.vocab_size


def test_common_drawings_are_read():
    line = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
    drawings = [
        "\n".join(" ".join(line[r * 9 : r * 9 + 9]) for r in range(9)),
        "\n".join(",".join(line[r * 9 : r * 9 + 9]) for r in range(9)),
        line.replace(".", "-"),
        line.replace(".", "*"),
        "+-----+\n" + "\n".join("|" + line[r * 9 : r * 9 + 9] + "|" for r in range(9)) + "\n+-----+",
    ]
    for text in drawings:
        assert NINE.format(NINE.parse(text)) == line, text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1" * 80, "81 cells expected for 9x9, got 80"),
        ("", "got 0"),
        ("." * 20 + "x" + "." * 60, "row 3, column 3: 'x' is not a digit 1-9"),
        ("." * 82, "got 82"),
    ],
)
def test_text_that_is_no_grid_is_explained(text, words):
    with pytest.raises(ValueError, match=words):
        NINE.parse(text)


def test_unknown_sizes_and_tasks():
    with pytest.raises(ValueError, match="80 cells make no Sudoku"):
        Sudoku.for_cells(80)
    with pytest.raises(ValueError, match="did you mean 'sudoku'"):
        task_for("sudoko", 81)


# --- rules


def test_verdicts_in_words_and_in_batches_agree_with_the_rules():
    rng = np.random.default_rng(0)
    puzzles, answers = [], []
    for puzzle in hard(30):
        answer = NINE.solve(puzzle)[0]
        kinds = [answer]
        changed = answer.copy()
        changed[rng.choice(np.flatnonzero(puzzle))] = 0
        kinds.append(changed)
        for clue in (True, False):
            k = rng.choice(np.flatnonzero((puzzle > 0) == clue))
            changed = answer.copy()
            changed[k] = changed[k] % 9 + 1
            kinds.append(changed)
        relabelled = (answer % 9 + 1).astype(np.uint8)  # a valid grid that ignores the clues
        for a in [*kinds, relabelled]:
            puzzles.append(puzzle)
            answers.append(a)
    expected = [
        all(sorted(a[u]) == list(range(1, 10)) for u in units_by_hand(NINE)) and bool((a[p > 0] == p[p > 0]).all())
        for p, a in zip(puzzles, answers, strict=True)
    ]
    assert [NINE.verify(p, a) for p, a in zip(puzzles, answers, strict=True)] == expected
    assert NINE.verify_batch(np.stack(puzzles), np.stack(answers)).tolist() == expected
    assert sum(expected) == 30


def test_faults_say_where():
    puzzle = hard(1)[0]
    answer = NINE.solve(puzzle)[0]
    given_cell, free = np.flatnonzero(puzzle)[0], np.flatnonzero(puzzle == 0)[0]
    blank, changed, twice = answer.copy(), answer.copy(), answer.copy()
    blank[free] = 0
    changed[given_cell] = changed[given_cell] % 9 + 1
    twice[free] = twice[free] % 9 + 1
    assert NINE.fault(puzzle, answer) == ""
    assert NINE.fault(puzzle, blank) == f"cell r{free // 9 + 1}c{free % 9 + 1} is empty"
    assert "was given as" in NINE.fault(puzzle, changed)
    assert f"row {free // 9 + 1} holds {twice[free]} twice" == NINE.fault(puzzle, twice)
    clash = np.zeros(81, np.uint8)
    clash[[0, 10]] = 7
    assert NINE.clues_fault(clash) == "box 1 holds 7 twice" and NINE.clues_fault(puzzle) == ""


# --- making puzzles


@pytest.mark.parametrize("size", [4, 6, 9])
def test_generated_puzzles_are_unique_minimal_and_seeded(size):
    task = SHAPES[size]
    for seed in range(3):
        puzzle, solution = task.generate(np.random.default_rng(seed))
        assert sat_solutions(task, puzzle) == [solution.tolist()]
        for k in np.flatnonzero(puzzle):
            fewer = puzzle.copy()
            fewer[k] = 0
            assert len(task.solve(fewer)) == 2
        assert np.array_equal(task.generate(np.random.default_rng(seed))[0], puzzle)
    assert not np.array_equal(task.generate(np.random.default_rng(9))[0], puzzle)


def test_clue_count_and_symmetry_are_honoured():
    puzzle, _ = NINE.generate(np.random.default_rng(0), clues=40)
    assert (puzzle > 0).sum() == 40 and NINE.is_unique(puzzle)
    puzzle, _ = NINE.generate(np.random.default_rng(0), symmetric=True)
    assert np.array_equal(puzzle > 0, (puzzle > 0)[::-1]) and NINE.is_unique(puzzle)


def test_hardening_never_makes_a_puzzle_easier():
    rng = np.random.default_rng(0)
    puzzle, solution = NINE.generate(rng)
    harder, same, rating = NINE.harden(puzzle, rng, 3)
    assert rating == NINE.rate(harder) >= NINE.rate(puzzle)
    assert np.array_equal(same, solution) and sat_solutions(NINE, harder) == [solution.tolist()]


# --- symmetry


@pytest.mark.parametrize("size", [4, 6, 9])
def test_augmented_puzzles_have_the_augmented_solutions(size):
    task = SHAPES[size]
    rng = np.random.default_rng(0)
    grids = [task.generate(rng) for _ in range(8)] * 16
    puzzles, solutions = (torch.from_numpy(task.encode(np.stack(side))) for side in zip(*grids, strict=True))
    q, a = task.augment(puzzles, solutions, torch.Generator().manual_seed(0))
    assert q.dtype == a.dtype == torch.uint8
    assert task.verify_batch(task.decode(q.numpy()), task.decode(a.numpy())).all()
    assert ((q > 1).sum(1) == (puzzles > 1).sum(1)).all()
    again = task.augment(puzzles, solutions, torch.Generator().manual_seed(0))
    other = task.augment(puzzles, solutions, torch.Generator().manual_seed(1))
    assert torch.equal(q, again[0]) and torch.equal(a, again[1]) and not torch.equal(q, other[0])
    assert len({row.numpy().tobytes() for row in a[::8]}) > 8  # rows of one puzzle differ


@pytest.mark.parametrize("size", [6, 9])
def test_every_symmetry_occurs_about_equally_often(size):
    """Where cell 0 goes and which digit it shows: uniform over cells and over digits; transposes half of the time."""
    task, rows = SHAPES[size], 12_000
    n = task.size
    solution = torch.from_numpy(task.encode(task.random_grid(np.random.default_rng(0)))).expand(rows, -1)
    place = torch.arange(n * n).expand(rows, -1).to(torch.int32)
    _, moved = task.augment(solution, solution, torch.Generator().manual_seed(0))
    counts = torch.bincount(moved[:, 0].long(), minlength=n + 2)[2:] / rows
    assert (counts - 1 / n).abs().max() < 0.02
    # follow cells: label every cell by a position-only trick, two grids that differ in one given cell
    marked = torch.ones(rows, n * n, dtype=torch.int32)
    marked[:, 1] = 0  # padding keeps its value, so it shows where cell 1 went
    went = task.augment(marked, place * 0, torch.Generator().manual_seed(0))[0].eq(0).nonzero()[:, 1]
    assert (torch.bincount(went, minlength=n * n) / rows - 1 / n**2).abs().max() < 0.01
    # cells 0 and 1 share a row: after a transpose they share a column
    first = torch.ones(rows, n * n, dtype=torch.int32)
    first[:, 0] = 0
    start = task.augment(first, place * 0, torch.Generator().manual_seed(0))[0].eq(0).nonzero()[:, 1]
    turned = (start % n == went % n).float().mean().item()
    assert turned == pytest.approx(0.5, abs=0.02) if task.box_rows == task.box_cols else turned == 0


def test_ignored_labels_and_padding_stay():
    tokens = torch.from_numpy(NINE.encode(np.stack(hard(4)))).to(torch.int32)
    labels = torch.full_like(tokens, -100)
    labels[:, 5] = 0
    q, a = NINE.augment(tokens, labels, torch.Generator().manual_seed(0))
    assert ((a == -100).sum(1) == 80).all() and ((a == 0).sum(1) == 1).all()
    assert ((q == 1).sum(1) == (tokens == 1).sum(1)).all()


def test_orbit_key_is_the_same_for_symmetric_grids_and_else_rarely():
    rng = np.random.default_rng(0)
    grids = np.stack([NINE.random_grid(rng) for _ in range(60)])
    tokens = torch.from_numpy(NINE.encode(grids))
    _, turned = NINE.augment(tokens, tokens, torch.Generator().manual_seed(0))
    keys = [NINE.same_orbit_key(g) for g in grids]
    assert keys == [NINE.same_orbit_key(g) for g in NINE.decode(turned.numpy())]
    assert len(set(keys)) == 60


# --- what ships


@pytest.mark.parametrize(
    ("name", "rows"), [("sudoku-hard-1k", 1000), ("sudoku-hard-beyond", 1800), ("sudoku-6x6-1k", 1000)]
)
def test_shipped_sets_are_valid_unique_and_apart(name, rows):
    splits = {s: load_split(name, s) for s in ("train", "val", "test")}
    task = Sudoku.for_cells(splits["train"].metadata.seq_len)
    assert len(splits["train"].inputs) == rows and len(splits["val"].inputs) == 256
    seen: set[bytes] = set()
    for split in splits.values():
        assert task.verify_batch(task.decode(split.inputs), task.decode(split.labels)).all()
        puzzles = {row.tobytes() for row in split.inputs}
        assert len(puzzles) == len(split.inputs) and not puzzles & seen
        seen |= puzzles
        for row in split.inputs[::40]:
            assert task.is_unique(task.decode(row))
    if task.size == 9:
        keys = [{task.same_orbit_key(g) for g in np.unique(task.decode(s.labels), axis=0)} for s in splits.values()]
        assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]


def test_generated_sets_are_made_again_from_their_seed():
    maker = benchmark("make_datasets")
    made = list(itertools.islice(maker.six_by_six_rows(), 5))
    six = SHAPES[6]
    assert [row.question for row in made] == [
        six.format(six.decode(g)) for g in load_split("sudoku-6x6-1k", "train").inputs[:5]
    ]
    hard_row = next(maker.hard_val_rows(set()))
    assert hard_row.question == NINE.format(NINE.decode(load_split("sudoku-hard-1k", "val").inputs[0]))


def test_reclued_rows_show_only_cells_of_their_own_answer():
    rng = np.random.default_rng(0)
    task = Sudoku()
    solution = np.stack([task.random_grid(rng) for _ in range(64)])
    labels = torch.from_numpy(task.encode(solution)).int()
    shown = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    inputs = torch.where(shown, labels, 1)

    def run(seed: int, **how) -> torch.Tensor:
        return task.reclue(inputs, labels, torch.Generator().manual_seed(seed), **how)

    new = run(0, share=1.0, hints=10, drop=1.0)
    assert ((new == 1) | (new == labels)).all()
    gained = ((new > 1) & ~shown).sum(1)
    lost = ((new == 1) & shown).sum(1)
    assert gained.min() >= 1 and gained.max() == 10 and (lost <= gained).all() and lost.max() > 3
    assert torch.equal(run(0, share=0.0, hints=10, drop=1.0), inputs)
    assert (run(0, share=1.0, hints=10, drop=0.0) > 1)[shown].all()
    assert torch.equal(new, run(0, share=1.0, hints=10, drop=1.0))
    touched = (run(3, share=0.5, hints=10, drop=0.5) != inputs).any(1).float().mean()
    assert 0.25 < touched < 0.75
