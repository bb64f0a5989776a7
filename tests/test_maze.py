"""The maze task against a search written differently: a plain queue, as the label's rule is stated."""

import dataclasses
import json
import subprocess
import sys
from collections import deque

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hrm import Reasoner
from hrm.asking import puzzles_in
from hrm.cli import app
from hrm.data import load_split
from hrm.display import board
from hrm.evaluate import evaluate
from hrm.tasks.maze import CELLS, FREE, GOAL, PATH, RIVAL, START, WALL, Maze, flood, path_order, spread

TASK = Maze(6, 6)
OPEN = "S     \n ##   \n #    \n   ## \n    # \n     G"


def queue_search(maze: Maze, puzzle: np.ndarray) -> np.ndarray | None:
    """Breadth first from S, neighbours down, left, right, up, the first parent wins; walked back from G."""
    start, goal = (int(np.flatnonzero(puzzle == cell)[0]) for cell in (START, GOAL))
    parent, queue = {start: start}, deque([start])
    while queue:
        k = queue.popleft()
        r, c = divmod(k, maze.columns)
        for y, x in ((r + 1, c), (r, c - 1), (r, c + 1), (r - 1, c)):
            j = y * maze.columns + x
            if 0 <= y < maze.rows and 0 <= x < maze.columns and puzzle[j] != WALL and j not in parent:
                parent[j] = k
                queue.append(j)
    if goal not in parent:
        return None
    answer, k = puzzle.copy(), parent[goal]
    while k != start:
        answer[k] = PATH
        k = parent[k]
    return answer


def drawn(count: int, side: int = 12, seed: int = 0, **options) -> tuple[Maze, np.ndarray, np.ndarray]:
    maze = Maze(side, side)
    made = maze.generate_many(np.random.default_rng(seed), **options)
    puzzles, answers = zip(*(next(made) for _ in range(count)), strict=True)
    return maze, np.stack(puzzles), np.stack(answers)


def test_a_flood_counts_steps_and_does_not_leave_its_board():
    random = np.random.default_rng(0)
    passable, source = random.random((40, 7, 9)) < 0.7, random.random((40, 7, 9)) < 0.03
    expected = np.full(passable.shape, -1)
    expected[passable & source] = 0
    for step in range(passable[0].size):
        for which, row, column in np.argwhere(expected == step):
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                inside = 0 <= near[0] < 7 and 0 <= near[1] < 9
                if inside and passable[which, *near] and expected[which, *near] < 0:
                    expected[which, *near] = step + 1
    assert (flood(passable, source) == expected).all() and (expected > 5).any()
    tensors = torch.from_numpy(passable), torch.from_numpy(source)
    for filled in (flood(*tensors), spread(*tensors)):
        assert filled.dtype == torch.int64 and (filled.numpy() == expected).all()


def test_labels_are_those_of_a_queue_search():
    maze, puzzles, answers = drawn(60, walls=(0.1, 0.45))
    for puzzle, answer in zip(puzzles, answers, strict=True):
        assert (queue_search(maze, puzzle) == answer).all()
        assert maze.rate(puzzle) == (answer == PATH).sum() + 2


def test_generated_mazes_keep_what_was_asked_and_come_again_from_the_seed():
    maze, puzzles, answers = drawn(20, side=10, min_path=18)
    assert min(maze.rate(puzzle) for puzzle in puzzles) >= 18
    assert all(maze.verify(*pair) for pair in zip(puzzles, answers, strict=True))
    assert all(not maze.clues_fault(puzzle) for puzzle in puzzles)
    assert (drawn(20, side=10, min_path=18)[1] == puzzles).all()
    assert (drawn(20, side=10, min_path=18, seed=1)[1] != puzzles).any()


def test_the_goal_is_drawn_as_if_the_maze_were_tried_until_it_fits():
    """On a tiny board the generator's shortcut and the plain procedure give paths of equal lengths on average."""
    maze, plain, rng = Maze(4, 4), [], np.random.default_rng(3)
    while len(plain) < 1500:
        board = np.where(rng.random(16) < rng.uniform(0.3, 0.5), WALL, FREE).astype(np.uint8)
        free = np.flatnonzero(board == FREE)
        if len(free) < 2:
            continue
        board[rng.choice(free, 2, replace=False)] = START, GOAL
        if maze.rate(board) >= 5:
            plain.append((maze.rate(board), (board == WALL).sum()))
    puzzles = drawn(1500, side=4, min_path=5)[1]
    ours = [(maze.rate(puzzle), (puzzle == WALL).sum()) for puzzle in puzzles]
    spread = np.std(plain, axis=0) / 1500**0.5
    assert (abs(np.mean(plain, axis=0) - np.mean(ours, axis=0)) < 5 * spread).all()


