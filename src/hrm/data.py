"""Data sets: the reference's on-disk layout, the builder that writes it, and the sampler that draws from the device.

On disk (readable by sapientinc/HRM and TinyRecursiveModels): `<dir>/<split>/dataset.json` and `all__<field>.npy`, and
`<dir>/identifiers.json`. A group is a puzzle with its augmentations; a puzzle has one or more examples; both indices are
CSR offsets. Everything a build writes is a function of its source and seed, byte for byte.
"""

import csv
import dataclasses
import gzip
import hashlib
import io
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, Field, PositiveFloat, ValidationError

from .config import nearest
from .tasks import Progress, Task, known_task, untold
from .tasks.maze import Maze
from .tasks.sudoku import Sudoku

if TYPE_CHECKING:
    import torch

BUILTIN = {
    "sudoku-hard-1k": (("sudoku_hard",), Sudoku()),
    "sudoku-hard-beyond": (("sudoku_hard", "sudoku_beyond"), Sudoku()),
    "sudoku-6x6-1k": (("sudoku_6x6",), Sudoku(2, 3)),
    "maze-15x15-1k": (("maze_15x15",), Maze(15, 15)),
    "maze-30x30-hard-1k": (("maze_30x30",), Maze()),
}
"""Sets inside the package: name -> (file stems, task). All made by us; no licence question."""

HUB_SETS = {"sudoku": "sapientinc/sudoku-extreme", "maze": "sapientinc/maze-30x30-hard-1k"}
HUB_FILES = ("train.csv", "test.csv")
DEFAULT_SIDE = {"sudoku": 9, "maze": 30}

FIELDS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")
TABLE_FIELDS = ("table", "table_indices")
SPLITS = ("train", "val", "test")


class Metadata(BaseModel):
    """`dataset.json`. TRM's reader requires total_puzzles, HRM's does not know it; keys unknown to us are let be."""

    pad_id: int
    ignore_label_id: int | None
    blank_identifier_id: int
    vocab_size: int
    seq_len: int
    num_puzzle_identifiers: int
    total_groups: int
    mean_puzzle_examples: PositiveFloat = Field(allow_inf_nan=False)
    total_puzzles: int | None = None
    sets: list[str]


@dataclass(frozen=True)
class Split:
    """One split in memory."""

    inputs: np.ndarray
    """(N, S) uint8 tokens."""
    labels: np.ndarray
    """(N, S) uint8 tokens; metadata.ignore_label_id marks cells without an answer."""
    puzzle_identifiers: np.ndarray
    """(P,) int32, one a puzzle."""
    puzzle_indices: np.ndarray
    """(P + 1,) int32: examples puzzle_indices[p] .. puzzle_indices[p + 1] belong to puzzle p."""
    group_indices: np.ndarray
    """(G + 1,) int32: puzzles of each group, likewise."""
    metadata: Metadata
    hash: str
    """sha256 over the arrays."""
    ratings: np.ndarray | None = None
    """(N,) int, where the source gives them."""
    table: np.ndarray | None = None
    """(T, 11) uint8, ARC: the augmentations of every puzzle (tasks/arc.py)."""
    table_indices: np.ndarray | None = None
    """(P + 1,) int32: rows of the table that belong to puzzle p; the k-th of them has identifier k further on."""

    def identifiers_per_row(self) -> np.ndarray:
        """(N,) int32: the identifier of each example's puzzle."""
        return np.repeat(self.puzzle_identifiers, np.diff(self.puzzle_indices))


@dataclass(frozen=True)
class Row:
    """A line of a CSV file."""

    source: str
    question: str
    answer: str
    rating: int
    where: str = dataclasses.field(default="a row", compare=False)
    """File and line."""

    def grid(self, task: Task, side: str) -> np.ndarray:
        """The grid (S,) of one side, "question" or "answer". Raises ValueError naming the line."""
        try:
            return task.parse(getattr(self, side))
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from None


# --- CSV --------------------------------------------------------------------------------------------------------------


def file_text(path: str | Path) -> str:
    """The text of a file, unpacked if it is gzip's. Raises ValueError naming the file."""
    try:
        raw = Path(path).read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file") from None


