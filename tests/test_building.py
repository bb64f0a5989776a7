"""Data sets built: the same bytes twice, splits kept apart, readable by both references, nothing lost."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HRM_FIELDS, csv_of, read_as_the_references_do

from hrm import building
from hrm.building import build
from hrm.data import load_split, read_csv
from hrm.tasks.sudoku import Sudoku

NINE = Sudoku()


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_builds_are_the_same_bytes_for_the_same_seed_and_others_for_another(tmp_path):
    source = csv_of(tmp_path / "s.csv", 60)
    options = dict(source=str(source), subsample=30, val=8, num_aug=2)
    reports = [build(out=tmp_path / name, seed=seed, **options) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert files(tmp_path / "a") == files(tmp_path / "b") and reports[0].hash == reports[1].hash
    assert reports[2].hash != reports[0].hash
    assert reports[0].hash in str(reports[0])
    written = json.loads((tmp_path / "c" / "hashes.json").read_text())
    assert (
        written["sha256"] == reports[2].hash
        and written["built"].items() >= {"task": "sudoku", "seed": 1, **options}.items()
    )


def test_a_set_built_anew_is_read_anew(tmp_path):
    hashes = []
    for seed in (0, 1):
        build(source="sudoku-6x6-1k", subsample=5, val=0, seed=seed, out=tmp_path / "d", overwrite=True)
        hashes.append(load_split(str(tmp_path / "d"), "train").hash)
    assert hashes[0] != hashes[1]


def test_both_references_can_read_a_build_and_find_valid_augmented_sudokus(tmp_path):
    build(source=str(csv_of(tmp_path / "s.csv.gz", 20)), out=tmp_path / "d", subsample=10, val=4, num_aug=3)
    groups = read_as_the_references_do(tmp_path / "d", "train", [*HRM_FIELDS, "total_puzzles"])
    assert [len(group) for group in groups] == [4] * 10
    originals = {NINE.format(NINE.decode(load_split("sudoku-hard-1k", "train").inputs[k])) for k in range(20)}
    for group in groups:
        assert NINE.format(NINE.decode(group[0][0][0])) in originals
        assert len({examples[0][0].tobytes() for examples in group}) == 4
        for ((inputs, labels, identifier),) in group:
            assert inputs.dtype == labels.dtype == np.uint8 and identifier == 0
            assert NINE.verify(NINE.decode(inputs), NINE.decode(labels))
    assert json.loads((tmp_path / "d" / "identifiers.json").read_text()) == ["<blank>"]


def test_splits_share_no_solution_grid(tmp_path):
    """Rows whose grids are symmetric to training rows are kept out of validation and test."""
    source = csv_of(tmp_path / "s.csv", 40)
    twins = load_split("sudoku-hard-1k", "train")
    tokens = [torch.from_numpy(side[:40].copy()) for side in (twins.inputs, twins.labels)]
    q, a = (NINE.decode(t.numpy()) for t in NINE.augment(*tokens, torch.Generator().manual_seed(0)))
    with source.open("a") as file:
        file.writelines(f"twin,{NINE.format(x)},{NINE.format(y)},0\n" for x, y in zip(q, a, strict=True))
    report = build(source=str(source), out=tmp_path / "d", subsample=30, val=5)
    keys = {
        split: {NINE.same_orbit_key(g) for g in NINE.decode(load_split(str(tmp_path / "d"), split).labels)}
        for split in ("train", "val", "test")
    }
    assert not keys["train"] & keys["val"] and not keys["train"] & keys["test"] and not keys["val"] & keys["test"]
    assert report.counts["train"] == 30 and report.counts["val"] == 5


def test_validation_rows_can_come_from_a_file_of_their_own(tmp_path):
    source, test = csv_of(tmp_path / "s.csv", 20), csv_of(tmp_path / "t.csv", 10, "test")
    own = csv_of(tmp_path / "v.csv", 12, "val")
    own.write_text(own.read_text() + "\n".join(source.read_text().splitlines()[1:4]) + "\n")  # three that leak
    options = dict(source=str(source), test_source=str(test), val_source=str(own))
    build(out=tmp_path / "d", val=12, **options)
    val = load_split(str(tmp_path / "d"), "val")
    assert (val.inputs == load_split("sudoku-hard-1k", "val").inputs[:12]).all()
    with pytest.raises(ValueError, match="only 12 rows"):
        build(out=tmp_path / "e", val=13, **options)


def test_a_given_test_source_is_taken_whole_and_validation_kept_apart_from_it(tmp_path):
    source, test = csv_of(tmp_path / "s.csv", 30), csv_of(tmp_path / "t.csv", 12, "test")
    report = build(source=str(source), test_source=str(test), out=tmp_path / "d", subsample=20, val=5)
    assert report.counts == {"train": 20, "val": 5, "test": 12}


def test_generated_and_builtin_sources(tmp_path):
    for size in (4, 6):
        report = build(source="generate", size=size, subsample=12, val=3, seed=5, out=tmp_path / str(size))
        assert report.counts == {"train": 12, "val": 3, "test": 12}
        task = Sudoku.for_cells(size * size)
        for split in report.counts:
            held = load_split(str(tmp_path / str(size)), split)
            assert task.verify_batch(task.decode(held.inputs), task.decode(held.labels)).all()
            assert held.metadata.vocab_size == size + 2
    report = build(source="sudoku-6x6-1k", subsample=50, out=tmp_path / "b")
    assert report.counts["train"] == 50 and report.counts["test"] == 1000


def test_small_sizes_share_solutions_and_no_question(tmp_path):
    build(source="generate", size=4, subsample=200, val=20, seed=0, out=tmp_path / "d")
    asked = [
        row.tobytes() for split in ("train", "val", "test") for row in load_split(str(tmp_path / "d"), split).inputs
    ]
    assert len({*asked}) == len(asked) == 420
    with pytest.raises(ValueError, match="puzzles of this size were found that differ: lower --subsample"):
        build("maze", source="generate", size=2, subsample=500, out=tmp_path / "e")
    lines = [f"a,{'1234341221434321'[:k] + '.' * (16 - k)},1234341221434321,1" for k in (8, 9, 8, 10, 11, 9)]
    csv = tmp_path / "s.csv"
    csv.write_text("\n".join(["source,question,answer,rating", *lines]))
    build(source=str(csv), size=4, val=2, out=tmp_path / "f")
    train, val = (
        {row.tobytes() for row in load_split(str(tmp_path / "f"), split).inputs} for split in ("train", "val")
    )
    assert len(val) == 2 and len(train) == 2 and not train & val
    build("maze", source="generate", size=2, subsample=8, val=8, num_aug=20, out=tmp_path / "h")
    train, val = (load_split(str(tmp_path / "h"), split) for split in ("train", "val"))
    assert not {row.tobytes() for row in train.inputs} & {row.tobytes() for row in val.inputs}
    assert np.diff(train.group_indices).min() < 21  # some were of another split
    report = build(source=str(csv), test_source=str(csv), val=0, out=tmp_path / "g")
    assert report.note == "6 of the test's questions are trained on as well"


def test_min_rating_and_subsample_are_checked(tmp_path):
    source = csv_of(tmp_path / "s.csv", 20)
    ratings = [row.rating for row in read_csv(source)]
    bound = sorted(ratings)[10]
    report = build(source=str(source), out=tmp_path / "d", min_rating=bound, val=0)
    assert report.counts["train"] == sum(r >= bound for r in ratings)
    for options, words in (
        ({"subsample": 21}, "has only 20 rows"),
        ({"min_rating": 10**6}, "no row is that hard"),
        ({"subsample": 18, "val": 9}, "--val 9: only 2"),
    ):
        with pytest.raises(ValueError, match=words):
            build(source=str(source), out=tmp_path / "e", **options)
        assert not (tmp_path / "e").exists()


def test_generated_puzzles_of_every_split_have_the_rating_asked_for(tmp_path, monkeypatch):
    options = dict(source="generate", size=6, subsample=4, val=2)
    build(out=tmp_path / "d", min_rating=1, **options)
    task = Sudoku.for_cells(36)
    for split in ("train", "val", "test"):
        assert all(task.rate(puzzle) >= 1 for puzzle in task.decode(load_split(str(tmp_path / "d"), split).inputs))
    monkeypatch.setattr(building, "TOO_MANY", 20)
    with pytest.raises(ValueError, match="--min-rating 99: 20 puzzles in a row"):
        build(out=tmp_path / "e", min_rating=99, **options)


def test_of_what_is_left_over_only_as_much_is_looked_at_as_is_wanted(tmp_path, monkeypatch):
    source, test = csv_of(tmp_path / "s.csv", 60), csv_of(tmp_path / "t.csv", 10, "test")
    asked, key = [], Sudoku.same_orbit_key
    monkeypatch.setattr(Sudoku, "same_orbit_key", lambda self, grid: asked.append(1) or key(self, grid))
    build(source=str(source), test_source=str(test), out=tmp_path / "d", subsample=20, val=5)
    assert len(asked) == 20 + 10 + 5


def test_existing_folders_are_not_lost(tmp_path):
    source = csv_of(tmp_path / "s.csv", 12)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="no data set of ours"):
            build(source=str(source), out=tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    first = build(source=str(source), out=tmp_path / "d", seed=0)
    with pytest.raises(ValueError, match="--overwrite"):
        build(source="refused before it is read", out=tmp_path / "d", seed=1)
    second = build(source=str(source), out=tmp_path / "d", seed=1, num_aug=1, overwrite=True)
    assert second.hash != first.hash and not list(tmp_path.glob(".*"))


def test_the_hub_offline_points_to_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"--source hf.*--source FILE\.csv"):
        build(source="hf", out=tmp_path / "d")


@pytest.mark.parametrize("fault", ["question", "answer"])
def test_a_build_names_the_file_and_line_of_a_fault_wherever_the_row_goes(fault, tmp_path):
    path = csv_of(tmp_path / "s.csv", 40)
    lines = path.read_text().splitlines()
    cells = lines[30].split(",")
    cells[1 + (fault == "answer")] = cells[1 + (fault == "answer")][:-1]
    path.write_text("\n".join([*lines[:30], ",".join(cells), *lines[31:]]))
    for seed in range(3):
        with pytest.raises(ValueError, match=r"s\.csv line 31: 81 cells expected for 9x9, got 80"):
            build(source=str(path), out=tmp_path / "d", subsample=20, val=5, seed=seed)
