"""The demo runs through, tells the truth about its puzzle, and leaves three commands that work."""

import io
import re
import shlex

from rich.console import Console
from typer.testing import CliRunner

from hrm import demo
from hrm.cli import app
from hrm.config import load_recipe
from hrm.data import load_split


def run(monkeypatch, tmp_path, seed: int, terminal: bool) -> str:
    """The demo with a training run of a few steps, its screen as text."""
    screen = io.StringIO()
    monkeypatch.setattr(
        demo, "Console", lambda **kw: Console(file=screen, force_terminal=terminal, width=110, color_system=None, **kw)
    )
    monkeypatch.setattr(demo, "load_recipe", lambda name, more: load_recipe(name, [*more, "steps=20", "eval_every=10"]))
    assert demo.run_demo(seed, tmp_path) == 0
    return screen.getvalue()


def test_the_demo_shows_a_random_hard_puzzle_and_a_training_run(monkeypatch, tmp_path, capsys):
    text = run(monkeypatch, tmp_path, 7, terminal=False)
    row, _, rating = demo.random_row(7)
    assert f"row {row} of the test set" in text and f"guesses {rating} times" in text
    assert ("solved and checked by the rules" in text) != ("not solved: " in text)
    assert re.search(r"[\d.]+% of 1,000 unseen puzzles solved exactly", text)
    assert list(tmp_path.glob("demo/demo-*/test.json"))
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith(".venv/bin/hrm ")]
    assert len(commands) == 3


def test_on_a_terminal_things_move(monkeypatch, tmp_path):
    monkeypatch.setattr("hrm.display.time.sleep", lambda seconds: None)
    text = run(monkeypatch, tmp_path, 8, terminal=True)
    assert "pass 1, segment 1" in text and "cells sure" in text and "steps/s" in text


def test_puzzles_are_drawn_from_the_harder_half_of_the_test_set_by_the_seed():
    split = load_split(demo.HARD_SET, "test")
    drawn = [demo.random_row(seed) for seed in range(300)]
    rows = {row for row, _, _ in drawn}
    assert len(rows) > 200 and max(rows) > 1800 and demo.random_row(3) == drawn[3]
    assert min(rating for _, _, rating in drawn) >= sorted(split.ratings)[len(split.ratings) // 2 - 1] > 10
    row, puzzle, _ = drawn[3]
    assert puzzle == "".join("." if t == 1 else str(t - 1) for t in split.inputs[row])


def test_the_solve_command_that_the_demo_suggests_works():
    puzzle = demo.random_row(1)[1]
    ran = CliRunner().invoke(app, shlex.split(f"solve sudoku --watch {puzzle}"))
    assert ran.exit_code in (0, 1) and "solved" in ran.output