def read_csv(path: str | Path) -> list[Row]:
    """Rows of a CSV or CSV.gz with the header `source,question,answer,rating` (question and answer are required).

    Cells are kept as they are, spaces included. Raises ValueError naming file and line.
    """
    path = Path(path)
    reader = csv.DictReader(io.StringIO(file_text(path), newline=""))
    rows = []
    try:
        missing = [name for name in ("question", "answer") if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: no column '{missing[0]}': the first line must be source,question,answer,rating")
        for record in reader:
            where = f"{path} line {reader.line_num}"
            if record["question"] is None or record["answer"] is None:
                raise ValueError(f"{where}: fewer columns than the header")
            rating = record.get("rating") or "0"
            if not re.fullmatch("-?[0-9]+", rating):
                raise ValueError(f"{where}: rating '{rating}' is not a whole number")
            rows.append(Row(record.get("source") or "", record["question"], record["answer"], int(rating), where))
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num + 1}: not CSV: {error}") from None
    if not rows:
        raise ValueError(f"{path}: no rows")
    return rows


def checked_grids(rows: list[Row], task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Puzzles and answers (N, S) of rows, every answer held against the rules. Raises ValueError naming the line."""
    puzzles, answers = (np.stack([row.grid(task, side) for row in rows]) for side in ("question", "answer"))
    wrong = np.flatnonzero(~task.verify_batch(puzzles, answers))
    if len(wrong):
        k = wrong[0]
        raise ValueError(f"{rows[k].where}: answer breaks the rules: {task.fault(puzzles[k], answers[k])}")
    return puzzles, answers


def split_from_rows(rows: list[Row], task: Task) -> Split:
    """A split of single-example puzzles without identifiers, straight from CSV rows."""
    puzzles, answers = checked_grids(rows, task)
    return split_of_grids(task, puzzles, answers, groups=np.ones(len(rows), int), ratings=[row.rating for row in rows])


def split_of_grids(
    task: Task, puzzles: np.ndarray, answers: np.ndarray, groups: np.ndarray, ratings: Iterable[int] | None = None
) -> Split:
    """A split of single-example puzzles; `groups` gives the number of puzzles in each group."""
    count = len(puzzles)
    return finished_split(
        {
            "inputs": np.ascontiguousarray(task.encode(puzzles)),
            "labels": np.ascontiguousarray(task.encode(answers)),
            "puzzle_identifiers": np.zeros(count, np.int32),
            "puzzle_indices": np.arange(count + 1, dtype=np.int32),
            "group_indices": np.concatenate(([0], np.cumsum(groups))).astype(np.int32),
        },
        Metadata(
            pad_id=0,
            ignore_label_id=0,
            blank_identifier_id=0,
            vocab_size=task.vocab_size,
            seq_len=task.seq_len,
            num_puzzle_identifiers=1,
            total_groups=len(groups),
            mean_puzzle_examples=1.0,
            total_puzzles=count,
            sets=["all"],
        ),
        None if ratings is None else np.array(list(ratings)),
    )


def finished_split(arrays: dict[str, np.ndarray], metadata: Metadata, ratings: np.ndarray | None = None) -> Split:
    digest = hashlib.sha256()
    for name in arrays:
        digest.update(name.encode() + arrays[name].tobytes())
    return Split(**arrays, metadata=metadata, hash=digest.hexdigest(), ratings=ratings)


# --- reading ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def load_split(path: str, split: str) -> Split:
    """A split of a data-set folder (ours, or built by either reference), or of a built-in set by name.

    Raises ValueError with one line naming the file and the remedy.
    """
    if split not in SPLITS:
        raise ValueError(f"no split '{split}': choose train, val or test")
    if path in BUILTIN and not Path(path).exists():
        return split_from_rows(built_in_rows(path, split), BUILTIN[path][1])
    folder = Path(path) / split
    if not Path(path).is_dir():
        raise ValueError(f"{path}: neither a data-set folder nor a built-in set{nearest(path, list(BUILTIN))}")
    if not (folder / "dataset.json").is_file():
        held = [name for name in SPLITS if (Path(path) / name / "dataset.json").is_file()]
        raise ValueError(
            f"{path}: has no split '{split}'" + (f", only {', '.join(held)}" if held else "; see `hrm data build`")
        )
    try:
        metadata = Metadata(**json.loads((folder / "dataset.json").read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{folder / 'dataset.json'}: damaged: {error}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{folder / 'dataset.json'}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    if not metadata.sets:
        raise ValueError(f"{folder / 'dataset.json'}: names no sets")
    parts = [{field: load_array(folder / f"{name}__{field}.npy") for field in FIELDS} for name in metadata.sets]
    for name, part in zip(metadata.sets, parts, strict=True):
        check_arrays(part, metadata, f"{folder}/{name}__")
    return finished_split(joined(parts) | loaded_table(folder, metadata, parts), metadata)


def built_in_rows(name: str, split: str) -> list[Row]:
    """The rows of a split of a built-in set, from whichever of its files are of that split."""
    folder = Path(str(resources.files("hrm") / "datasets"))
    files = [folder / f"{stem}_{split}.csv.gz" for stem in BUILTIN[name][0]]
    return [row for file in files if file.is_file() for row in read_csv(file)]


def loaded_table(folder: Path, metadata: Metadata, parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The augmentation table of a split that has one."""
    name = metadata.sets[0]
    if not (folder / f"{name}__table.npy").is_file():
        return {}
    table, starts = (load_array(folder / f"{name}__{field}.npy") for field in TABLE_FIELDS)
    puzzles = parts[0]["puzzle_identifiers"]
    good = len(parts) == 1 and table.ndim == 2 and table.shape[1:] == (11,) and table.dtype == np.uint8
    good = good and starts.shape == (len(puzzles) + 1,) and starts[0] == 0 and starts[-1] == len(table)
    good = good and (np.diff(starts) > 0).all() and table[:, 0].max() < 8
    good = good and (np.sort(table[:, 1:]) == np.arange(10)).all()
    if not good or (puzzles + np.diff(starts)).max() > metadata.num_puzzle_identifiers:
        raise ValueError(f"{folder / name}__table.npy: not an augmentation table of these puzzles; build it again")
    return {"table": table, "table_indices": starts.astype(np.int32)}


def load_array(path: Path) -> np.ndarray:
    try:
        found = np.load(path)  # without pickle, numpy's default
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file: the data set is incomplete; build it again") from None
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"{path}: not a readable array: {error}") from None
    if not isinstance(found, np.ndarray) or not found.ndim or found.dtype.kind not in "iu":
        raise ValueError(f"{path}: not an array of integers; build the data set again")
    return found


