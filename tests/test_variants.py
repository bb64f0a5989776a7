"""More Sudokus from a few (tasks/variants.py), and data sets with them."""

import numpy as np
import pytest

from hrm.building import build
from hrm.data import load_split
from hrm.tasks import variants as making
from hrm.tasks.sudoku import Search, Sudoku
from hrm.tasks.variants import (
    beyond,
    depth,
    harder,
    has_exocet,
    left_by_assumptions,
    openness,
    standing_and_refuted,
    variants,
)

HARD = "1.......2.9.4...5...6...7...5.9.3.......7.......85..4.7.....6...3...9.8...2.....1"  # Easter Monster
EASY = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"


def standing(candidates: list[int]) -> list[tuple[int, int]]:
    """The open cells' values."""
    return [
        (cell, 1 << d) for cell, bits in enumerate(candidates) if bits & (bits - 1) for d in range(9) if bits >> d & 1
    ]


def close(search: Search, candidates: list[int]) -> bool:
    """Rule out by single assumptions, all refuted values of a round at once, to the end; False on a contradiction."""
    while True:
        wrong = [(cell, bit) for cell, bit in standing(candidates) if not search.restrict(candidates.copy(), cell, bit)]
        if not wrong:
            return True
        if not all(search.restrict(candidates, cell, ~bit) for cell, bit in wrong):
            return False


def open_after_assumptions(task: Sudoku, puzzle: np.ndarray) -> bool:
    """Whether there is `left_by_assumptions` by the exact solver's own propagation."""
    search = Search(task, None)
    candidates = search.after_singles(puzzle)
    assert close(search, candidates)
    return bool(standing(candidates))


@pytest.fixture(scope="module")
def families():
    task = Sudoku()
    puzzles = np.stack([task.parse(HARD), task.parse(EASY)])
    answers = np.stack([task.solve(puzzle)[0] for puzzle in puzzles])
    return task, puzzles, answers, variants(task, puzzles, answers, 8, [1, 2])


def test_variants_are_other_puzzles_of_the_same_solution(families):
    task, puzzles, answers, groups = families
    for puzzle, answer, (group, solved) in zip(puzzles, answers, groups, strict=True):
        assert (group[0] == puzzle).all() and (solved == answer).all()
        assert len(group) > 4 and len(np.unique(group, axis=0)) == len(group)
        for variant in group:
            solutions = task.solve(variant)
            assert len(solutions) == 1 and (solutions[0] == answer).all()


def test_variants_of_a_hard_puzzle_are_hard(families):
    task, puzzles, _, ((hard, _), (easy, _)) = families
    assert all(open_after_assumptions(task, variant) for variant in hard)
    assert not open_after_assumptions(task, puzzles[1])
    for variant in (*hard, *easy):
        assert bool(left_by_assumptions(task, variant)) == open_after_assumptions(task, variant)


def test_variants_are_a_function_of_the_seed(families):
    task, puzzles, answers, groups = families
    again = variants(task, puzzles[::-1], answers[::-1], 8, [2, 1])  # in another order, in other threads
    assert all((a[0] == b[0]).all() for a, b in zip(groups, again[::-1], strict=True))
    other = variants(task, puzzles, answers, 8, [3, 2])
    assert other[0][0].tobytes() != groups[0][0].tobytes() and other[1][0].tobytes() == groups[1][0].tobytes()


def test_drifting_variants_have_solutions_of_their_own_and_stay_as_open(families):
    task, puzzles, answers, _ = families
    for puzzle, (group, solved) in zip(puzzles, variants(task, puzzles, answers, 48, [1, 2], drift=True), strict=True):
        assert (group[0] == puzzle).all() and len(np.unique(solved, axis=0)) > 1
        for variant, answer in zip(group, solved, strict=True):
            solutions = task.solve(variant)
            assert len(solutions) == 1 and (solutions[0] == answer).all()
            assert left_by_assumptions(task, variant) or not left_by_assumptions(task, puzzle)
            assert openness(task, variant) >= making.LEAN * openness(task, puzzle)


def test_variants_work_on_other_sizes():
    task = Sudoku(2, 3)
    puzzle, answer = task.generate(np.random.default_rng(0))
    ((group, _),) = variants(task, puzzle[None], answer[None], 6, [0])
    assert len(group) > 1 and all(task.is_unique(variant) for variant in group)