def test_mazes_that_cannot_be_made_are_refused():
    with pytest.raises(ValueError, match="ask for shorter paths"):
        next(Maze(3, 3).generate_many(np.random.default_rng(0), min_path=9))
    with pytest.raises(ValueError, match="at most 64"):
        next(Maze(2, 65).generate_many(np.random.default_rng(0)))


def test_any_shortest_path_passes_and_nothing_else():
    puzzle = TASK.parse(OPEN)
    answer = TASK.solve(puzzle)
    other = queue_search(TASK, puzzle.reshape(6, 6).T.ravel()).reshape(6, 6).T.ravel()  # another tie-break
    assert (answer != other).any() and TASK.verify(puzzle, answer) and TASK.verify(puzzle, other)
    stray, torn, moved = (answer.copy() for _ in range(3))
    stray[np.flatnonzero(answer == FREE)[0]] = PATH
    torn[np.flatnonzero(answer == PATH)[3]] = FREE
    moved[np.flatnonzero(puzzle == WALL)[0]] = PATH
    cases = ((stray, "lead nowhere|steps"), (torn, "does not lead"), (moved, "was given as a wall"))
    for wrong, words in cases:
        fault = TASK.fault(puzzle, wrong)
        assert fault and any(word in fault for word in words.split("|"))
    answers = np.stack((answer, other, stray, torn, moved))
    assert TASK.verify_batch(np.stack([puzzle] * 5), answers).tolist() == [True, True, False, False, False]


def test_detours_are_told_with_both_lengths():
    puzzle = Maze(3, 3).parse("S  \n   \nG  ")
    detour = Maze(3, 3).parse("Soo\n  o\nGoo")
    assert Maze(3, 3).fault(puzzle, detour) == "the path takes 6 steps, 2 would do"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("S  \n   \n", "3 rows expected for 3x3, got 2"),
        ("S x\n  G\n   ", "row 1, column 3: 'x' is none of"),
        ("S    \n  G\n   ", "row 1: 3 cells expected, got 5"),
        ("SG#", "9 cells expected for 3x3, got 3"),
    ],
)
def test_text_that_is_no_maze_is_refused(text, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Maze(3, 3).parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SS \n  G\n   ", "2 start cells 'S', expected 1"),
        ("S  \n   \n   ", "0 goal cells 'G', expected 1"),
        ("So \n  G\n   ", "holds a path cell"),
        ("S# \n## \n  G", "no way leads from S to G"),
    ],
)
def test_mazes_that_cannot_be_asked_are_refused(text, words):
    assert words in Maze(3, 3).clues_fault(Maze(3, 3).parse(text))


def test_text_comes_back_and_free_cells_at_the_end_of_a_row_may_be_missing():
    grid = TASK.parse(OPEN)
    assert TASK.format(grid, "grid") == OPEN and (TASK.parse(TASK.format(grid)) == grid).all()
    stripped = "\n".join(line.rstrip() for line in OPEN.splitlines())
    assert (TASK.parse(stripped) == grid).all() and (TASK.parse(OPEN.replace(" ", ".")) == grid).all()
    assert (TASK.decode(TASK.encode(grid)) == grid).all() and TASK.vocab_size == len(CELLS) + 1


def test_an_answer_of_padding_is_never_right():
    maze = Maze(3, 3)
    puzzle, answer = (maze.parse(text)[None] for text in ("S##\n  #\n# G", "S##\noo#\n#oG"))
    tokens = maze.encode(answer)
    assert maze.verify_batch(puzzle, maze.decode(tokens)).all()
    tokens[0, 1] = 0  # a wall
    unsaid = maze.decode(tokens)
    assert not maze.verify_batch(puzzle, unsaid).any() and "r1c2 was given as a wall" in maze.fault(
        puzzle[0], unsaid[0]
    )
    assert maze.format(unsaid[0]) == "S?#oo##oG" and (maze.parse("S?#oo##oG") == unsaid[0]).all()
    assert "r1c2 holds '?'" in maze.clues_fault(maze.parse("S?#  ## G"))
    assert board(maze, puzzle[0], unsaid[0]).plain.splitlines()[0] == "S ××▒▒"


def test_mazes_of_several_sizes_are_answered_in_their_order():
    small, larger = "S #  ## G", "S   ## ##  ### G"
    reasoner = Reasoner.load("maze", "cpu", passes=8, check=True)
    solutions = list(reasoner.solve_many([small, larger, small, larger]))
    assert [len(s.answer) for s in solutions] == [9, 16, 9, 16] and all(s.verified for s in solutions)
    assert reasoner.solve(larger).answer == solutions[1].answer
    with pytest.raises(ValueError, match="row 1, column 2: 'x'"):
        reasoner.solve("Sx#  ## G")


