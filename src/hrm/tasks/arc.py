"""ARC-AGI: tasks of a few input and output grids, read from JSON; tokens, turns, colours, cropping.

A grid is a uint8 array (rows, columns) of colours 0..9, 1 to 30 on a side. Tokens are the reference's: a 30×30 canvas, 0
outside, colour c is c + 2, and 1 marks the end, drawn along the row below and the column right of the grid where the
canvas has them. Smaller canvases serve tasks of small grids; functions read the side off the number of tokens.
"""

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

SIDE = 30
"""Rows and columns of the usual canvas, and the largest grid."""
COLOURS = 10
PAD, END, FIRST = 0, 1, 2
"""Tokens: outside, end marker, colour 0."""
VOCAB = FIRST + COLOURS
TURNS = 8
"""Dihedral transforms: 0..3 quarter turns counter-clockwise, 4 left-right, 5 up-down, 6 transpose, 7 anti-transpose."""
UNDONE = (0, 3, 2, 1, 4, 5, 6, 7)
"""The transform that undoes each transform."""
CHALLENGES = "challenges.json"
"""How the names of Kaggle's files of tasks end."""


@dataclass(frozen=True)
class Pair:
    """An example: input and output; a test whose answer is not known has none."""

    input: np.ndarray
    output: np.ndarray | None


@dataclass(frozen=True)
class ArcTask:
    """A task: its demonstrations, and the inputs that are asked."""

    name: str
    demos: tuple[Pair, ...]
    tests: tuple[Pair, ...]


def turned(grid: np.ndarray, turn: int) -> np.ndarray:
    """A grid (…, R, C) under one of the eight transforms (the reference's `dihedral_transform`)."""
    if turn < 4:
        return np.rot90(grid, turn, (-2, -1))
    if turn < 6:
        return grid[..., ::-1] if turn == 4 else grid[..., ::-1, :]
    flat = np.swapaxes(grid, -2, -1)
    return flat if turn == 6 else flat[..., ::-1, ::-1]


def tokens_of(grid: np.ndarray, row: int = 0, column: int = 0, side: int = SIDE) -> np.ndarray:
    """Canvas tokens (side²,) uint8 of a grid whose top left cell lies at (row, column)."""
    canvas = np.full((side, side), PAD, np.uint8)
    bottom, right = row + grid.shape[0], column + grid.shape[1]
    if max(bottom, right) > side:
        raise ValueError(f"a grid of {grid.shape[0]}x{grid.shape[1]} cells is larger than the canvas, {side}x{side}")
    canvas[row:bottom, column:right] = grid + FIRST
    if bottom < side:
        canvas[bottom, column:right] = END
    if right < side:
        canvas[row:bottom, right] = END
    return canvas.ravel()


