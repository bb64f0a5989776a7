"""Data sets: the reference's layout, builds that are the same bytes twice, errors in one line, a pure sampler."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hrm.data import (
    FIELDS,
    DeviceSampler,
    Metadata,
    Row,
    build,
    finished_split,
    load_split,
    read_csv,
    split_from_rows,
    stream_seed,
)
from hrm.tasks.sudoku import Sudoku

NINE = Sudoku()


def csv_of(path: Path, count: int, split: str = "train", start: int = 0) -> Path:
    """A CSV of rows of the package's own set."""
    source = load_split("sudoku-hard-1k", split)
    rows = [
        f"mine,{NINE.format(NINE.decode(q))},{NINE.format(NINE.decode(a))},{r}"
        for q, a, r in zip(source.inputs, source.labels, source.ratings, strict=True)
    ][start : start + count]
    text = "source,question,answer,rating\n" + "\n".join(rows) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- building


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


def read_as_the_references_do(folder: Path, split: str, required: list[str]) -> list[dict]:
    """An independent reader of the layout: groups of puzzles of examples (both references' puzzle_dataset.py)."""
    meta = json.loads((folder / split / "dataset.json").read_text())
    assert all(key in meta for key in required)
    arrays = {field: np.load(folder / split / f"all__{field}.npy") for field in FIELDS}
    groups = []
    for g in range(meta["total_groups"]):
        puzzles = range(arrays["group_indices"][g], arrays["group_indices"][g + 1])
        groups.append(
            [
                [
                    (arrays["inputs"][e], arrays["labels"][e], arrays["puzzle_identifiers"][p])
                    for e in range(arrays["puzzle_indices"][p], arrays["puzzle_indices"][p + 1])
                ]
                for p in puzzles
            ]
        )
    assert sum(len(group) for group in groups) == len(arrays["puzzle_identifiers"])
    return groups


HRM_FIELDS = ["pad_id", "ignore_label_id", "blank_identifier_id", "vocab_size", "seq_len", "num_puzzle_identifiers"]
HRM_FIELDS += ["total_groups", "mean_puzzle_examples", "sets"]


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
    assert second.hash != first.hash and not list(tmp_path.glob("*.partial"))


def test_the_hub_offline_points_to_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"--source hf.*--source FILE\.csv"):
        build(source="hf", out=tmp_path / "d")


# --- reading


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
        (gzip.compress(b"source,question,answer,rating\n" * 50)[:40], "cannot be read"),
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
    with pytest.raises(ValueError, match="no such file"):
        read_csv(tmp_path / "none.csv")


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


# --- sampling


def many_examples(groups: int = 5, puzzles: int = 3, examples: int = 2):
    """A set whose tokens say which group, puzzle and example they are."""
    count = groups * puzzles * examples
    where = np.indices((groups, puzzles, examples)).reshape(3, -1).T.astype(np.uint8)
    return finished_split(
        {
            "inputs": where,
            "labels": where.copy(),
            "puzzle_identifiers": np.arange(groups * puzzles, dtype=np.int32),
            "puzzle_indices": np.arange(0, count + 1, examples, dtype=np.int32),
            "group_indices": np.arange(0, groups * puzzles + 1, puzzles, dtype=np.int32),
        },
        Metadata(
            pad_id=0,
            ignore_label_id=0,
            blank_identifier_id=0,
            vocab_size=20,
            seq_len=3,
            num_puzzle_identifiers=groups * puzzles,
            total_groups=groups,
            mean_puzzle_examples=examples,
            sets=["all"],
        ),
    )


def equal(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def test_a_batch_is_a_pure_function_of_seed_number_and_rank():
    split = load_split("sudoku-6x6-1k", "train")
    augment = Sudoku(2, 3).augment

    def make(seed=0, rank=0):
        return DeviceSampler(split, batch_size=16, seed=seed, rank=rank, world_size=2, augment=augment)

    one, other = make(), make()
    forward = [one.batch(k) for k in range(70)]  # over two epochs
    for k in (69, 3, 40, 0, 3):
        assert equal(other.batch(k), forward[k])
    assert not equal(forward[0], forward[1]) and not equal(make(seed=1).batch(0), forward[0])
    assert not equal(make(rank=1).batch(0), forward[0])
    assert forward[0]["inputs"].dtype == forward[0]["labels"].dtype == torch.int32


def test_ranks_share_out_the_batch_of_one_process():
    split = load_split("sudoku-6x6-1k", "train")
    whole = DeviceSampler(split, batch_size=12, seed=4)
    ranks = [DeviceSampler(split, batch_size=4, seed=4, rank=r, world_size=3) for r in range(3)]
    for k in (0, 5, 83, 84, 200):  # 83 crosses an epoch
        together = [s.batch(k) for s in ranks]
        for key, value in whole.batch(k).items():
            assert torch.equal(value, torch.cat([part[key] for part in together]))


def test_an_epoch_visits_each_group_once_with_all_examples_of_one_puzzle():
    split = many_examples()
    sampler = DeviceSampler(split, batch_size=10, seed=0)
    picked = set()
    for epoch in range(30):
        rows = sampler.batch(epoch)["inputs"]
        assert sorted(rows[:, 0].tolist()) == sorted(list(range(5)) * 2)
        for pair in rows.view(5, 2, 3):
            assert pair[0, :2].tolist() == pair[1, :2].tolist() and {int(pair[0, 2]), int(pair[1, 2])} == {0, 1}
        ids = sampler.batch(epoch)["puzzle_identifiers"]
        assert ids.tolist() == (rows[:, 0] * 3 + rows[:, 1]).tolist()
        picked |= set(ids.tolist())
    assert picked == set(range(15))


def test_labels_without_an_answer_become_minus_100():
    batch = DeviceSampler(many_examples(), batch_size=10, seed=0).batch(0)
    assert ((batch["labels"] == -100) == (batch["inputs"] == 0)).all()


def test_groups_of_unequal_puzzles_are_refused():
    split = many_examples(groups=2, puzzles=2, examples=2)
    uneven = split.puzzle_indices.copy()
    uneven[1] = 1
    with pytest.raises(ValueError, match="different numbers of examples"):
        DeviceSampler(type(split)(**{**split.__dict__, "puzzle_indices": uneven}), batch_size=2, seed=0)


def test_stream_seeds_are_stable_and_spread():
    assert stream_seed(0, 1, 2) == stream_seed(0, 1, 2) and stream_seed(0) != stream_seed(0, 0)
    seeds = {stream_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000 and all(0 <= s < 2**63 for s in seeds)
    ones = np.mean([bin(s).count("1") for s in seeds])
    assert 31 < ones < 32