def test_errands_and_edits_have_the_labels_of_their_own_mazes():
    maze, puzzles, answers = drawn(200, min_path=14)
    tokens = [torch.from_numpy(maze.encode(grids)).int() for grids in (puzzles, answers)]
    inputs, labels = maze.augment(*tokens, torch.Generator().manual_seed(0))
    asked, told = maze.decode(inputs.numpy()), maze.decode(labels.numpy())
    assert all((queue_search(maze, p) == a).all() for p, a in zip(asked, told, strict=True))
    ends_moved = ((asked == START) != (puzzles == START)).any(1) | ((asked == GOAL) != (puzzles == GOAL)).any(1)
    closed = ((asked == WALL) & (puzzles != WALL)).any(1)
    opened = ((asked != WALL) & (puzzles == WALL)).any(1)
    assert all(50 < changed.sum() < 150 for changed in (ends_moved, closed, opened))
    order = path_order(tokens[1].view(-1, 12, 12)).flatten(1)
    assert (order.amax(1) + 1 == torch.tensor([maze.rate(p) for p in puzzles])).all()


def test_a_turned_maze_is_turned_back_and_counts_as_the_same():
    maze, puzzles, _ = drawn(8)
    tokens = torch.from_numpy(maze.encode(puzzles)).int()
    symmetry = maze.draw_symmetry(8, torch.Generator().manual_seed(1))
    turned = symmetry.apply(tokens)
    assert (turned != tokens).any() and (symmetry.inverse().apply(turned) == tokens).all()
    keys = [[maze.same_orbit_key(maze.decode(t)) for t in side.numpy()] for side in (tokens, turned)]
    assert keys[0] == keys[1] and len(set(keys[0])) == 8


def test_mazes_labelled_anew_have_right_labels():
    maze, puzzles, answers = drawn(100, min_path=14)
    tokens = [torch.from_numpy(maze.encode(grids)).int() for grids in (puzzles, answers)]
    inputs, labels = maze.relabel(*tokens, torch.Generator().manual_seed(0), share=0.8)
    asked, told = maze.decode(inputs.numpy()), maze.decode(labels.numpy())
    assert all((queue_search(maze, p) == a).all() for p, a in zip(asked, told, strict=True))
    assert 70 < (asked != puzzles).any(1).sum() < 90
    assert np.median(maze.distances(asked)) > 0.9 * np.median(maze.distances(puzzles))
    cut = maze.parse("S#G".ljust(12) + "###".ljust(132, "#"))
    assert not maze.first_paths(torch.from_numpy(maze.encode(cut[None])).int())[1].any()


def test_the_walls_that_relabelling_opens_lead_ways_about_as_long_as_the_shortest():
    rows = "S    G\n #####\n      \n##### \n      \n######"  # the second row of walls opens ways of 23 steps, the last pockets
    near = TASK._rivals(torch.from_numpy(TASK.encode(TASK.parse(rows)[None])))[0]
    assert np.flatnonzero(near).tolist() == [7, 8, 9, 10, 11]  # ways of 7 or 9 steps, for 5
    maze, puzzles, _ = drawn(4, min_path=18)
    for puzzle in puzzles:
        near, length = maze._rivals(torch.from_numpy(maze.encode(puzzle[None])))[0], maze.distances(puzzle[None])[0]
        for wall in np.flatnonzero(puzzle == WALL):
            opened = puzzle.copy()
            opened[wall] = FREE
            if (saved := length - maze.distances(opened[None])[0]) > 0:
                assert near[wall] == (saved <= RIVAL)
        assert near.any() and not near[puzzle != WALL].any()


def test_a_file_of_many_mazes_and_a_stream_are_read_a_line_each():
    maze, puzzles, _ = drawn(8)
    lines = ["".join(maze.format(puzzle).splitlines()) for puzzle in puzzles[:2]]
    assert Maze.cells_of("\n".join(lines * 50)) == 144 == Maze.cells_of(maze.format(puzzles[0]))
    bare = "\nS#G\n\n"  # three rows, of which the first and the last are free
    assert Maze.cells_of(bare) == 9
    assert [(Maze(3, 3).parse(text) != WALL).sum() for _, text in puzzles_in(bare, Maze(3, 3), "f")] == [8]
    wide = "".join(Maze(15, 15).format(next(iter(drawn(1, side=15)[1]))).splitlines())
    command = [sys.executable, "-m", "hrm", "solve", "maze", "-", "--format", "json", "--weights", "maze"]
    ran = subprocess.run(command, input=f"{wide}\n{wide}\n", capture_output=True, text=True)
    assert ran.returncode in (0, 1) and ran.stdout.count('"answer"') == 2, ran.stderr
    ran = subprocess.run(command, input=f"{lines[0]}\n{lines[1]}\n", capture_output=True, text=True)  # not as trained
    assert ran.returncode in (0, 1) and ran.stdout.count('"answer"') == 2, ran.stderr