def test_a_data_set_with_variants_groups_them(tmp_path):
    how = {"source": "sudoku-6x6-1k", "subsample": 5, "val": 0, "variants": 4}
    first, again = (build(out=tmp_path / name, **how) for name in ("a", "b"))
    assert first.hash == again.hash
    split = load_split(str(tmp_path / "a"), "train")
    widths = np.diff(split.group_indices)
    assert len(widths) == 5 and 1 < widths.max() <= 5 and widths.sum() == len(split.inputs)
    firsts = np.repeat(split.group_indices[:-1], widths)
    assert (split.labels == split.labels[firsts]).all()


def test_no_drifting_variant_has_the_solution_of_a_test_row(tmp_path):
    task = Sudoku()
    solution = task.format(task.solve(task.parse(EASY))[0])
    how = {"source": str(tmp_path / "train.csv"), "val": 0, "variants": 60, "drift": True}

    def solutions(name: str, **more: str) -> set[bytes]:
        build("sudoku", out=tmp_path / name, **how, **more)
        return {task.decode(label).tobytes() for label in load_split(str(tmp_path / name), "train").labels}

    (tmp_path / "train.csv").write_text(f"question,answer\n{EASY},{solution}\n")
    drifted = solutions("a")
    taken = min(drifted - {task.parse(solution).tobytes()})
    line = task.format(np.frombuffer(taken, np.uint8))
    (tmp_path / "test.csv").write_text(f"question,answer\n.{line[1:]},{line}\n")
    left = solutions("b", test_source=str(tmp_path / "test.csv"))
    assert left == drifted - {taken}
    own = {task.parse(solution).tobytes()}
    assert own <= solutions("c", test_source=how["source"])  # the row itself stays, as the report says


def test_drift_without_variants_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--drift: say how many"):
        build("sudoku", source="sudoku-6x6-1k", out=tmp_path / "x", drift=True)


@pytest.mark.parametrize("how", [{"task": "maze"}, {"num_aug": 3}])
def test_variants_are_refused_where_they_mean_nothing(how, tmp_path):
    with pytest.raises(ValueError, match="--variants 4: "):
        build(**{"task": "sudoku", "source": "generate", "out": tmp_path / "x", "variants": 4} | how)


FERTILE = "698715234172439586453628719981362475325874961764951328846293157217546893539187642"
"""A solved grid with many puzzles beyond single assumptions near its tridagons."""


def test_beyond_makes_unique_puzzles_that_no_single_assumption_solves():
    task = Sudoku()
    answers = task.parse(FERTILE)[None]
    puzzles, solved = beyond(task, answers, 4, seed=11)
    assert puzzles.shape == solved.shape == (4, 81) and len(np.unique(puzzles, axis=0)) == 4
    for puzzle, answer in zip(puzzles, solved, strict=True):
        assert open_after_assumptions(task, puzzle)
        solutions = task.solve(puzzle)
        assert len(solutions) == 1 and (solutions[0] == answer).all()
    again = beyond(task, answers, 4, seed=11)
    assert (again[0] == puzzles).all() and (again[1] == solved).all()


def test_beyond_says_when_it_finds_none():
    task = Sudoku()
    with pytest.raises(ValueError, match="found from 1 rows: give more, or another seed"):
        beyond(task, task.parse(FERTILE)[None], 4, seed=8)
    with pytest.raises(ValueError, match="made of 9x9 grids, not of 6x6"):
        beyond(Sudoku(2, 3), np.zeros((1, 36), np.uint8), 1, seed=0)


def test_a_data_set_with_puzzles_beyond(tmp_path):
    source = tmp_path / "one.csv"
    source.write_text(f"source,question,answer,rating\nmine,{FERTILE[:30] + '.' + FERTILE[31:]},{FERTILE},0\n")
    how, told = {"source": str(source), "val": 0, "beyond": 2, "seed": 9}, []
    first = build(out=tmp_path / "a", **how, progress=lambda *counts: told.append(counts))
    assert first.hash == build(out=tmp_path / "b", **how).hash
    assert told[-1] == ("puzzles beyond single assumptions", 2, 2)
    task, split = Sudoku(), load_split(str(tmp_path / "a"), "train")
    puzzles = task.decode(split.inputs)
    assert [left_by_assumptions(task, puzzle) > 0 for puzzle in puzzles] == [False, True, True]
    assert task.verify_batch(puzzles, task.decode(split.labels)).all()


