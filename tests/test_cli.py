"""The command line as a user meets it: output forms, exit codes, one line for what a user can mend."""

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import refusal, tiny
from typer.testing import CliRunner

from hrm import cli
from hrm.asking import asked_on_stdin, lines_as_they_come
from hrm.checkpoint import Weights, load_weights, save_weights, shipped_weights
from hrm.cli import app, usual_data
from hrm.data import load_split
from hrm.model import HRM
from hrm.tasks.maze import Maze
from hrm.tasks.sudoku import Sudoku

TASK = Sudoku()
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def hrm(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "hrm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, env=ENVIRONMENT, timeout=240)


def shipped_rows(count: int) -> list[tuple[str, str]]:
    split = load_split("sudoku-hard-1k", "test")
    sides = [[TASK.format(grid) for grid in TASK.decode(side[:count])] for side in (split.inputs, split.labels)]
    return list(zip(*sides, strict=True))


EASY = shipped_rows(1)[0][1][:-3] + "..."  # a solved grid with three blanks


def test_an_easy_puzzle_is_solved_drawn_and_verified():
    ran = hrm("solve", "sudoku", EASY)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert shipped_rows(1)[0][1] in ran.stdout and "solved and checked by the rules" in ran.stdout and "┌" in ran.stdout


def test_watch_tells_every_segment():
    ran = hrm("solve", "sudoku", EASY, "--watch")
    assert ran.stdout.count("segment ") >= 2 and "cells sure" in ran.stdout


def test_a_file_of_puzzles_may_be_packed(tmp_path):
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(f"question\n{EASY}\n".encode()))
    ran = hrm("solve", "sudoku", tmp_path / "p.csv.gz")
    assert ran.returncode == 0 and ran.stdout.startswith(shipped_rows(1)[0][1]), ran.stderr
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(b"question\n")[:-9])
    ran = hrm("solve", "sudoku", tmp_path / "p.csv.gz")
    assert ran.returncode == 2 and "p.csv.gz: cannot be read" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize("output", ["text", "json", "csv"])
def test_a_file_of_puzzles_gives_one_record_each_in_order(output, tmp_path):
    rows = shipped_rows(3)
    (tmp_path / "p.txt").write_text("".join(q + "\n" for q, _ in rows))
    ran = hrm("solve", "sudoku", tmp_path / "p.txt", "--format", output)
    lines = ran.stdout.splitlines()
    if output == "csv":
        records = list(csv.DictReader(io.StringIO(ran.stdout)))
        assert [r["puzzle"] for r in records] == [q for q, _ in rows]
        verified = [r["verified"] == "true" for r in records]
    elif output == "json":
        records = [json.loads(line) for line in lines]
        assert [r["puzzle"] for r in records] == [q for q, _ in rows]
        verified = [r["verified"] for r in records]
        for record in records:
            puzzle, answer = TASK.parse(record["puzzle"]), TASK.parse(record["answer"])
            assert record["verified"] == TASK.verify(puzzle, answer)
    else:
        assert len(lines) == 3
        verified = ["verified" in line for line in lines]
    assert ran.returncode == (0 if all(verified) else 1)


def test_csv_grids_and_json_lines_are_read(tmp_path):
    rows = shipped_rows(2)
    (tmp_path / "a.csv").write_text("source,question,answer,rating\n" + "".join(f"x,{q},{a},1\n" for q, a in rows))
    grids = "\n\n".join(TASK.format(TASK.parse(q), "grid") for q, _ in rows)
    (tmp_path / "b.txt").write_text(grids)
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"question": q}) + "\n" for q, _ in rows))
    (tmp_path / "e.csv").write_text(
        "puzzle,answer\n" + "".join(f"{q},{a}\n" for q, a in rows)
    )  # as --format csv answers
    for name in ("a.csv", "b.txt", "c.jsonl", "e.csv"):
        ran = hrm("solve", "sudoku", tmp_path / name, "--format", "json")
        assert [json.loads(line)["puzzle"] for line in ran.stdout.splitlines()] == [q for q, _ in rows], ran.stderr
    (tmp_path / "d.txt").write_text("\n".join([rows[0][0][:-1], *(q for q, _ in rows)]))  # the first is cut short
    ran = hrm("solve", "sudoku", tmp_path / "d.txt", "--format", "json")
    assert ran.returncode == 2 and "d.txt line 1: 81 cells expected" in ran.stderr
    assert [json.loads(line)["puzzle"] for line in ran.stdout.splitlines()[1:]] == [q for q, _ in rows]
    (tmp_path / "f.txt").write_text("".join(q[:-1] + "\n" for q, _ in rows))  # all are
    ran = hrm("solve", "sudoku", tmp_path / "f.txt", "--format", "json")
    assert ran.stderr.count("81 cells expected") == 2 and "f.txt line 2: " in ran.stderr, ran.stderr