def check_arrays(part: dict[str, np.ndarray], metadata: Metadata, where: str) -> None:
    """Shapes, index order and token ranges; the reference's int64 tokens become uint8 in place."""
    count = len(part["inputs"])
    for field in ("inputs", "labels"):
        tokens = part[field]
        if tokens.shape != (count, metadata.seq_len):
            raise ValueError(
                f"{where}{field}.npy: expected integers of shape ({count}, {metadata.seq_len}), got {tokens.dtype} {tokens.shape}"
            )
        if tokens.size and (tokens.min() < 0 or tokens.max() >= metadata.vocab_size):
            raise ValueError(
                f"{where}{field}.npy: tokens must lie in 0..{metadata.vocab_size - 1}, found {tokens.min()}..{tokens.max()}"
            )
        part[field] = np.ascontiguousarray(tokens, np.uint8)
    puzzles = len(part["puzzle_identifiers"])
    for field, last, length in (("puzzle_indices", count, puzzles + 1), ("group_indices", puzzles, None)):
        index = part[field].astype(np.int64)  # unsigned ones would fall without it being seen
        good = index.ndim == 1 and len(index) > 1 and length in (None, len(index))
        if not good or index[0] != 0 or index[-1] != last or (np.diff(index) < 1).any():
            raise ValueError(f"{where}{field}.npy: expected rising offsets from 0 to {last}")
        part[field] = index.astype(np.int32)
    identifiers = part["puzzle_identifiers"]
    if identifiers.ndim != 1 or identifiers.min() < 0 or identifiers.max() >= metadata.num_puzzle_identifiers:
        raise ValueError(f"{where}puzzle_identifiers.npy: must lie in 0..{metadata.num_puzzle_identifiers - 1}")
    part["puzzle_identifiers"] = identifiers.astype(np.int32)


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The sets of a split one after another."""
    whole = parts[0]
    for part in parts[1:]:
        whole = {
            "inputs": np.concatenate((whole["inputs"], part["inputs"])),
            "labels": np.concatenate((whole["labels"], part["labels"])),
            "puzzle_identifiers": np.concatenate((whole["puzzle_identifiers"], part["puzzle_identifiers"])),
            "puzzle_indices": np.concatenate(
                (whole["puzzle_indices"], part["puzzle_indices"][1:] + len(whole["inputs"]))
            ),
            "group_indices": np.concatenate(
                (whole["group_indices"], part["group_indices"][1:] + len(whole["puzzle_identifiers"]))
            ),
        }
    return whole


# --- building ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What a build wrote."""

    folder: Path
    counts: dict[str, int]
    """Split -> puzzles before augmentation."""
    hash: str
    """sha256 over all files: equal for equal source, seed and options."""
    note: str = ""

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {split}" for split, count in self.counts.items())
        return f"{self.folder}: {counts} puzzles\nsha256 {self.hash}" + (f"\n{self.note}" if self.note else "")


