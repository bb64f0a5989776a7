"""Data sets read: the reference's layout, CSV, and what is wrong with them in one line."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import csv_of

from hrm.building import build
from hrm.data import Row, load_split, read_csv, split_from_rows
from hrm.tasks.maze import Maze
from hrm.tasks.sudoku import Sudoku

NINE = Sudoku()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no column 'question'"),
        (b"a,b\n1,2\n", "no column 'question'"),
        (b"source,question,answer,rating\n", "no rows"),
        (b"source,question,answer,rating\nx,1\n", "line 2: fewer columns"),
        (b"source,question,answer,rating\nx,1,2,hard\n", "rating 'hard' is not a whole number"),
        (b"source,question,answer,rating\nx,1,2,3\nx," + b"1" * 200_000, "line 3: not CSV: field larger"),
        (b"\xff\xfe\x00", "not a text file"),
        (gzip.compress(b"source,question,answer,rating\n" * 50, mtime=0)[:40], "cannot be read"),
    ],
)
def test_bad_csv_files_get_one_line(content, words, tmp_path):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_csv(tmp_path / "x.csv")
    assert str(tmp_path / "x.csv") in str(caught.value) and "\n" not in str(caught.value)


def test_bad_rows_name_their_line(tmp_path):
    good = load_split("sudoku-hard-1k", "test")
    q, a = (NINE.format(NINE.decode(side[0])) for side in (good.inputs, good.labels))
    for question, answer, words in (
        (q[:-1], a, "line 3: 81 cells expected for 9x9, got 80"),
        ("x" + q[1:], a, "line 3: row 1, column 1: 'x'"),
        (q, a[:-1] + a[0], "line 3: answer breaks the rules: "),
    ):
        with pytest.raises(ValueError, match=words):
            split_from_rows([Row("", q, a, 0), Row("", question, answer, 0, "f.csv line 3")], NINE)
    for question, answer, words in (
        ("SoG", "SoG", "question is no puzzle: cell r1c2 holds a path cell"),
        ("S G", "S G", "answer breaks the rules: the path does not lead"),
        ("SSG", "SSG", "question is no puzzle: 2 start cells"),
        ("S?G", "S?G", "question is no puzzle: cell r1c2 holds '\\?'"),
    ):
        with pytest.raises(ValueError, match=f"line 2: {words}"):
            split_from_rows([Row("", f"{question}######", f"{answer}######", 0, "f.csv line 2")], Maze(3, 3))
    with pytest.raises(ValueError, match="no such file"):
        read_csv(tmp_path / "none.csv")


def test_spaces_inside_cells_are_kept(tmp_path):
    (tmp_path / "m.csv").write_text("source,question,answer,rating\n, S #G ,oSo#Go,3\n")
    assert read_csv(tmp_path / "m.csv") == [Row("", " S #G ", "oSo#Go", 3)]


def test_the_references_own_variant_reads_the_same(tmp_path):
    """sapientinc/HRM writes augmented Sudoku as int64 and no total_puzzles."""
    build(source=str(csv_of(tmp_path / "s.csv", 12)), out=tmp_path / "d", subsample=8, val=2)
    ours = load_split(str(tmp_path / "d"), "train")
    shutil.copytree(tmp_path / "d", tmp_path / "theirs")
    for field in ("inputs", "labels"):
        path = tmp_path / "theirs" / "train" / f"all__{field}.npy"
        np.save(path, np.load(path).astype(np.int64))
    meta = tmp_path / "theirs" / "train" / "dataset.json"
    meta.write_text(json.dumps({k: v for k, v in json.loads(meta.read_text()).items() if k != "total_puzzles"}))
    theirs = load_split(str(tmp_path / "theirs"), "train")
    assert theirs.inputs.dtype == np.uint8 and theirs.hash == ours.hash


def spoil(folder: Path, field: str, change) -> None:
    path = folder / "train" / f"all__{field}.npy"
    np.save(path, change(np.load(path)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "train" / "all__labels.npy").unlink(), r"all__labels\.npy: no such file"),
        (lambda d: (d / "train" / "all__inputs.npy").write_bytes(b"junk"), "not a readable array"),
        (lambda d: np.save(d / "train" / "all__inputs.npy", np.array([{}]), allow_pickle=True), "not a readable array"),
        (lambda d: spoil(d, "labels", lambda x: x[:, :-1]), r"labels\.npy: expected integers of shape"),
        (lambda d: spoil(d, "inputs", lambda x: x.astype(float)), "not an array of integers"),
        (lambda d: np.save(d / "train" / "all__inputs.npy", np.array(5)), "not an array of integers"),
        (lambda d: spoil(d, "inputs", lambda x: x + 5), r"tokens must lie in 0\.\.10"),
        (lambda d: spoil(d, "puzzle_indices", lambda x: x[::-1].copy()), "rising offsets from 0"),
        (lambda d: spoil(d, "group_indices", lambda x: x[:-1]), "rising offsets from 0"),
        (lambda d: spoil(d, "puzzle_identifiers", lambda x: x + 3), r"must lie in 0\.\.0"),
        (lambda d: (d / "train" / "dataset.json").write_text("{"), r"dataset\.json: damaged"),
        (lambda d: (d / "train" / "dataset.json").write_text('{"pad_id": 0}'), "ignore_label_id"),
        (lambda d: shutil.rmtree(d / "train"), "has no split 'train'"),
    ],
)
def test_damaged_folders_get_one_line(damage, words, tmp_path):
    build(source=str(csv_of(tmp_path / "s.csv", 12)), out=tmp_path / "d", subsample=8, val=2)
    damage(tmp_path / "d")
    with pytest.raises(ValueError, match=words) as caught:
        load_split(str(tmp_path / "d"), "train")
    assert "\n" not in str(caught.value)


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'sudoku-hard-1k'"):
        load_split("sudoku-hard", "train")
    with pytest.raises(ValueError, match="choose train, val or test"):
        load_split("sudoku-hard-1k", "dev")
