"""Puzzles as they are handed over: what the lines of a file or a stream are taken for."""

import json
import os

import pytest
from conftest import refusal, tiny
from typer.testing import CliRunner

from hrm.asking import asked_on_stdin, cells_in, puzzles_in
from hrm.checkpoint import save_weights
from hrm.cli import app
from hrm.model import HRM
from hrm.tasks.maze import Maze


@pytest.mark.parametrize("side", [2, 10])
def test_as_many_mazes_as_one_has_cells_are_no_drawing(side):
    cells = side * side
    lines = ["S" + " " * (cells - 2) + "G"] * (cells - 1) + [" " * cells]  # the last lacks both
    text = "\n".join(lines)
    assert Maze.cells_of(text) == cells == Maze.cells_of(text.lower())
    assert puzzles_in(text, Maze(side, side), "f") == list(enumerate(lines, 1))


def test_a_drawn_maze_with_two_starts_is_a_drawing():
    drawn = "\n".join(["S       G"] * 2 + ["#" * 9] * 7)
    assert Maze.cells_of(drawn) == 81 and len(puzzles_in(drawn, Maze(9, 9), "f")) == 1


def test_a_stream_of_json_mazes_is_answered_as_it_comes(monkeypatch):
    def groups():
        yield [(1, json.dumps({"puzzle": "S #  ## G"}))]
        pytest.fail("waits for further lines")

    monkeypatch.setattr("hrm.asking.lines_as_they_come", lambda *_: groups())
    with open(os.devnull) as empty:
        monkeypatch.setattr("sys.stdin", empty)
        asked = asked_on_stdin(Maze)
    assert asked.cells == 9 and next(asked.groups(Maze(3, 3))) == [(1, "S #  ## G")]


def test_a_record_without_a_puzzle_is_the_fault_of_its_line(tmp_path):
    save_weights(tmp_path / "w", HRM(tiny(vocab_size=96)), "text", {})
    lines = ['{"id": 7}', '{"puzzle": "", "question": null}', '{"question": 12}', "{no record"]
    file = tmp_path / "asked.jsonl"
    file.write_text("\n".join(lines))
    command = ["solve", "text", str(file), "--weights", str(tmp_path / "w")]
    ran = CliRunner().invoke(app, [*command, "--format", "json"])
    records = list(map(json.loads, ran.stdout.splitlines()))
    assert ran.exit_code == 2 and [record["puzzle"] for record in records] == [*lines[:2], "12", lines[3]], ran.output
    faults = [record.get("error", "") for record in records]
    assert faults == ["no key 'puzzle' or 'question' with a puzzle in it"] * 2 + [""] * 2
    file.write_text(lines[0])
    assert refusal(*command, "--watch") == f"{file}: {faults[0]}"
    assert cells_in(lines[0] + '\n{"puzzle": "S  G"}', Maze) == 4  # of the first that is one


@pytest.mark.parametrize("output", ["text", "json", "csv"])
def test_text_that_no_encoding_has_does_not_end_the_run(output, tmp_path):
    save_weights(tmp_path / "w", HRM(tiny()), "maze", {})
    (tmp_path / "m.jsonl").write_text(
        "\n".join(json.dumps({"puzzle": text}) for text in ("\ud800" * 16, "S" + " " * 14 + "G"))
    )
    command = ["solve", "maze", str(tmp_path / "m.jsonl"), "--weights", str(tmp_path / "w"), "--passes", "1"]
    ran = CliRunner().invoke(app, [*command, "--format", output])
    rows = ran.stdout.splitlines()
    assert ran.exit_code == 2 and len(rows) == 2 + (output == "csv"), ran.output
    assert (r"\ud800" in rows[-2]) == (output != "text")