def test_a_byte_order_mark_and_a_quoted_header_are_read_over(tmp_path):
    (question, answer), *_ = shipped_rows(1)
    (tmp_path / "a.csv").write_text(f'\ufeff"question","answer"\n"{question}","{answer}"\n')
    (tmp_path / "b.txt").write_text(f"\ufeff{question}\n")
    for given in (tmp_path / "a.csv", tmp_path / "b.txt"):
        assert hrm("solve", "sudoku", given).stdout.startswith(answer)
    assert hrm("solve", "sudoku", "-", stdin=(tmp_path / "b.txt").read_text()).stdout.startswith(answer)
    assert hrm("eval", "sudoku", "--data", tmp_path / "a.csv").returncode == 0


def test_rows_are_counted_by_the_source_that_a_file_names(tmp_path):
    named = [f"{source},{question},{answer}" for source, (question, answer) in zip("abb", shipped_rows(3), strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(["source,question,answer", *named]))
    ran = hrm("eval", "sudoku", "--data", tmp_path / "a.csv", "--json", tmp_path / "report.json")
    parts = json.loads((tmp_path / "report.json").read_text())["by_source"]
    assert {source: part["rows"] for source, part in parts.items()} == {"a": 1, "b": 2}, ran.stderr
    assert f"{parts['b']['exact@1']:.2%} of 2 from b" in ran.stdout


def test_a_reader_that_goes_away_ends_the_stream_quietly():
    command = [sys.executable, "-m", "hrm", "solve", "sudoku", "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, said = process.communicate(f"{EASY}\n{EASY}\n".encode())
    assert process.returncode == -signal.SIGPIPE and not said


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize(("where", "why"), [(">/dev/full", "cannot be written"), (">&-", "is closed")])
@pytest.mark.parametrize("more", [(), ("--format", "csv")])
def test_an_output_that_takes_nothing_ends_in_one_line(where, why, more):
    shell = ["sh", "-c", f'exec "$0" -m hrm solve sudoku "$@" {where}', sys.executable, EASY, *more]
    buffered = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"}
    ran = subprocess.run(shell, stderr=subprocess.PIPE, text=True, env=buffered, timeout=240)
    assert ran.returncode == 2 and ran.stderr.startswith("hrm: standard output") and why in ran.stderr, ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_stream_answers_before_its_end_and_reports_bad_lines():
    command = [sys.executable, "-m", "hrm", "solve", "sudoku", "-", "--format", "json"]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with subprocess.Popen(command, text=True, bufsize=1, env=ENVIRONMENT, **pipes) as process:
        process.stdin.write(EASY + "\n")
        assert json.loads(process.stdout.readline())["verified"]  # while standard input is still open
        process.stdin.write("12x\n" + EASY + "\n")
        bad, good = (json.loads(process.stdout.readline()) for _ in range(2))
        process.stdin.close()
        assert "error" in bad and good["verified"]
        assert process.stderr.read().startswith("hrm: standard input line 2: ")
        assert process.wait(60) == 2


@pytest.mark.parametrize(
    "lines",
    [
        (json.dumps({"puzzle": EASY}), "", '{"question": "12x"}', json.dumps({"question": EASY}), EASY),
        ("source,question,answer,rating", f"a,{EASY},,1", "b", f"c,{EASY},,", f"d,{EASY}"),
    ],
)
def test_a_stream_of_json_lines_or_csv_is_read_and_its_lines_are_counted(lines):
    ran = hrm("solve", "sudoku", "-", stdin="\n".join(lines))
    answers = [line.endswith("verified") for line in ran.stdout.splitlines()]
    assert answers == [EASY in line for line in lines if EASY in line or line == lines[2]], ran.stderr
    assert ran.stderr.startswith("hrm: standard input line 3: ") and ran.returncode == 2


def test_drawn_grids_come_by_standard_input_too():
    small, larger = "S #\n  #\n# G", "\n".join(["S" + " " * 11, *[" " * 12] * 10, " " * 11 + "G"])  # sizes may differ
    ran = hrm("solve", "maze", "-", stdin=f"{small}\n\n{larger}\n\n{small}\n")
    lengths = [len(line.removesuffix("  verified")) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0 and lengths == [9, 144, 9], ran.stdout + ran.stderr
    ran = hrm("solve", "sudoku", "-", "--format", "csv", stdin=TASK.format(TASK.parse(EASY), "grid"))
    (row,) = csv.DictReader(io.StringIO(ran.stdout))
    assert (row["line"], row["puzzle"], row["verified"], row["fault"]) == ("1", EASY, "true", ""), ran.stderr


def test_rows_of_drawings_are_told_from_puzzles():
    row = "5 3 . | . 7 . | . . ."
    assert all(map(TASK.is_drawn_row, (row, "53..7....", "+---+---+---+", "53. .7. ...")))
    dashed = EASY[:25] + "-" * 56  # an unbroken line, in which a dash is a blank
    assert not any(map(TASK.is_drawn_row, (EASY, dashed, "1" * 16, "12x", EASY[:-1])))
    assert TASK.is_puzzle(EASY[:-1]) and not TASK.is_puzzle(row)
    maze = Maze(3, 3)
    assert maze.is_drawn_row("S G") and maze.is_drawn_row("S #") and not maze.is_drawn_row("s##  ###g")
    assert maze.is_puzzle("S##  ###G") and not maze.is_puzzle("#" * 12) and not maze.is_puzzle("S G")


def test_a_recipe_is_told_in_full():
    ran = hrm("recipes", "text-1k")
    assert ran.returncode == 0 and "task: text\n" in ran.stdout and "  # separate: modules H and L (HRM)." in ran.stdout


def test_one_drawn_puzzle_in_a_file_is_drawn(tmp_path):
    (tmp_path / "m.txt").write_text("S #\n  #\n# G\n")
    ran = hrm("solve", "maze", tmp_path / "m.txt")
    assert ran.returncode == 0 and "solved and checked by the rules" in ran.stdout and "▒▒" in ran.stdout, ran.stderr


def test_a_stream_no_csv_reader_takes_is_refused_in_one_line():
    ran = hrm("solve", "sudoku", "-", stdin=f"{EASY}\r{EASY}\r")
    assert (ran.returncode, ran.stderr) == (2, "hrm: standard input line 1: 81 cells expected for 9x9, got 162\n")


def test_a_header_that_comes_alone_does_not_hide_the_size(monkeypatch):
    groups = iter([[(1, "question")], [(2, "#" * 900)]])
    monkeypatch.setattr("hrm.asking.lines_as_they_come", lambda *_: groups)
    with open(os.devnull) as empty:
        monkeypatch.setattr("sys.stdin", empty)
        asked = asked_on_stdin(Maze)
    assert asked.cells == 900 and list(asked.groups(Maze())) == [[(2, "#" * 900)]]


def test_a_folder_named_as_shipped_weights_does_not_hide_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sudoku").mkdir()
    assert load_weights("sudoku").task == "sudoku"
    with pytest.raises(ValueError, match="neither weights"):
        load_weights("./sudoku/")


@pytest.mark.parametrize("given", ["", "\n", "question,answer\n"])
def test_a_stream_without_puzzles_answers_none(given):
    ran = hrm("solve", "sudoku", "-", stdin=given)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_lines_are_numbered_however_they_arrive():
    ends = os.pipe()
    groups = lines_as_they_come(ends[0], str.strip)
    found = []
    for written in (b"a\n\nb\nc", b"c\n \n", b"d"):
        os.write(ends[1], written)
        found += next(groups) if written != b"d" else []
    os.close(ends[1])
    assert [*found, *next(groups)] == [(1, "a"), (2, ""), (3, "b"), (4, "cc"), (5, ""), (6, "d")]
    os.close(ends[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("solve", "sudoku", "123"), "81 cells expected"),
        (("solve", "sudoku", "x" * 81), "is not a digit"),
        (("solve", "sudoku", "missing.txt"), "missing.txt: no such file"),
        (("solve", "sudoku", "tests/"), "tests/: cannot be read"),
        (("solve", "maze", "S G", "--max-segments", "99999999999999999999"), "at most 2147483647"),
        (("solve", "maze", "S G", "--pins", "99999999999999999999"), "pins=99999999999999999999: at most 2147483647"),
        (("solve", "maze", "..G...###"), "this has no answer: 0 start cells 'S'"),
        (("eval", "sudoku", "--json", os.devnull), "a folder, a device"),
        (("eval", "sudoku", "--json", "x", "--answers", "./x"), "named for two things"),
        (
            ("bench", "sudoku", "--compare", "src/hrm/weights/sudoku/index.json"),
            "no report that `hrm bench --json` wrote",
        ),
        (("train", "sudoku-6x6-demo", "task=maze"), "task=maze has 6 tokens, sudoku-6x6-1k 8"),
        (("data", "build", "arc", "--out", "x"), "--source is missing"),
        (
            ("data", "build", "maze", "--source", "generate", "--size", "5", "--min-path", "99", "--out", "x"),
            "no 5x5 maze",
        ),
        (("solve", "sudoku", "11" + "." * 79), "this has no answer: row 1 holds 1 twice"),
        (("solve", "chess", EASY), "no task 'chess'"),
        (("solve", "sudoku", EASY, "--weights", "nothing"), "neither a file or folder nor shipped weights"),
        (("solve", "sudoku", EASY, "--format", "xml"), "choose text, json or csv"),
        (("solve", "sudoku", EASY, "--halt", "soon"), "choose one of"),
        (("solve", "sudoku", EASY, "--device", "tpu"), "device 'tpu': not on this machine; here: cpu"),
        (("solve", "sudoku", EASY, "--device", "cpu:x"), "device 'cpu:x': not on this machine; here: cpu"),
        (("train", "sudoku-cpu", "beta1=1"), "beta1"),
        (("solve", "sudoku", EASY, "--dtype", "int4"), "choose one of auto, saved, bfloat16, float32"),
        (("train", "sudoku-cpu", "device=tpu"), "not on this machine"),
        (("eval", "sudoku", "--data", "nowhere"), "neither a data-set folder"),
        (("eval", "sudoku", "--data", "sudoku-6x6-1k"), "36 cells"),
        (("train", "sudoku-cpu", "lrr=1"), "did you mean 'lr'"),
        (("data", "build", "sudoku", "--source", "none.csv", "--out", "x"), "no such file"),
        (("convert", "sudoku", "pyproject.toml"), "exists"),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_2(arguments, words):
    ran = hrm(*arguments)
    assert ran.returncode == 2
    assert words in ran.stderr and ran.stderr.startswith("hrm: ") and ran.stderr.count("\n") == 1


SOLVE_ARC, SOLVE = ("solve", "arc", "TASK.json"), ("solve", "sudoku", EASY)
BUILD_ARC, BUILD = ("data", "build", "arc", "--out", "x"), ("data", "build", "maze", "--out", "x")


@pytest.mark.parametrize(
    ("command", "ignored"),
    [
        *(
            (SOLVE_ARC, words)
            for words in ("--passes 2", "--select votes", "--check", "--noise 1", "--pins 1", "--watch")
        ),
        (SOLVE_ARC, "--format csv"),
        *((SOLVE, words) for words in ("--fit-seconds 1", "--fit-everything", "--data d", "--votes 1", "--png a.png")),
        *((("solve", "maze", "-"), words) for words in ("--watch", "--png a.png")),
        *((("solve", "maze", "S G", "--format", "csv"), words) for words in ("--watch", "--png a.png")),
        *((("eval", "sudoku"), words) for words in ("--votes 1", "--submission s.json")),
        (("eval", "sudoku", "--data", __file__), "--split val"),
        *((BUILD_ARC, words) for words in ("--subsample 1", "--val 0", "--min-rating 0", "--min-path 9")),
        *((BUILD_ARC, words) for words in ("--test-source t.csv", "--val-source v.csv")),
        ((*BUILD_ARC, "--source", "s.zip"), "--set arc-agi-1"),
        *((BUILD, words) for words in ("--set arc-agi-1", "--ask training", "--smallest 1", "--policy training")),
        *((BUILD, words) for words in ("--layout reference", "--extra-training e", "--without-overlap")),
        *(((*BUILD, "--source", "maze-15x15-1k"), words) for words in ("--size 9", "--min-path 9")),
    ],
)
def test_no_option_is_ignored(command, ignored):
    assert refusal(*command, *ignored.split()).startswith(ignored.split()[0])


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "sudoku", "--json", "none/x.json"),
        ("eval", "sudoku", "--json", "."),
        ("eval", "RUN", "--submission", "none/x.json"),
        ("bench", "sudoku", "--json", "none/x.json"),
        ("solve", "arc", "TASK.json", "--png", "none/x.png"),
        ("solve", "arc", "TASK.json", "--png", "x.jpg"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_computed(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hrm.checkpoint.load_weights", None)
    assert arguments[-1] in refusal(*arguments)
    assert not list(tmp_path.iterdir())


def test_weights_of_another_task_are_refused_as_such(tmp_path):
    save_weights(tmp_path / "w", HRM(tiny()), "text", {})
    line = refusal("solve", "maze", "S  G", "--weights", tmp_path / "w")
    assert line == f"{tmp_path / 'w'}: weights for text, not for maze"


@pytest.mark.parametrize("field", ["--set L_cycles=8", "--seq-len 9"])
def test_our_own_weights_are_converted_as_they_are(field, tmp_path):
    line = refusal("convert", "sudoku", tmp_path / "new", *field.split())
    assert line == "sudoku: seq_len and overrides (--seq-len, --set) are for a reference's checkpoint, not for ours"


@pytest.mark.parametrize("field", ["L_cycles=[", "L_cycles", "=8"])
def test_a_field_to_convert_by_is_written_key_value(field, tmp_path):
    line = refusal("convert", "sudoku", tmp_path / "new", "--set", field)
    assert line == f"--set {field}: write key=value, such as L_cycles=8"


@pytest.mark.parametrize(
    ("command", "weights", "data", "cells"),
    [
        ("eval", "maze", "sudoku-hard-1k", "81 cells and 11 tokens"),
        ("eval", "sudoku", "maze-15x15-1k", "225 cells and 6 tokens"),
        ("bench", "sudoku", "sudoku-6x6-1k", "36 cells and 8 tokens"),
    ],
)
def test_weights_and_data_that_do_not_fit_are_both_named(command, weights, data, cells):
    line = refusal(command, weights, "--data", data)
    assert line.startswith(f"{data} has puzzles of {cells}, ") and f"{weights} solves {weights} of " in line


def test_weights_are_measured_on_what_they_were_trained_with_or_a_set_of_their_size_and_loaded_once(
    monkeypatch, tmp_path, capsys
):
    loaded = []
    monkeypatch.setattr(
        "hrm.checkpoint.load_weights", lambda *a, **k: loaded.append(load_weights(*a, **k)) or loaded[-1]
    )
    ran = CliRunner().invoke(app, ["eval", "sudoku", "--limit", "1", "--max-segments", "1"])
    assert ran.exit_code == 0 and "of sudoku-hard-1k" in ran.output and len(loaded) == 1
    shape = {"vocab_size": 8, "seq_len": 36, "num_puzzle_identifiers": 1}
    six = HRM(tiny(**shape))
    assert usual_data(Weights(six, "sudoku")) == "sudoku-6x6-1k"
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "dataset.json").write_text("{}")
    assert usual_data(Weights(six, "sudoku", {"data": str(tmp_path)})) == str(tmp_path) and not capsys.readouterr().err
    assert usual_data(Weights(six, "sudoku", {"data": "gone"})) == "sudoku-6x6-1k"
    said = "hrm: no test split in gone, which they were trained with: sudoku-6x6-1k is taken\n"
    assert capsys.readouterr().err == said


def test_eval_writes_the_promised_keys(tmp_path):
    rows = shipped_rows(12)
    content = "source,question,answer,rating\n" + "".join(f"x,{q},{a},1\n" for q, a in rows)
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(content.encode()))
    files = ("--data", tmp_path / "d.csv.gz", "--json", tmp_path / "o.json", "--answers", tmp_path / "a.csv")
    ran = hrm("eval", "sudoku", *files, "--limit", "10")
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "o.json").read_text())
    assert report["rows"] == 10 and 0 <= report["exact@1"] <= 1
    assert {"cell_accuracy", "verified", "mean_segments", "q_halt", "exact@1_ci95", "data_hash"} <= report.keys()
    with open(tmp_path / "a.csv", newline="") as file:
        answered = list(csv.DictReader(file))
    assert [(row["question"], row["answer"]) for row in answered] == rows[:10]
    right = [row["given"] == row["answer"] for row in answered]
    assert sum(right) == 10 * report["exact@1"] and [row["right"] for row in answered] == [str(int(r)) for r in right]


def test_weights_travel_to_the_references_form_and_back(tmp_path):
    """Small HRM of the reference's own kind: train, convert out, convert in, same answers."""
    arch = ["arch.hidden_size=64", "arch.num_heads=2", "arch.H_layers=1", "arch.L_layers=1", "arch.puzzle_emb_ndim=64"]
    limits = ["steps=2", "epochs=null", "global_batch_size=8", "eval_every=null", "test_at_end=false", "run_name=r"]
    trained = hrm("train", "hrm-sudoku-1k", *arch, *limits, "--runs", tmp_path)
    assert trained.returncode == 0, trained.stderr
    there = hrm("convert", tmp_path / "sudoku/r", tmp_path / "ref/step_2", "--to", "reference")
    back = hrm("convert", tmp_path / "ref/step_2", tmp_path / "back")
    assert there.returncode == back.returncode == 0, there.stderr + back.stderr
    answers = [
        hrm("solve", "sudoku", EASY, "--weights", w, "--format", "json").stdout
        for w in (tmp_path / "sudoku/r", tmp_path / "back")
    ]
    assert answers[0] == answers[1] and answers[0]


def test_shipped_weights_say_what_they_were_trained_on_and_are_small():
    weights = shipped_weights()
    assert "sudoku" in weights
    for folder in weights.values():
        assert sum(f.stat().st_size for f in folder.iterdir()) < 10_000_000
        card = json.loads((folder / "model.json").read_text())["card"]
        assert {
            "trained_on",
            "data_hash",
            "command",
            "commit",
            "seed",
            "hardware",
            "summary",
            "parameters",
        } <= card.keys()
        assert card["data_hash"] == load_split(card["data"], "train").hash


def test_help_lists_the_commands_without_loading_torch():
    script = "import sys; from hrm.cli import app; import typer.main; typer.main.get_command(app); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.stdout.strip() == "False"
    listed = hrm("--help").stdout
    for command in ("solve", "eval", "train", "parity", "convert", "data", "demo", "recipes"):
        assert command in listed


@pytest.mark.parametrize(
    ("said", "lacking"),
    [("InvalidCxxCompiler: none", "C++ compiler"), ("x.h:2: fatal error: Python.h: No such file", "headers")],
)
def test_what_compiling_lacks_is_told_in_one_line(said, lacking, monkeypatch, capsys):
    def fails():
        raise RuntimeError(f"C++ compile error\n{said}")

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit) as left:
        cli.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and lacking in line and "install g++ and python3-dev" in line