def cropped(tokens: np.ndarray) -> np.ndarray:
    """The largest rectangle of colours from the canvas's top left corner, as a grid; of size (0, 0) where there is none.

    tokens: (side²,). (The reference's evaluators/arc.py, `_crop`: the first of the largest areas by number of rows.)
    """
    side = math.isqrt(len(tokens))
    canvas = tokens.reshape(side, side)
    colours = (canvas >= FIRST) & (canvas < VOCAB)
    widths = np.minimum.accumulate(np.where(colours.all(1), side, (~colours).argmax(1)))  # of the rows down to each
    areas = widths * np.arange(1, side + 1)
    rows = int(areas.argmax()) + 1
    columns = int(widths[rows - 1])
    if not columns:
        return np.zeros((0, 0), np.uint8)
    return (canvas[:rows, :columns] - FIRST).astype(np.uint8)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_grid(rows: Any, where: str) -> np.ndarray:
    """A grid from JSON lists. Raises ValueError naming what is wrong with it."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) for row in rows):
        raise ValueError(f"{where}: expected rows of colours, such as [[0, 1], [2, 3]]")
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ValueError(f"{where}: rows of {min(widths)} and of {max(widths)} cells in one grid")
    if not 1 <= len(rows[0]) <= SIDE or len(rows) > SIDE:
        raise ValueError(f"{where}: {len(rows)}x{len(rows[0])} cells, 1x1 to {SIDE}x{SIDE} are allowed")
    for row in rows:
        for cell in row:
            if type(cell) is not int or not 0 <= cell < COLOURS:
                raise ValueError(f"{where}: colour {cell!r}, expected 0 to {COLOURS - 1}")
    return np.array(rows, np.uint8)


def read_task(document: Any, name: str, where: str) -> ArcTask:
    """A task from the JSON of the official files. Raises ValueError naming what is wrong with it."""
    lists = isinstance(document, dict) and all(isinstance(document.get(side) or [], list) for side in ("train", "test"))
    if not lists or "train" not in document:
        raise ValueError(f'{where}: expected {{"train": [{{"input", "output"}}, …], "test": [{{"input"}}, …]}}')
    sides: dict[str, list[Pair]] = {"train": [], "test": []}
    for side, pairs in sides.items():
        for number, pair in enumerate(document.get(side) or []):
            place = f"{where}: {side} {number + 1}"
            answer = pair.get("output") if isinstance(pair, dict) else None
            if not isinstance(pair, dict) or "input" not in pair or (side == "train" and answer is None):
                raise ValueError(f"{place}: needs an input" + (" and an output" if side == "train" else ""))
            output = None if answer is None else read_grid(answer, f"{place} output")
            pairs.append(Pair(read_grid(pair["input"], f"{place} input"), output))
    if not sides["train"]:
        raise ValueError(f"{where}: no demonstrations under 'train'")
    if not sides["test"]:
        raise ValueError(f"{where}: nothing is asked under 'test'")
    return ArcTask(name, tuple(sides["train"]), tuple(sides["test"]))


def document_of(task: ArcTask) -> dict[str, list[dict[str, Any]]]:
    """The JSON of a task, as `read_task` takes it, but that an answer which is not known is [[0]] (as TRM's builder writes)."""

    def lists(pair: Pair) -> dict[str, Any]:
        return {"input": pair.input.tolist(), "output": [[0]] if pair.output is None else pair.output.tolist()}

    return {"train": list(map(lists, task.demos)), "test": list(map(lists, task.tests))}


def read_tasks(source: str | Path) -> dict[str, list[ArcTask]]:
    """Tasks by part ("training", "evaluation", or what the folders are called), sorted by name.

    source: a task's .json, a folder of them or of folders of them, a .zip of such, or Kaggle's
    `…_challenges.json` with its `…_solutions.json` beside it, as a file or in a folder or zip, where nothing but
    these pairs is then read. Raises ValueError naming the file and the remedy.
    """
    path = Path(source)
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    files = {file: content for file, content in json_files(path) if not file.name.startswith("._")}
    parts: dict[str, list[ArcTask]] = {}
    for file in (file for file in files if file.name.endswith(CHALLENGES)):
        part = file.name.removesuffix(CHALLENGES).rstrip("_-").rpartition("_")[2] or file.stem
        parts.setdefault(part, []).extend(kaggle_tasks(file, files))
    if not parts:
        for file, content in files.items():
            parts.setdefault(file.parent.name, []).append(read_task(document_in(content, file), file.stem, str(file)))
    if not parts:
        raise ValueError(f"{path}: no .json tasks in it")
    return {part: sorted(tasks, key=lambda task: task.name) for part, tasks in sorted(parts.items())}


def json_files(path: Path) -> Iterator[tuple[Path, bytes]]:
    """The .json files behind a path by where they lie: itself, with Kaggle's solutions, or all of a folder or zip."""
    if path.suffix == ".zip":
        try:
            with ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    if name.endswith(".json"):
                        yield path / name, archive.read(name)
        except (BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last for encryption and rare methods
            raise ValueError(f"{path}: not a readable zip file: {error}") from None
    elif path.is_file():
        for file in (path, solutions_of(path)) if path.name.endswith(CHALLENGES) else (path,):
            if file.is_file():
                yield file, file.read_bytes()
    else:
        for file in sorted(path.rglob("*.json")):
            yield file, file.read_bytes()


def solutions_of(challenges: Path) -> Path:
    return challenges.with_name(challenges.name.replace("challenges", "solutions"))


def document_in(content: bytes, where: Path) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # the first also for bytes that are no text, and endless numbers
        raise ValueError(f"{where}: not JSON: {error}") from None


def kaggle_tasks(challenges: Path, files: dict[Path, bytes]) -> list[ArcTask]:
    """Tasks of a Kaggle pair; without the solutions file the answers are unknown."""
    beside = solutions_of(challenges)
    documents, answers = (document_in(files.get(file, b"{}"), file) for file in (challenges, beside))
    for file, content in ((challenges, documents), (beside, answers)):
        if not isinstance(content, dict):
            raise ValueError(f"{file}: expected a JSON object of tasks by name")
    tasks = [read_task(documents[name], name, f"{challenges}: {name}") for name in sorted(documents)]
    return [
        answered(task, answers[task.name], f"{beside}: {task.name}") if task.name in answers else task for task in tasks
    ]


def answered(task: ArcTask, outputs: Any, where: str) -> ArcTask:
    """The task with the answers to its tests, from a solutions file."""
    if not isinstance(outputs, list) or len(outputs) != len(task.tests):
        raise ValueError(f"{where}: expected a list of {len(task.tests)} grids, as many as the task's tests")
    known = [read_grid(output, f"{where}: test {k}") for k, output in enumerate(outputs, 1)]
    return replace(task, tests=tuple(Pair(pair.input, output) for pair, output in zip(task.tests, known, strict=True)))


def largest_side(task: ArcTask) -> int:
    """Rows or columns of the task's largest known grid."""
    grids = [grid for pair in (*task.demos, *task.tests) for grid in (pair.input, pair.output) if grid is not None]
    return max(max(grid.shape) for grid in grids)


# --- which tasks are the same -----------------------------------------------------------------------------------------


TRIVIAL_CELLS = 9
"""Examples of so few cells in all can be alike by chance."""


def pair_keys(task: ArcTask) -> set[bytes]:
    """One key for each known example of a task, equal for examples that a turn or a change of colours makes one another;
    small examples apart."""
    known = [pair for pair in (*task.demos, *task.tests) if pair.output is not None]
    return {pair_key(pair) for pair in known if pair.input.size + pair.output.size > TRIVIAL_CELLS}


def pair_key(pair: Pair) -> bytes:
    forms = []
    for turn in range(TURNS):
        grids = [turned(grid, turn) for grid in (pair.input, pair.output)]
        seen: dict[int, int] = {}
        cells = np.concatenate([grid.ravel() for grid in grids])
        renamed = bytes(seen.setdefault(int(cell), len(seen)) for cell in cells)  # colours by first appearance
        forms.append(bytes([*grids[0].shape, *grids[1].shape]) + renamed)
    return min(forms)


def overlap(trained: list[ArcTask], tested: list[ArcTask]) -> list[tuple[str, str]]:
    """All pairs of (trained, tested) task names that share an example, turned or recoloured perhaps (see `pair_keys`)."""
    homes: dict[bytes, list[str]] = {}
    for task in trained:
        for key in pair_keys(task):
            homes.setdefault(key, []).append(task.name)
    shared = {(home, task.name) for task in tested for key in pair_keys(task) for home in homes.get(key, ())}
    return sorted(shared, key=lambda pair: pair[::-1])


# --- augmentation -----------------------------------------------------------------------------------------------------
# A row of the table is (turn, the ten colours' new names): what stands between a task as published and one identifier.

SEPARATOR = "|||"
TRIES = 5
"""An augmentation that gives a task it has already is drawn again, so many times as many draws as are wanted at most."""


def identity() -> np.ndarray:
    return np.array([0, *range(COLOURS)], np.uint8)


def draw_table(task: ArcTask, count: int, rng: np.random.Generator) -> np.ndarray:
    """The task itself and up to `count` augmentations of it that all differ: (1..count + 1, 11) uint8.

    A turn, and a permutation of the colours 1 to 9 (the reference's `aug`); black stays.
    """
    grids = [grid for pair in (*task.demos, *task.tests) for grid in (pair.input, pair.output) if grid is not None]
    flat = [np.concatenate([turned(grid, turn).ravel() for grid in grids]) for turn in range(TURNS)]
    shape = [bytes(size for grid in grids for size in turned(grid, turn).shape) for turn in range(TURNS)]
    rows, seen = [identity()], {shape[0] + flat[0].tobytes()}
    for _ in range(TRIES * count):
        if len(rows) > count:
            break
        turn = int(rng.integers(TURNS))
        row = np.array([turn, 0, *(1 + rng.permutation(COLOURS - 1))], np.uint8)
        key = shape[turn] + row[1:][flat[turn]].tobytes()
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return np.stack(rows)


def identifier(name: str, row: np.ndarray) -> str:
    """The name of a task under a row of the table, as the reference writes it."""
    if (row == identity()).all():
        return name
    return f"{name}{SEPARATOR}t{row[0]}{SEPARATOR}{''.join(map(str, row[1:]))}"


def applied(grid: np.ndarray, row: np.ndarray) -> np.ndarray:
    """A grid (R, C) under a row (11,) of the table."""
    return row[1:][turned(grid, int(row[0]))]


def undone(grid: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The inverse of `applied`."""
    return np.argsort(row[1:]).astype(np.uint8)[turned(grid, UNDONE[row[0]])]


def extent(grids: Any, rows: Any = None) -> Any:
    """Rows and columns (B, 2) of grids in the top left corner of canvases (B, side²), or of them turned by `rows` (B, 11)."""
    import torch

    side = math.isqrt(grids.shape[1])
    board = grids.view(-1, side, side) >= FIRST
    size = torch.stack((board[:, :, 0].sum(1), board[:, 0].sum(1)), 1)
    if rows is None:
        return size
    turn = rows[:, :1].long()
    return torch.where((turn == 1) | (turn == 3) | (turn >= 6), size.flip(1), size)


def canvases(grids: Any, rows: Any, corner: Any) -> Any:
    """Tokens (B, side²) of canvases under rows of the table, on their device.

    grids: (B, side²) token tensors, the grid in the top left corner; rows: (B, 11); corner: (B, 2)
    long, where the top left cell comes to lie. A canvas without any grid stays empty.
    """
    import torch

    side = math.isqrt(grids.shape[1])
    board = grids.view(-1, side, side)
    turn = rows[:, :1, None].long()
    high, wide = extent(grids)[:, :, None, None].unbind(1)  # each (B, 1, 1)
    tall, broad = extent(grids, rows)[:, :, None, None].unbind(1)
    line = torch.arange(side, device=grids.device)
    i, j = line[:, None] - corner[:, :1, None], line - corner[:, 1:, None]  # (B, side, 1) and (B, 1, side)
    i, j = torch.broadcast_tensors(i, j)
    up, left = high - 1, wide - 1
    sources = (  # where cell (i, j) of each turned grid comes from
        (i, j), (j, left - i), (up - i, left - j), (up - j, i), (i, left - j), (up - i, j), (j, i), (up - j, left - i),
    )  # fmt: skip
    y, x = (torch.stack([pair[axis] for pair in sources]) for axis in (0, 1))  # (8, B, side, side)
    chosen = turn.expand_as(i)[None]
    y, x = y.gather(0, chosen)[0], x.gather(0, chosen)[0]
    inside = (i >= 0) & (i < tall) & (j >= 0) & (j < broad)
    found = grids.gather(1, (y * side + x).clamp(0, side * side - 1).flatten(1)).view_as(board)
    colour = (found.long() - FIRST).clamp(min=0)
    renamed = rows[:, 1:].long().gather(1, colour.flatten(1)).view_as(colour) + FIRST
    ends = ((i == tall) & (j >= 0) & (j < broad)) | ((j == broad) & (i >= 0) & (i < tall))
    tokens = torch.where(inside, renamed, torch.where(ends & (tall > 0), END, PAD))
    return tokens.flatten(1).to(grids.dtype)


@dataclass(frozen=True)
class Arc:
    """ARC as the trainer and the reasoner see it: canvases of tokens. What is right, only a label can tell."""

    side: int = SIDE
    name = "arc"
    sound = None
    """No rules to check an answer by."""
    apart_by = "question"
    blank = PAD
    vocab_size = VOCAB
    box = None

    @property
    def seq_len(self) -> int:
        return self.side**2

    @classmethod
    def for_cells(cls, cells: int) -> "Arc":
        """The task by number of cells, 900 as a rule. Raises ValueError for a number that is no square up to that."""
        side = math.isqrt(cells)
        if side * side != cells or not 2 <= side <= SIDE:
            raise ValueError(f"{cells} cells make no ARC canvas: squares up to {SIDE * SIDE}")
        return cls(side)
