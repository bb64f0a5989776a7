"""What the shell draws of one puzzle: which boards, and how wide."""

import io

import numpy as np
import pytest
from conftest import tiny
from rich.console import Console

from hrm.answers import Solution, Thought
from hrm.asking import asked
from hrm.cli import solve_one
from hrm.display import board, mind
from hrm.model import HRM
from hrm.reasoner import Reasoner
from hrm.tasks.maze import Maze

ASKED, RIGHT, OTHER = "S #  ## G", "S #oo##oG", "So# o##oG"


def thought(task: Maze, text: str, look: int = 0) -> Thought:
    tokens = task.encode(task.parse(text))
    return Thought(0, 1, tokens, np.ones(len(tokens), np.float32), 0.9, 0.1, True, look)


def watch(*looks: str) -> None:
    """`hrm solve maze ASKED --watch`, where the looks see these and RIGHT is the answer."""
    reasoner = Reasoner(HRM(tiny(seq_len=9)), "maze")

    def solve(puzzle, watcher):
        trace = [thought(reasoner.task, text, look) for look, text in enumerate(looks)]
        for seen in trace:
            watcher(seen)
        return Solution(puzzle, RIGHT, True, "", len(trace), 0.9, len(trace), trace)

    reasoner.solve = solve
    assert solve_one(reasoner, asked(ASKED, Maze), True, None) == 0


@pytest.mark.parametrize(("looks", "again"), [((RIGHT,), False), ((OTHER, RIGHT), False), ((RIGHT, OTHER), True)])
def test_a_watched_answer_is_drawn_again_unless_it_was_the_last_thought(looks, again, monkeypatch, capsys):
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    monkeypatch.setenv("TERM", "xterm")
    watch(*looks)
    after = capsys.readouterr().out.rpartition("╯")[2]  # below the last thought
    assert ("▒▒" in after) == again and RIGHT in after


def test_a_board_wider_than_the_console_is_not_folded(monkeypatch, capsys):
    for name in ("TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "5")
    watch(RIGHT)
    drawn = board(Maze(3, 3), Maze(3, 3).parse(ASKED), Maze(3, 3).parse(RIGHT)).plain
    assert f"{drawn}\n" in capsys.readouterr().out
    wide, walls = Maze(30, 30), "S" + "#" * 898 + "G"
    console = Console(width=50, file=io.StringIO())
    console.print(mind(wide, wide.parse(walls), thought(wide, walls), 8))
    assert len(console.file.getvalue().splitlines()) == 2 + 3 + 30  # a frame, facts, rows