def build(
    task: str = "sudoku",
    *,
    source: str,
    out: str | Path,
    subsample: int | None = None,
    seed: int = 0,
    val: int | None = None,
    test_source: str | None = None,
    val_source: str | None = None,
    num_aug: int = 0,
    variants: int = 0,
    beyond: int = 0,
    harden: int = 0,
    min_rating: int | None = None,
    size: int | None = None,
    min_path: int | None = None,
    overwrite: bool = False,
    progress: Progress = untold,
) -> Report:
    """Build a data set of a task in the reference's layout.

    source: a CSV, "hf" (sapientinc/sudoku-extreme or maze-30x30-hard-1k from the Hugging Face hub), a built-in set, or
    "generate" (puzzles of side `size` from `seed`, mazes with paths of `min_path` cells and more: `subsample` for
    training, 1,000 by default, as many for the test). The subsample is drawn
    by `seed`. Validation puzzles (`val`; default a tenth of what is trained on, at most 256) come from `val_source` or
    from the rows that the subsample leaves over; the test split from `test_source`, from the hub's or the built-in's
    own test file, or from the rest left over. No solution grid, up to symmetry, is in two splits, but that a test file
    given as such is left whole and may share grids with training. With `variants` a training puzzle is a group of itself and
    up to so many puzzles of the same solution and kind (tasks/variants.py), and `beyond` so many puzzles that no single
    assumption solves join the training rows, made from their solution grids; with `harden` then join beside each the most
    open puzzles of its solution, four at most, met in a walk of so many steps: more than the source's rows, settings to be
    named beside every result. All take minutes; `progress` is told of them. hashes.json keeps what was asked for.
    """
    built = deciding(locals())
    refuse_to_replace(Path(out), overwrite)
    task = known_task(task).for_cells((size or DEFAULT_SIDE[task]) ** 2)
    if min_path is not None and (task.name != "maze" or source != "generate"):
        raise ValueError(f"--min-path {min_path}: only for mazes by --source generate")
    if variants and (task.name != "sudoku" or num_aug):
        raise ValueError(f"--variants {variants}: " + ("not together with --num-aug" if num_aug else "only for Sudoku"))
    for option, asked in (("beyond", beyond), ("harden", harden)):
        if asked and task.name != "sudoku":
            raise ValueError(f"--{option} {asked}: only for Sudoku")
    made = {} if min_path is None else {"min_path": min_path}
    rng = np.random.Generator(np.random.Philox(seed))
    pools = source_pools(source, task, rng, subsample, val, test_source, made)
    if val_source:
        pools = dataclasses.replace(pools, val=read_csv(val_source))
    task = pools.task
    if size and task.seq_len != size**2:
        raise ValueError(f"--size {size}: {source} has puzzles of {task.seq_len} cells")
    train = pools.train
    if min_rating is not None:
        train = [row for row in train if row.rating >= min_rating]
        if not train:
            raise ValueError(f"--min-rating {min_rating}: no row is that hard")
    order = rng.permutation(len(train))
    if subsample is not None and subsample > len(train):
        raise ValueError(
            f"--subsample {subsample}: the source has only {len(train)} rows"
            + (" of that rating" if min_rating else "")
        )
    chosen = np.sort(order[: subsample or len(train)])
    spare = [train[k] for k in order[len(chosen) :]]
    picked = [train[k] for k in chosen]

    wanted = val if val is not None else min(256, len(picked) // 10)
    in_train = orbit_keys(task, picked)
    spare = apart(task, spare, in_train)
    if pools.test:  # given whole; validation keeps clear of it
        test = pools.test
        val_rows = apart(task, pools.val or spare, in_train | orbit_keys(task, test))[:wanted]
    else:  # cut from what is left over
        val_rows = (apart(task, pools.val, in_train) if val_source else spare)[:wanted]
        test = apart(task, spare if val_source else spare[wanted:], orbit_keys(task, val_rows))
    if val is not None and len(val_rows) < val:
        raise ValueError(
            f"--val {val}: only {len(val_rows)} rows are left over whose solution grids are not in train or test"
        )

    puzzles, answers = checked_grids(picked, task)
    if beyond:
        puzzles, answers = with_beyond(
            task, puzzles, answers, beyond, seed, orbit_keys(task, val_rows + test), progress
        )
    if harden:
        puzzles, answers = with_harder(task, puzzles, answers, harden, seed, progress)
    if variants:
        splits = {"train": varied_split(task, puzzles, answers, variants, seed, progress)}
    else:
        splits = {"train": augmented_split(task, puzzles, answers, num_aug, seed)}
    for name, rows in (("val", val_rows), ("test", test)):
        if rows:
            splits[name] = split_from_rows(rows, task)
    counts = {"train": len(puzzles), "val": len(val_rows), "test": len(test)}
    return write_dataset(Path(out), splits, counts, overwrite, built)


@dataclass(frozen=True)
class Pools:
    """Rows to draw from; val and test are empty where the source has none of its own."""

    task: Task
    train: list[Row]
    val: list[Row]
    test: list[Row]


def source_pools(
    source: str,
    task: Task,
    rng: np.random.Generator,
    subsample: int | None,
    val: int | None,
    test_source: str | None,
    made: dict[str, int],
) -> Pools:
    given_test = read_csv(test_source) if test_source else []
    if source == "generate":
        count = subsample or 1000
        spare = val if val is not None else min(256, count // 10)
        rows = distinct_puzzles(task, rng, count + spare + (0 if given_test else count), made)
        return Pools(task, rows[:count], rows[count : count + spare], given_test or rows[count + spare :])
    if source == "hf":
        train, test = (given_test if k and given_test else read_csv(from_hub(task, f)) for k, f in enumerate(HUB_FILES))
        return Pools(task, train, [], test)
    if source in BUILTIN and not Path(source).exists():
        builtin_task = BUILTIN[source][1]
        if builtin_task.name != task.name:
            raise ValueError(f"--source {source}: a set of {builtin_task.name}, not {task.name}")
        train, own_val, test = (built_in_rows(source, split) for split in SPLITS)
        return Pools(builtin_task, train, own_val, given_test or test)
    if not Path(source).is_file():
        raise ValueError(
            f"--source {source}: no such file; else 'hf', 'generate' or a built-in set ({', '.join(BUILTIN)})"
        )
    return Pools(task, read_csv(source), [], given_test)


def distinct_puzzles(task: Task, rng: np.random.Generator, count: int, made: dict[str, int]) -> list[Row]:
    """Puzzles generated as `made` says, no two with one solution up to symmetry where the size has enough of them."""
    seen: set[int] = set()
    rows: list[Row] = []
    puzzles = task.generate_many(rng, **made)
    while len(rows) < count:
        puzzle, solution = next(puzzles)
        key = task.same_orbit_key(solution)
        if key in seen and not task.scarce:
            continue
        seen.add(key)
        rows.append(Row("hrm-generated", task.format(puzzle), task.format(solution), task.rate(puzzle)))
    return rows


def from_hub(task: Task, file: str) -> str:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise ValueError(
            "--source hf needs the extra: pip install 'hrm-torch[hub]'; or give --source FILE.csv"
        ) from None
    try:
        return hf_hub_download(HUB_SETS[task.name], file, repo_type="dataset")
    except Exception as error:  # the hub's client raises many kinds; the user needs the way around
        raise ValueError(
            f"--source hf: {file} cannot be had ({type(error).__name__}); give --source FILE.csv"
        ) from None


def orbit_keys(task: Task, rows: list[Row]) -> set[int]:
    return {task.same_orbit_key(row.grid(task, "answer")) for row in rows}


def apart(task: Task, rows: list[Row], taken: set[int]) -> list[Row]:
    """Rows whose solution grid is not among `taken`, up to symmetry; small sizes have too few grids and pass."""
    if task.scarce:
        return rows
    return [row for row in rows if task.same_orbit_key(row.grid(task, "answer")) not in taken]


def augmented_split(task: Task, puzzles: np.ndarray, answers: np.ndarray, num_aug: int, seed: int) -> Split:
    """Each puzzle as a group of itself and `num_aug` random symmetries of it, as the reference writes them."""
    if not num_aug:
        return split_of_grids(task, puzzles, answers, groups=np.ones(len(puzzles), int))
    import torch

    generator = torch.Generator().manual_seed(stream_seed(seed, AUGMENTATION))
    copies = [(puzzles, answers)]
    tokens = [torch.from_numpy(task.encode(grids)) for grids in (puzzles, answers)]
    for _ in range(num_aug):
        turned = task.augment(*tokens, generator)
        copies.append(tuple(task.decode(t.numpy()) for t in turned))
    width = num_aug + 1
    together = [np.stack([copy[side] for copy in copies], 1).reshape(-1, task.seq_len) for side in (0, 1)]
    return split_of_grids(task, *together, groups=np.full(len(puzzles), width))


def with_beyond(
    task: Sudoku,
    puzzles: np.ndarray,
    answers: np.ndarray,
    wanted: int,
    seed: int,
    kept_out: set[int],
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray]:
    """Puzzles and answers with `wanted` more beyond single assumptions; fewer by those whose orbit is in `kept_out`."""
    make = numba_task(f"--beyond {wanted}").beyond
    made, solved = make(task, answers, wanted, stream_seed(seed, BEYOND, 0), progress)
    apart = [task.same_orbit_key(answer) not in kept_out for answer in solved]
    return np.concatenate((puzzles, made[apart])), np.concatenate((answers, solved[apart]))


def with_harder(
    task: Sudoku, puzzles: np.ndarray, answers: np.ndarray, steps: int, seed: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Puzzles and answers, then for each the harder puzzles of the same solution that its walk met."""
    seeds = [stream_seed(seed, HARDER, row) for row in range(len(puzzles))]
    found = numba_task(f"--harden {steps}").harder(task, puzzles, answers, steps, seeds, progress)
    return np.concatenate((puzzles, *found)), np.concatenate((answers, np.repeat(answers, [*map(len, found)], 0)))


def varied_split(
    task: Sudoku, puzzles: np.ndarray, answers: np.ndarray, wanted: int, seed: int, progress: Progress
) -> Split:
    """Each puzzle as a group of itself and up to `wanted` variants of it."""
    seeds = [stream_seed(seed, VARIANTS, row) for row in range(len(puzzles))]
    groups = numba_task(f"--variants {wanted}").variants(task, puzzles, answers, wanted, seeds, progress)
    widths = np.array([len(group) for group in groups])
    return split_of_grids(task, np.concatenate(groups), np.repeat(answers, widths, 0), groups=widths)


def numba_task(asked: str) -> ModuleType:
    """tasks/variants.py, which needs an extra."""
    try:
        from .tasks import variants
    except ImportError:
        raise ValueError(f"{asked} needs the extra: pip install 'hrm-torch[variants]'") from None
    return variants


def deciding(arguments: dict) -> dict:
    """Of a builder's arguments those that decide what it writes, for the record."""
    kept = {name: value for name, value in arguments.items() if name not in ("out", "overwrite", "progress")}
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}


def refuse_to_replace(out: Path, overwrite: bool) -> None:
    """Raise ValueError where something stands that `overwrite` does not allow to replace, or that is no data set of ours."""
    ours = (out / "hashes.json").is_file()
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not (overwrite and ours):
        raise ValueError(
            f"{out} exists: "
            + ("replace it with --overwrite" if ours else "it is no data set of ours; choose another --out")
        )


def write_dataset(
    out: Path,
    splits: dict[str, Split],
    counts: dict[str, int],
    overwrite: bool,
    built: dict,
    identifiers: list[str] = ("<blank>",),
) -> Report:
    """Write splits aside and rename; hashes.json says what they were built from (`built`)."""
    refuse_to_replace(out, overwrite)
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    for name, split in splits.items():
        (aside / name).mkdir(parents=True)
        write_json(aside / name / "dataset.json", split.metadata.model_dump())
        for field in (*FIELDS, *(TABLE_FIELDS if split.table is not None else ())):
            np.save(aside / name / f"all__{field}.npy", np.ascontiguousarray(getattr(split, field)))
    write_json(aside / "identifiers.json", list(identifiers))
    files = sorted(str(path.relative_to(aside)) for path in aside.rglob("*") if path.is_file())
    sums = {file: hashlib.sha256((aside / file).read_bytes()).hexdigest() for file in files}
    total = hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()
    write_json(aside / "hashes.json", {"files": sums, "sha256": total, "built": built})
    if out.exists():
        shutil.rmtree(out)
    os.replace(aside, out)
    load_split.cache_clear()
    return Report(out, {name: count for name, count in counts.items() if count}, total)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, sort_keys=True))


