"""Puzzles of a user's own, as lines of text: read, built, trained on, measured, solved, with nothing known but the lines."""

import json

import numpy as np
import pytest
from test_cli import hrm

from hrm import Reasoner
from hrm.building import build
from hrm.config import load_recipe
from hrm.data import load_split
from hrm.evaluate import evaluate
from hrm.tasks.text import CHARACTERS, Text
from hrm.train import train

SMALL = "steps=2 arch.hidden_size=16 arch.num_heads=2 arch.mlp_round_to=8 global_batch_size=8 eval_every=2 eval_rows=4".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sums, a set built of them, and a run of two steps; answers are shorter than questions."""
    folder = tmp_path_factory.mktemp("text")
    rows = [f"{a}+{b},{a + b}" for a in range(1, 11) for b in range(6)]
    (folder / "sums.csv").write_text("question,answer\n" + "\n".join(rows) + "\n")
    (folder / "test.csv").write_text("question,answer\n1+1,2\n77+8,85\n")  # the first is trained on
    build("text", source=folder / "sums.csv", test_source=str(folder / "test.csv"), val=10, out=folder / "data")
    recipe = load_recipe("text-1k", [f"data_path={folder / 'data'}", *SMALL])
    assert train(recipe, runs=folder).metrics["eval/rows"] == 4
    return folder


def test_lines_come_back_without_the_spaces_at_their_end():
    task = Text(8)
    for line in ("", "a", " a  b", "~!8=?"):
        grid = task.parse(line + "  ")
        assert task.format(grid) == line and (task.decode(task.encode(grid)) == grid).all()
    assert task.encode(task.parse(CHARACTERS[-8:])).max() == task.vocab_size - 1


@pytest.mark.parametrize(
    ("line", "words"),
    [("123456789", "9 characters, at most 8"), ("a\tb", "character 2: '\\\\t'"), ("ä", "character 1")],
)
def test_lines_that_are_none_are_refused(line, words):
    with pytest.raises(ValueError, match=words):
        Text(8).parse(line)


def test_a_set_is_as_long_as_its_longest_line_and_says_what_its_test_shares(folder):
    train_rows, val, test = (load_split(str(folder / "data"), split) for split in ("train", "val", "test"))
    task = Text(train_rows.metadata.seq_len)
    assert (task.seq_len, train_rows.metadata.vocab_size) == (4, 96) and len(train_rows.inputs) + len(val.inputs) == 60
    questions = [{task.format(grid) for grid in task.decode(split.inputs)} for split in (train_rows, val, test)]
    assert not questions[0] & questions[1] and questions[2] == {"1+1", "77+8"}
    assert (train_rows.labels > 0).all()  # that an answer ends is learned too
    assert json.loads((folder / "data" / "hashes.json").read_text())["audit"] == {"test_also_trained_on": 1}


def test_validation_is_cut_from_the_rows_by_whole_questions_and_may_have_longer_lines(folder, tmp_path):
    rows = [f"{k % 7}+1,{k % 7 + 1}" for k in range(40)]  # seven questions
    (tmp_path / "s.csv").write_text("question,answer\n" + "\n".join(rows) + "\n")
    (tmp_path / "v.csv").write_text("question,answer\n1000+1,1001\n")
    report = build("text", source=tmp_path / "s.csv", val=3, out=tmp_path / "d")
    sides = [load_split(str(tmp_path / "d"), split).inputs for split in ("train", "val")]
    held, asked = ({row.tobytes() for row in side} for side in sides)
    assert (len(held), len(asked)) == (4, 3) and not held & asked and report.counts["val"] == 3
    for count in (7, 8):
        with pytest.raises(ValueError, match=f"--val {count}: leaves none of 40 rows to train on"):
            build("text", source=tmp_path / "s.csv", val=count, out=tmp_path / "e")
    build("text", source=tmp_path / "s.csv", val_source=str(tmp_path / "v.csv"), val=1, out=tmp_path / "f")
    assert load_split(str(tmp_path / "f"), "val").metadata.seq_len == 6


def test_what_text_has_no_use_for_is_refused(folder, tmp_path):
    for options, words in (
        ({"source": "generate"}, "--source generate: text comes from a file"),
        ({"source": folder / "sums.csv", "size": 5}, "--size: text comes from a file"),
        ({"source": folder / "sums.csv", "num_aug": 5}, "--num-aug: text"),
        ({"source": folder / "sums.csv", "variants": 5}, "only for Sudoku"),
    ):
        with pytest.raises(ValueError, match=words):
            build("text", out=tmp_path / "d", **options)
    with pytest.raises(ValueError, match="knows no symmetries"):
        load_recipe("text-1k", ["augment=true"])
    with pytest.raises(ValueError, match="no rules are known"):
        Reasoner.load(folder / "text" / "text-1k", passes=2)


def test_an_answer_is_neither_verified_nor_refused(folder):
    run = folder / "text" / "text-1k"
    reasoner = Reasoner.load(run)
    solution = reasoner.solve("1+1")
    assert solution.verified is None and not solution.fault and solution.puzzle == "1+1" and len(solution.answer) <= 4
    report = evaluate(reasoner, load_split(str(folder / "data"), "test"))
    assert report["rows"] == 2 and "verified" not in report and np.isfinite(report["exact@1"])


def test_text_from_the_shell(folder):
    run = folder / "text" / "text-1k"
    ran = hrm("eval", run, "--answers", folder / "answers.csv")  # measured on what it was trained with
    assert ran.returncode == 0 and f"rows 2 of {folder / 'data'}" in ran.stdout and "rules" not in ran.stdout, (
        ran.stderr
    )
    ran = hrm("solve", "text", "1+1", "--weights", run)
    assert ran.returncode == 0 and "no rules are known to check it by" in ran.stdout, ran.stderr
    ran = hrm("solve", "text", "-", "--weights", run, "--format", "json", stdin="1+1\n\n1+12345\n2+2\n")
    first, bad, last = map(json.loads, ran.stdout.splitlines())
    assert (first["line"], first["verified"], bad["line"], bad["verified"], last["line"]) == (1, None, 3, False, 4)
    assert ran.returncode == 2 and "line 3: 7 characters, at most 4" in ran.stderr
    ran = hrm("solve", "text", "6/2", "--weights", run)  # no file
    assert ran.returncode == 0 and "confidence" in ran.stdout, ran.stderr
    ran = hrm("solve", "text", "1+1")
    assert ran.returncode == 2 and "no weights for text are shipped" in ran.stderr and ran.stderr.count("\n") == 1
