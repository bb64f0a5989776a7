"""Data sets: the reference's on-disk layout read and written, CSV, and the sets inside the package.

On disk (readable by sapientinc/HRM and TinyRecursiveModels): `<dir>/<split>/dataset.json` and `all__<field>.npy`, and
`<dir>/identifiers.json`. A group is a puzzle with its augmentations; a puzzle has one or more examples; both indices are
CSR offsets.
"""

import csv
import dataclasses
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, Field, PositiveFloat, ValidationError

from .config import nearest
from .tasks import Task
from .tasks.maze import Maze
from .tasks.sudoku import Sudoku

BUILTIN = {
    "sudoku-hard-1k": (("sudoku_hard",), Sudoku()),
    "sudoku-hard-beyond": (("sudoku_hard", "sudoku_beyond"), Sudoku()),
    "sudoku-6x6-1k": (("sudoku_6x6",), Sudoku(2, 3)),
    "maze-15x15-1k": (("maze_15x15",), Maze(15, 15)),
    "maze-30x30-hard-1k": (("maze_30x30",), Maze()),
}
"""Sets inside the package: name -> (file stems, task). All made by us; no licence question."""

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
    """(N,) int, of a CSV file or a built-in set."""
    sources: np.ndarray | None = None
    """(N,) str, likewise: where each puzzle comes from."""
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
        raise ValueError(f"{path}: not a text file: save it as UTF-8") from None


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
            raise ValueError(
                f"{path}: no column '{missing[0]}': the first line must name the columns question and answer"
            )
        for record in reader:
            where = f"{path} line {reader.line_num}"
            if record["question"] is None or record["answer"] is None:
                raise ValueError(f"{where}: fewer columns than the header")
            rating = record.get("rating") or "0"
            if not re.fullmatch("-?[0-9]{1,18}", rating):
                raise ValueError(f"{where}: rating '{rating}' is not a whole number")
            rows.append(Row(record.get("source") or "", record["question"], record["answer"], int(rating), where))
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num + 1}: not CSV: {error}") from None
    if not rows:
        raise ValueError(f"{path}: no rows")
    return rows


def checked_grids(rows: list[Row], task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Puzzles and answers (N, S) of rows, both held against the rules if any are known. Raises ValueError naming the line."""
    puzzles, answers = (np.stack([row.grid(task, side) for row in rows]) for side in ("question", "answer"))
    wrong = np.flatnonzero(~task.verify_batch(puzzles, answers)) if task.sound else ()
    if len(wrong):
        k = wrong[0]
        if unasked := task.clues_fault(puzzles[k]):
            raise ValueError(f"{rows[k].where}: question is no puzzle: {unasked}")
        raise ValueError(f"{rows[k].where}: answer breaks the rules: {task.fault(puzzles[k], answers[k])}")
    return puzzles, answers


def split_from_rows(rows: list[Row], task: Task) -> Split:
    """A split of single-example puzzles without identifiers, straight from CSV rows."""
    puzzles, answers = checked_grids(rows, task)
    split = split_of_grids(task, puzzles, answers, groups=np.ones(len(rows), int))
    ratings, sources = np.array([row.rating for row in rows]), np.array([row.source for row in rows])
    return dataclasses.replace(split, ratings=ratings, sources=sources)


def split_of_grids(task: Task, puzzles: np.ndarray, answers: np.ndarray, groups: np.ndarray) -> Split:
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
    )


def finished_split(arrays: dict[str, np.ndarray], metadata: Metadata) -> Split:
    digest = hashlib.sha256()
    for name in arrays:
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8))
    return Split(**arrays, metadata=metadata, hash=digest.hexdigest())


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
        raise ValueError(
            f"{path}: neither a data-set folder, which `hrm data build` makes (`hrm recipes` tells how for a recipe's own), "
            f"nor a built-in set{nearest(path, list(BUILTIN))}"
        )
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


def load_rows(path: str, split: str, task: Callable[[int], Task]) -> Split:
    """The rows of a CSV file, whose task is `task` of the cells of its first puzzle, or else a split as of `load_split`."""
    if not Path(path).is_file():
        return load_split(path, split)
    rows = read_csv(path)
    return split_from_rows(rows, task(len(rows[0].question)))


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
    puzzles, starts = parts[0]["puzzle_identifiers"], starts.astype(np.int64)  # of unsigned ones a difference wraps
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


# --- writing -----------------------------------------------------------------------------------------------------------


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
    audit: dict | None = None,
    test_puzzles: dict | None = None,
) -> Report:
    """Write splits aside and rename; hashes.json says what they were built from (`built`), and what was found on the way.

    `test_puzzles`: the asked tasks as JSON, which TRM's evaluator of ARC reads.
    """
    refuse_to_replace(out, overwrite)
    place = out.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent, ignore_cleanup_errors=True) as folder:
        aside = Path(folder, "new")
        for name, split in splits.items():
            (aside / name).mkdir(parents=True)
            write_json(aside / name / "dataset.json", split.metadata.model_dump())
            for field in (*FIELDS, *(TABLE_FIELDS if split.table is not None else ())):
                np.save(aside / name / f"all__{field}.npy", np.ascontiguousarray(getattr(split, field)))
        write_json(aside / "identifiers.json", list(identifiers))
        if test_puzzles:
            write_json(aside / "test_puzzles.json", test_puzzles)
        files = sorted(str(path.relative_to(aside)) for path in aside.rglob("*") if path.is_file())
        sums = {file: hashlib.sha256((aside / file).read_bytes()).hexdigest() for file in files}
        total = hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()
        found = {"audit": audit} if audit else {}
        write_json(aside / "hashes.json", {"files": sums, "sha256": total, "built": built, **found})
        put_in_place(aside, place)
    load_split.cache_clear()
    return Report(out, {name: count for name, count in counts.items() if count}, total)


def put_in_place(new: Path, place: Path) -> None:
    """Rename a folder to `place`; what stands there goes beside where the new one was, to be deleted, or back if that fails."""
    before = new.with_name(new.name + ".before")
    if place.exists():
        os.replace(place, before)
    try:
        os.replace(new, place)
    except BaseException:
        if before.exists():
            os.replace(before, place)
        raise


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, sort_keys=True))