def test_a_maze_of_any_size_is_asked_until_an_answer_obeys_the_rules(tmp_path, monkeypatch):
    asked, path = [], tmp_path / "maze.txt"

    def load(where, device, **options):
        asked.append((where, options["seq_len"], options["passes"], options["check"]))
        raise ValueError("enough")

    monkeypatch.setattr("hrm.reasoner.Reasoner.load", load)
    for side, more in ((15, ()), (30, ("--passes", "1")), (16, ("--weights", "mine"))):
        path.write_text("S" + " " * (side - 2) + "G\n" + "\n".join(["#" * side] * (side - 1)))
        CliRunner().invoke(app, ["solve", "maze", str(path), *more])
    assert asked == [("maze", 225, 32, True), ("maze", 900, 1, False), ("mine", 256, 32, True)]


def test_the_shipped_weights_solve_a_maze_from_the_shell(tmp_path):
    path = tmp_path / "maze.txt"
    path.write_text(
        "#########\n#S      #\n# ##### #\n#     # #\n##### # #\n#   # # #\n# # # # #\n# #    G#\n#########\n"
    )
    picture = tmp_path / "maze.png"
    ran = CliRunner().invoke(app, ["solve", "maze", str(path), "--png", str(picture)])
    assert ran.exit_code == 0 and "checked by the rules" in ran.output, ran.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    watched = CliRunner().invoke(app, ["solve", "maze", str(path), "--watch"])
    assert watched.exit_code == 0 and watched.output.count("segment ") >= 2
    path.write_text(path.read_text().replace("G", "S"))
    ran = CliRunner().invoke(app, ["solve", "maze", str(path)])
    assert str(ran.exception) == f"{path}: this has no answer: 2 start cells 'S', expected 1"


def test_the_shell_tells_how_sure_a_look_had_to_be():
    asked = ["eval", "maze", "--limit", "4", "--max-segments", "8"]
    for more, told in (("--passes 2", "accepted above 0.98"), ("--passes 2 --accept 0.5", "accepted above 0.5")):
        assert told in CliRunner().invoke(app, [*asked, *more.split()]).output
    for more in ("", "--passes 2 --check", "--passes 2 --select votes"):
        ran = CliRunner().invoke(app, [*asked, *more.split()])
        assert ran.exit_code == 0 and "accepted above" not in ran.output
    line = TASK.format(TASK.parse(OPEN))
    passes = []
    for bar in ("0", "1"):
        ran = CliRunner().invoke(app, ["solve", "maze", line, "--passes", "3", "--accept", bar, "--format", "json"])
        passes.append(json.loads(ran.output)["passes"])
    assert passes == [1, 3]


def test_mazes_are_counted_by_their_labels_and_by_the_rules(tmp_path):
    """The two counts differ where another path is as short; both have an interval."""
    ran = CliRunner().invoke(app, ["eval", "maze", "--limit", "40", "--json", str(tmp_path / "report.json")])
    assert ran.exit_code == 0, ran.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verified"] == report["valid_and_shortest"] >= report["exact@1"] > 0.8
    low, high = report["valid_and_shortest_ci95"]
    assert low < report["valid_and_shortest"] <= high and "valid_and_shortest" in ran.output


@pytest.mark.parametrize("passes", [1, 3])
def test_neither_labels_nor_rules_reach_the_choice_of_a_path(passes, monkeypatch):
    split = load_split("maze-15x15-1k", "val")
    reasoner = Reasoner.load("maze", seq_len=225, passes=passes, max_segments=2)
    answers, run = [], reasoner.run
    reasoner.run = lambda *a: answers.append(run(*a)) or answers[-1]
    for labels in (split.labels, np.roll(split.labels, 1, 0)):
        evaluate(reasoner, dataclasses.replace(split, labels=labels), 12)
    monkeypatch.setattr(Maze, "verify_batch", lambda *_: pytest.fail("rules used"))
    answers.append(run(split.inputs[:12]))
    assert all((other.tokens == answers[0].tokens).all() for other in answers)