@pytest.mark.parametrize("option", ["beyond", "harden"])
def test_harder_mazes_are_refused(option, tmp_path):
    with pytest.raises(ValueError, match=f"--{option} 4: only for Sudoku"):
        build("maze", source="generate", out=tmp_path / "x", **{option: 4})


def after_each_assumption(task: Sudoku, puzzle: np.ndarray) -> list[int]:
    """How much still stands, by the exact solver's own propagation, after each value that singles leave; -1 if it contradicts."""
    search = Search(task, None)
    candidates = search.after_singles(puzzle)
    after = []
    for cell, bit in standing(candidates):
        trial = candidates.copy()
        holds = search.restrict(trial, cell, bit)
        after.append(len(standing(trial)) if holds else -1)
    return after


def test_depth_is_what_stands_after_an_assumption_and_all_further_ones():
    task = Sudoku()
    puzzle = task.parse(".....7..31.....5....713.2......12......35.7.1.5.....2.3..8......49.2..7..26...8..")
    search = Search(task, None)
    candidates = search.after_singles(puzzle)
    close(search, candidates)
    after = []
    for cell, bit in standing(candidates):
        trial = candidates.copy()
        holds = search.restrict(trial, cell, bit) and close(search, trial)
        after.append(len(standing(trial)) if holds else 0)
    assert depth(task, puzzle) == pytest.approx(np.mean(after)) and max(after) > 0
    assert depth(task, task.parse(EASY)) == 0


def test_an_exocet_s_targets_hold_what_its_base_holds():
    task = Sudoku()
    puzzle = task.parse("..59.2..8......19.8...4....3....8.....2.5.7...8.7....3..8..5.47...6.......3..7..2")
    assert has_exocet(task, puzzle) and not has_exocet(task, task.parse(EASY))
    places = making.exocet_places()
    assert len(np.unique(places, axis=0)) == 2916
    values = np.array(Search(task, None).after_singles(puzzle))
    (place,) = (place for place in places if making._is_exocet(values, place))
    assert list(place[:6]) == [36, 37, 50, 35, 32, 53]  # r5c1 and r5c2, r6c6 and r4c9, r4c6 and r6c9
    (answer,) = task.solve(puzzle)
    assert set(answer[place[:2]]) == set(answer[place[2:4]]) == {1, 9}
    solved, partner, third_line = values.copy(), values.copy(), values.copy()
    solved[place[0]] = 1
    partner[place[5]] |= 1
    third_line[place[6]] |= 1
    assert not any(making._is_exocet(spoilt, place) for spoilt in (solved, partner, third_line))


def test_harder_puzzles_have_the_same_solution_and_give_less_away(families):
    task, puzzles, answers, _ = families
    found = harder(task, puzzles, answers, 300, [1, 2])
    for puzzle, answer, more in zip(puzzles, answers, found, strict=True):
        after = after_each_assumption(task, puzzle)
        assert standing_and_refuted(task, puzzle) == (len(after), after.count(-1))
        assert openness(task, puzzle) == pytest.approx(np.mean(np.maximum(after or [0], 0)))
        assert 0 < len(np.unique(more, axis=0)) == len(more) <= 4
        for one in more:
            solutions = task.solve(one)
            assert len(solutions) == 1 and (solutions[0] == answer).all()
            assert openness(task, one) > openness(task, puzzle)
    assert not task.rate(puzzles[1]) and all(map(task.rate, found[1]))  # singles solve the one and not the others
    assert all(open_after_assumptions(task, one) for one in found[0])
    again = harder(task, puzzles[::-1], answers[::-1], 300, [2, 1])
    assert all((a == b).all() for a, b in zip(again[::-1], found, strict=True))


def test_a_data_set_with_harder_puzzles(tmp_path):
    how = {"source": "sudoku-6x6-1k", "subsample": 5, "val": 0, "harden": 60}
    first, again = (build(out=tmp_path / name, **how) for name in ("a", "b"))
    assert first.hash == again.hash
    task, split = Sudoku(2, 3), load_split(str(tmp_path / "a"), "train")
    puzzles, answers = task.decode(split.inputs), task.decode(split.labels)
    assert 10 < len(puzzles) <= 25 and task.verify_batch(puzzles, answers).all()
    assert all(task.rate(more) for more in puzzles[5:])
