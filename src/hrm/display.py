"""What the terminal shows: boards with the model's certainty, the trace of a solve, progress of a run or a data set.

On a terminal things move; elsewhere the same facts come as plain lines.
"""

import sys
import time
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from .answers import Solution, Thought
from .tasks import Task
from .tasks.maze import FREE, GOAL, PATH, START, WALL, Maze
from .tasks.sudoku import Sudoku
from .tasks.text import Text as Line

SURE, LIKELY = 0.95, 0.6
"""Certainty from which a cell counts as settled, or as likely."""


PLAIN_SECONDS = 5
"""Off a terminal, progress is printed no more often than this; of a training run metrics.jsonl has it all."""
LONGEST_PAUSE, SHORTEST_PAUSE = 0.12, 0.02
"""Seconds that a watched segment stands; the longer a search, the shorter."""
SILENT_SECONDS = 1
"""On one, an answer that takes longer is said to be on its way."""


def sudoku_board(task: Sudoku, given: np.ndarray, cells: np.ndarray, certainty: np.ndarray | None = None) -> Text:
    """A board: givens bold, the model's cells green, yellow or red by certainty; a given that was changed is reversed."""
    n, rows, cols = task.size, task.box_rows, task.box_cols
    rule = "─" * (2 * cols + 1)
    lines = Text(overflow="ignore")
    lines.append("┌" + "┬".join([rule] * (n // cols)) + "┐\n", "dim")
    for r in range(n):
        if r and r % rows == 0:
            lines.append("├" + "┼".join([rule] * (n // cols)) + "┤\n", "dim")
        for c in range(n):
            if c % cols == 0:
                lines.append("│ ", "dim")
            k = r * n + c
            sure = 1.0 if certainty is None else certainty[k]
            style = "green" if sure >= SURE else "yellow" if sure >= LIKELY else "red"
            if given[k]:
                style = "bold" if given[k] == cells[k] else "bold reverse red"
            lines.append("· " if not cells[k] else task.symbols[cells[k] - 1] + " ", style)
        lines.append("│\n", "dim")
    lines.append("└" + "┴".join([rule] * (n // cols)) + "┘", "dim")
    return lines


def maze_board(task: Maze, given: np.ndarray, cells: np.ndarray, certainty: np.ndarray | None = None) -> Text:
    """A maze, two columns a cell: the path green, yellow or red by certainty, and whatever given cell was changed red."""
    lines = Text(overflow="ignore")
    for k, cell in enumerate(cells.tolist()):
        if k and k % task.columns == 0:
            lines.append("\n")
        sure = 1.0 if certainty is None else certainty[k]
        if cell != given[k] and (cell != PATH or given[k] != FREE):
            lines.append("××", "bold reverse red")
        elif cell == PATH:
            lines.append("██", "green" if sure >= SURE else "yellow" if sure >= LIKELY else "red")
        elif cell in (START, GOAL):
            lines.append("S " if cell == START else "G ", "bold reverse green")
        else:
            lines.append("▒▒" if cell == WALL else "  ", "dim")
    return lines


def text_line(task: Line, given: np.ndarray, cells: np.ndarray, certainty: np.ndarray | None = None) -> Text:
    """An answer of one line, its characters green, yellow or red by certainty, under the question."""
    lines = Text(task.format(given) + "\n", "bold")
    for k, char in enumerate(task.format(cells)):
        sure = 1.0 if certainty is None else certainty[k]
        lines.append(char, "green" if sure >= SURE else "yellow" if sure >= LIKELY else "red")
    return lines


ARC_COLOURS = "#000000 #1e93ff #f93c31 #4fcc30 #ffdc00 #999999 #e53aa3 #ff851b #87d8f1 #921231".split()
"""The ARC Prize's own, colour 0 to 9."""


def arc_grid(grid: np.ndarray, plain: bool) -> Text:
    """A grid, two columns a cell: coloured, or as digits where there are no colours."""
    if not grid.size:
        return Text("no grid", "dim")
    lines = Text()
    for number, row in enumerate(grid.tolist()):
        lines.append("\n" * (number > 0))
        for cell in row:
            lines.append(f"{cell} " if plain else "  ", "" if plain else f"on {ARC_COLOURS[cell]}")
    return lines


def arc_row(entries: list[tuple[str, np.ndarray]], console: Console) -> Table:
    """Grids, each under its words: beside each other, or below where they are wider than the console."""
    plain = console.no_color or console.color_system is None
    blocks = [Group(Text(words, "dim"), arc_grid(grid, plain), "") for words, grid in entries]
    beside = sum(3 + max(len(words), 2 * grid.shape[1]) for words, grid in entries) <= console.width
    table = Table.grid(padding=(0, 3, 0, 0))
    for row in [blocks] if beside else [[block] for block in blocks]:
        table.add_row(*row)
    return table


def board(task: Task, given: np.ndarray, cells: np.ndarray, certainty: np.ndarray | None = None) -> Text:
    """The drawing of a grid: what was given, and what a model made of it, by certainty (S,)."""
    draw = {"sudoku": sudoku_board, "maze": maze_board, "text": text_line}[task.name]
    return draw(task, given, cells, certainty)


def marks_board(task: Sudoku, given: np.ndarray, marks: np.ndarray) -> Text:
    """The same board with every value that still stands in a cell, `marks` (cells, values): a player's pencil marks.

    Givens are bold, cells with one value left green, the others yellow; columns are as wide as their fullest cell.
    """
    n, rows, cols = task.size, task.box_rows, task.box_cols
    words = ["".join(task.symbols[v] for v in np.flatnonzero(cell)) for cell in marks]
    widths = [max(len(words[r * n + c]) for r in range(n)) for c in range(n)]
    rules = ["─" * (sum(widths[b : b + cols]) + cols + 1) for b in range(0, n, cols)]
    lines = Text(overflow="ignore")
    lines.append("┌" + "┬".join(rules) + "┐\n", "dim")
    for r in range(n):
        if r and r % rows == 0:
            lines.append("├" + "┼".join(rules) + "┤\n", "dim")
        for c in range(n):
            if c % cols == 0:
                lines.append("│ ", "dim")
            k = r * n + c
            style = "bold" if given[k] else "green" if len(words[k]) == 1 else "yellow"
            lines.append(words[k].center(widths[c]) + " ", style)
        lines.append("│\n", "dim")
    lines.append("└" + "┴".join(rules) + "┘", "dim")
    return lines


def meter(share: float, width: int = 20) -> str:
    filled = round(max(0.0, min(1.0, share)) * width)
    return "█" * filled + "░" * (width - filled)


def mind(task: Task, given: np.ndarray, thought: Thought, longest: int) -> Panel:
    """The board after a segment, with how sure the model is and how much its carry still moves."""
    settled = float((thought.certainty >= SURE).mean())
    moved = ("z_H moved  ", "ruled out  ")[thought.candidates is not None]
    facts = Text.assemble(
        (f"cells sure  {meter(settled)} {settled:4.0%}\n", "green"),
        (f"confidence  {meter(thought.confidence)} {thought.confidence:4.0%}\n", "cyan"),
        (f"{moved} {meter(min(1.0, thought.residual))} {thought.residual:.3f}", "magenta"),
    )
    if thought.candidates is None:
        drawn = board(task, given, task.decode(thought.tokens), thought.certainty)
        title = f"segment {thought.segment} of at most {longest}"
    else:
        drawn = marks_board(task, given, thought.candidates[:, -task.size :])
        title = f"pass {thought.look + 1}, segment {thought.segment}"
    return Panel(Group(facts, drawn), title=title + ("  halted" if thought.halted else ""), expand=False)


class Watcher:
    """Draws every segment of a solve: in place on a terminal, one plain line a segment elsewhere."""

    def __init__(self, console: Console, task: Task, given: np.ndarray, longest: int, pause: float = LONGEST_PAUSE):
        self.console, self.task, self.given, self.longest, self.pause = console, task, given, longest, pause
        self.drawing = 0.0
        """Seconds that went into showing, not solving."""
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> "Watcher":
        if self.live:
            self.live.start()
        return self

    def __call__(self, thought: Thought) -> None:
        if self.live:
            started = time.perf_counter()
            self.live.update(mind(self.task, self.given, thought, self.longest), refresh=True)
            time.sleep(self.pause)
            self.pause = min(self.pause, max(SHORTEST_PAUSE, 0.98 * self.pause))
            self.drawing += time.perf_counter() - started
            return
        settled = int((thought.certainty >= SURE).sum())
        words = f"{settled:2d} of {len(self.given)} cells sure, confidence {thought.confidence:.2f}, "
        if thought.candidates is None:
            words += f"z_H moved {thought.residual:.3f}"
        else:
            open_ = thought.candidates.sum(-1)
            words = words.replace(f" of {len(self.given)}", "")
            words = f"pass {thought.look + 1}, {words}{open_[open_ > 1].sum()} marks in {(open_ > 1).sum()} open cells"
        self.console.print(f"segment {thought.segment:3d}: {words}")

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.stop()


class Waiting:
    """On a terminal one line that says how far a long solve is, gone when it ends; elsewhere nothing."""

    drawing = 0.0

    def __init__(self, console: Console):
        self.status = console.status("") if console.is_terminal else None
        self.shown_from = time.monotonic() + SILENT_SECONDS

    def __enter__(self) -> "Waiting":
        return self

    def __call__(self, thought: Thought) -> None:
        if self.status and time.monotonic() > self.shown_from:
            self.status.update(f"pass {thought.look + 1}, segment {thought.segment}")
            self.status.start()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.status:
            self.status.stop()


def answer_board(task: Task, given: np.ndarray, solution: Solution) -> Text:
    """The board of an answered puzzle, coloured by the certainty of the thought that it came from."""
    cells = task.parse(solution.answer)
    came_from = next((t for t in reversed(solution.trace) if np.array_equal(task.decode(t.tokens), cells)), None)
    return board(task, given, cells, came_from and came_from.certainty)


def verdict(solution: Solution, seconds: float) -> Text:
    """One line about an answered puzzle."""
    looks = f"{solution.passes} passes, " if solution.passes > 1 else ""
    effort = f"{looks}{solution.segments} segment{'s' * (solution.segments != 1)}, {seconds:.2f} s"
    effort = f"({effort}, confidence {solution.confidence:.2f})"
    if solution.verified is None:
        return Text(f"answered; no rules are known to check it by {effort}", "bold")
    if solution.verified:
        return Text(f"solved and checked by the rules {effort}", "bold green")
    return Text(f"not solved: {solution.fault} {effort}", "bold red")


class TrainingProgress:
    """Shows a training run: a bar with loss, exact accuracy, speed and time left, or plain lines off a terminal."""

    def __init__(self, console: Console, quiet: bool = False):
        self.console, self.quiet = console, quiet
        self.bar: Progress | None = None
        self.next_line = 0.0

    def start(self, step: int, total: int) -> None:
        """Called when the run is set up, before its first step."""
        self.total = total
        if self.console.is_terminal and not self.quiet:
            self.bar = Progress(
                TextColumn("[bold]training"),
                BarColumn(30),
                TaskProgressColumn(),
                TextColumn("step {task.completed}/{task.total}"),
                TextColumn("loss [cyan]{task.fields[loss]}"),
                TextColumn("exact [green]{task.fields[exact]}"),
                TextColumn("unseen [green]{task.fields[unseen]}"),
                TextColumn("{task.fields[speed]} steps/s"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task("", total=total, completed=step, loss="-", exact="-", unseen="-", speed="-")
            self.bar.start()

    def __call__(self, step: int, metrics: dict[str, Any]) -> None:
        if self.quiet:
            return
        shown = {}
        if "train/lm_loss" in metrics:
            shown["loss"] = f"{metrics['train/lm_loss']:.3f}"
            if "train/exact_accuracy" in metrics:
                shown["exact"] = f"{metrics['train/exact_accuracy']:.1%}"
            shown["speed"] = f"{metrics['steps_per_second']:.1f}"
        for name in ("eval", "test"):
            if f"{name}/exact_accuracy" in metrics:
                shown["unseen"] = f"{metrics[f'{name}/exact_accuracy']:.1%}"
        if self.bar:
            self.bar.update(self.task, completed=step, **shown)
        elif "train/lm_loss" not in metrics or time.monotonic() > self.next_line:
            self.next_line = time.monotonic() + PLAIN_SECONDS
            words = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in metrics.items())
            print(f"step {step}/{self.total}  {words}", flush=True)

    def stop(self) -> None:
        if self.bar:
            self.bar.stop()


class BuildProgress:
    """Shows on standard error how far the making of a data set is: a bar, or a line now and then off a terminal."""

    def __init__(self):
        self.console = Console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn()
        self.bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.tasks: dict[str, TaskID] = {}
        self.next_line = time.monotonic() + PLAIN_SECONDS

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self.tasks:
            self.tasks[what] = self.bar.add_task(what, total=total)
            self.bar.start()
        self.bar.update(self.tasks[what], completed=done)
        if self.bar.disable and time.monotonic() > self.next_line:
            self.next_line = time.monotonic() + PLAIN_SECONDS
            print(f"{done:,} of {total:,} {what}", file=sys.stderr, flush=True)

    def stop(self) -> None:
        self.bar.stop()
