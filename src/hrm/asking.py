"""Puzzles as a user hands them over: typed, in a file or on standard input.

A file or a stream holds one a line, JSON lines or CSV with a column `question` or `puzzle`; a file also drawn grids parted by
blank lines. Puzzles come with the number of the line that they stand on, in groups that can be answered at once.
"""

import codecs
import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

from .data import file_text
from .tasks import Task
from .tasks.text import Text

Numbered = list[tuple[int, str]]
"""Lines, or puzzles, and the numbers of their lines."""
FILES = (".txt", ".csv", ".json", ".jsonl", ".gz")
"""What ends so names a file, whether or not it exists."""
TYPED = "puzzle"
"""The name of a puzzle that is the argument itself."""


@dataclass(frozen=True)
class Asked:
    """What is to be solved."""

    name: str
    """What messages call it."""
    cells: int | None
    """Of its first puzzle, where weights of another size could take that."""
    groups: Callable[[Task], Iterator[Numbered]]
    """The puzzles for a task, as they come, some of them Unasked; ValueError where a file holds none."""
    shown: Callable[[Task], bool] = lambda task: False
    """Whether it is one grid that a person typed or drew, who wants to see it drawn."""

    def only(self, task: Task) -> str:
        """The one puzzle; ValueError where there are others."""
        (group,) = self.groups(task)
        if len(group) != 1:
            raise ValueError(f"{self.name}: {len(group)} puzzles in it; --watch and --png take one")
        return group[0][1]


def asked(argument: str, kind: type[Task]) -> Asked:
    """What an argument of `hrm solve` means: `-`, a file's name or a puzzle. ValueError for a file that cannot be read."""
    if argument == "-":
        return asked_on_stdin(kind)
    named = "/" in argument and kind is not Text  # whose questions may hold one
    if named or Path(argument).suffix in FILES or os.path.exists(argument):
        text = file_text(argument)
        return asked_in(text, kind, argument)
    return Asked(TYPED, kind.cells_of(argument), lambda task: iter([[(1, argument)]]), lambda task: True)


def asked_in(text: str, kind: type[Task], name: str) -> Asked:
    """The puzzles of a text, of the file of that name."""

    @cache
    def puzzles(task: Task) -> Numbered:
        return puzzles_in(text, task, name)

    def shown(task: Task) -> bool:
        return len(puzzles(task)) == 1 and "\n" in puzzles(task)[0][1].strip()

    return Asked(name, cells_in(text, kind), lambda task: iter([puzzles(task)]), shown)


def asked_on_stdin(kind: type[Task]) -> Asked:
    """Waits for the first lines, which tell the form and the size of the rest; where they draw a grid, for all."""
    if sys.stdin is None:
        raise ValueError("standard input is closed")
    lines, first = lines_as_they_come(sys.stdin.fileno(), kind.tidy), []
    begun: Numbered = []
    while not first and (group := next(lines, [])):
        begun += group
        first = filled(group)
    header, puzzle_of = form_of(first[0][1]) if first else (None, puzzle_of_record)
    if first and header is None and kind.is_drawn_row(first[0][1]):
        text = "\n".join(line for _, line in chain(begun, chain.from_iterable(lines)))
        return asked_in(text, kind, "standard input")
    if not first[header:]:
        first += filled(next(lines, []))

    def groups(task: Task) -> Iterator[Numbered]:
        for group in chain([first[header:]], map(filled, lines)):
            yield [(number, puzzle_of(line)) for number, line in group]

    return Asked("standard input", cells_in("\n".join(line for _, line in first), kind), groups)


def filled(lines: Numbered) -> Numbered:
    return [(number, line) for number, line in lines if line.strip()]


def cells_in(text: str, kind: type[Task]) -> int | None:
    """Cells of the first puzzle in a text, where weights of another size could take it."""
    lines = [line for line in map(kind.tidy, text.splitlines()) if line]
    if not lines:
        return None
    header, puzzle_of = form_of(lines[0])
    if header is not None:
        asking = (puzzle for puzzle in map(puzzle_of, lines[header:]) if not isinstance(puzzle, Unasked))
        return next(map(kind.cells_of, asking), None)
    return kind.cells_of(text)


def puzzles_in(text: str, task: Task, name: str) -> Numbered:
    """Every puzzle in the text of a file of that name."""
    lines = [(number, task.tidy(line)) for number, line in enumerate(text.splitlines(), 1)]
    kept = [(number, line) for number, line in lines if line]
    header, puzzle_of = form_of(kept[0][1]) if kept else (None, puzzle_of_record)
    if not kept[header:]:
        raise ValueError(f"{name}: no puzzles in it")
    if header is not None or any(task.is_puzzle(line) for _, line in kept):
        return [(number, puzzle_of(line)) for number, line in kept[header:]]
    if len(lines) ** 2 == task.seq_len and len(lines) == max(len(line) for _, line in lines):
        return [(1, "".join(f"{line}\n" for _, line in lines))]  # one drawn, whose empty lines are rows
    grids: Numbered = []  # drawn
    fresh = True
    for number, line in lines:
        if not line:
            fresh = True
        elif fresh:
            grids.append((number, line))
            fresh = False
        else:
            grids[-1] = (grids[-1][0], grids[-1][1] + "\n" + line)
    return grids


def form_of(first: str) -> tuple[int | None, Callable[[str], str]]:
    """How many lines the first line makes a header of, None where it is a puzzle itself, or a row of one drawn; and what finds
    the puzzle in those that follow it."""
    if first.startswith("{"):
        return 0, puzzle_of_record
    try:
        columns = next(csv.reader([first]))
    except csv.Error:
        return None, puzzle_of_record
    named = [name for name in ("question", "puzzle") if name in columns]
    if not named:
        return None, puzzle_of_record
    place = columns.index(named[0])
    return 1, lambda line: puzzle_of_row(line, place)


def puzzle_of_row(line: str, place: int) -> str:
    try:
        return next(csv.reader([line]))[place]
    except (csv.Error, IndexError):
        return ""


def puzzle_of_record(line: str) -> str:
    """The puzzle of a JSON line; a line that is no JSON object is the puzzle itself."""
    if not line.startswith("{"):
        return line
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return line
    told = [str(record[key]) for key in ("puzzle", "question") if record.get(key) not in (None, "")]
    return told[0] if told else Unasked(line)


class Unasked(str):
    """A JSON line in which no puzzle is found, as it stands."""


def checked(puzzle: str) -> str:
    """A puzzle as it is. Raises ValueError for a line that is Unasked."""
    if isinstance(puzzle, Unasked):
        raise ValueError("no key 'puzzle' or 'question' with a puzzle in it")
    return puzzle


def lines_as_they_come(descriptor: int, tidy: Callable[[str], str]) -> Iterator[Numbered]:
    """Groups of numbered lines: whatever has arrived by the time the last group was dealt with."""
    rest, before, chunk = b"", 0, b"?"
    while chunk:
        chunk = os.read(descriptor, 1 << 16)
        *whole, rest = (rest + chunk).split(b"\n") if chunk else (rest, b"")
        if whole and not before:
            whole[0] = whole[0].removeprefix(codecs.BOM_UTF8)
        if whole:
            yield [(number, tidy(line.decode(errors="replace"))) for number, line in enumerate(whole, before + 1)]
        before += len(whole)