# --- sampling ---------------------------------------------------------------------------------------------------------

EPOCH, AUGMENTATION, TABLE, VARIANTS, BEYOND, HARDER = 1, 2, 3, 4, 5, 6  # streams of random numbers


def stream_seed(*parts: int) -> int:
    """A 63-bit seed mixed from integers (splitmix64's finaliser, chained): near parts give unrelated seeds."""
    mask = (1 << 64) - 1
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state + (part & mask) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1


class DeviceSampler:
    """Batches drawn and augmented on the device; batch k is a pure function of (seed, k, rank).

    An epoch visits the groups in random order, takes one random puzzle of each and all its examples in random order
    (the reference's puzzle_dataset.py); epochs follow one another, and global batch k is the k-th slice of them. All
    puzzles of a group must have equally many examples, as in every set the references build.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: str = "cpu",
        augment: "Callable | None" = None,
    ):
        import torch

        sizes = np.diff(split.puzzle_indices)
        firsts = sizes[split.group_indices[:-1]]
        if (np.repeat(firsts, np.diff(split.group_indices)) != sizes).any():
            raise ValueError(
                "data set: a group has puzzles with different numbers of examples; rebuild it with equal ones"
            )
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.augment, self.device = augment, device
        self.examples_per_epoch = int(firsts.sum())

        def put(array: np.ndarray) -> "torch.Tensor":
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.inputs, self.labels = put(split.inputs), put(split.labels)
        self.ignore = split.metadata.ignore_label_id
        self.identifiers = put(split.puzzle_identifiers)
        self.puzzle_starts = put(split.puzzle_indices[:-1].astype(np.int64))
        self.group_starts = put(split.group_indices[:-1].astype(np.int64))
        self.group_widths = put(np.diff(split.group_indices).astype(np.int64))
        self.group_sizes = put(firsts.astype(np.int64))  # examples that a visit to the group yields
        self.table = None if split.table is None else put(split.table)
        if self.table is not None:
            self.table_starts = put(split.table_indices[:-1].astype(np.int64))
            self.table_widths = put(np.diff(split.table_indices).astype(np.int64))
        self.epochs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def batch(self, k: int) -> "dict[str, torch.Tensor]":
        """Batch k of this rank: inputs and labels (b, S) and puzzle_identifiers (b,), int32; ignored labels are -100."""
        import torch

        from .losses import IGNORE

        start = (k * self.world_size + self.rank) * self.batch_size
        pieces = []
        while start < (k * self.world_size + self.rank + 1) * self.batch_size:
            epoch, offset = divmod(start, self.examples_per_epoch)
            stop = min(
                self.examples_per_epoch, offset + (k * self.world_size + self.rank + 1) * self.batch_size - start
            )
            pieces.append([column[offset:stop] for column in self._epoch(epoch)])
            start += stop - offset
        rows, puzzles = (torch.cat(column) for column in zip(*pieces, strict=True))
        inputs, labels = self.inputs[rows].to(torch.int32), self.labels[rows].to(torch.int32)
        identifiers = self.identifiers[puzzles]
        if self.table is not None:
            inputs, labels, identifiers = self._varied(k, puzzles, inputs, labels, identifiers)
        if self.ignore is not None:
            labels = labels.masked_fill(labels == self.ignore, IGNORE)
        if self.augment:
            generator = torch.Generator(self.device)
            generator.manual_seed(stream_seed(self.seed, AUGMENTATION, k, self.rank))
            inputs, labels = self.augment(inputs, labels, generator)
        return {"inputs": inputs, "labels": labels, "puzzle_identifiers": identifiers}

    def _varied(self, k: int, puzzles: Any, inputs: Any, labels: Any, identifiers: Any) -> tuple[Any, Any, Any]:
        """Each example under a random row of its puzzle's table, and, but for one in three, anywhere on the canvas."""
        import torch

        from .tasks.arc import canvases, extent

        generator = torch.Generator(self.device).manual_seed(stream_seed(self.seed, TABLE, k, self.rank))
        draw = torch.rand((4, len(puzzles)), generator=generator, device=self.device)
        chosen = (draw[0] * self.table_widths[puzzles]).long()
        rows = self.table[self.table_starts[puzzles] + chosen]
        room = math.isqrt(inputs.shape[1]) - torch.maximum(extent(inputs, rows), extent(labels, rows))  # (b, 2)
        corner = (draw[1:3].T * (room + 1)).long() * (draw[3] > 1 / 3)[:, None]
        varied = (canvases(tokens, rows, corner) for tokens in (inputs, labels))
        return *varied, identifiers + chosen.to(identifiers.dtype)

    def _epoch(self, epoch: int) -> "tuple[torch.Tensor, torch.Tensor]":
        """(row, puzzle) of every example of an epoch, in its order. The last few epochs are kept."""
        import torch

        if epoch not in self.epochs:
            generator = torch.Generator(self.device)
            generator.manual_seed(stream_seed(self.seed, EPOCH, epoch))
            groups = len(self.group_starts)
            order = torch.randperm(groups, generator=generator, device=self.device)
            pick = torch.rand(groups, generator=generator, device=self.device)
            shuffle = torch.rand(self.examples_per_epoch, generator=generator, device=self.device)
            puzzles = (self.group_starts + (pick * self.group_widths).long().clamp(max=self.group_widths - 1))[order]
            sizes = self.group_sizes[order]
            spread = {"output_size": self.examples_per_epoch}  # else it is read back from the device
            visit = torch.repeat_interleave(torch.arange(groups, device=self.device), sizes, **spread)
            # sort by visit, then at random inside it: examples of a puzzle stay together, shuffled
            shuffled = shuffle.argsort()
            ranks = shuffled[visit[shuffled].argsort(stable=True)]
            within = ranks - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes, **spread)
            puzzle = puzzles[visit]
            for old in [e for e in self.epochs if abs(e - epoch) > 4]:
                del self.epochs[old]
            self.epochs[epoch] = (self.puzzle_starts[puzzle] + within, puzzle)
        return self.epochs[epoch]
