"""`hrm demo`: solve a hard puzzle with shipped weights, then train a small model from random weights.

Nothing is staged: the puzzle is drawn at random from the harder half of test rows that the weights never saw, and may
defeat them.
"""

import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.rule import Rule

from .config import load_recipe
from .data import load_split
from .display import TrainingProgress, Watcher, answer_board, sudoku_board, verdict
from .reasoner import Reasoner
from .train import train

HARD_SET = "sudoku-hard-1k"
RECIPE = "sudoku-6x6-demo"


def run_demo(seed: int | None, runs: Path) -> int:
    """Both parts and three commands to try; returns the exit code. `seed` None draws one from the clock."""
    seed = time.time_ns() % 2**31 if seed is None else seed
    console = Console(highlight=False)
    solve_a_hard_one(console, seed)
    train_a_small_one(console, seed, runs)
    console.print(Rule("three commands to try next"))
    puzzle = random_row(seed + 1)[1]
    print(f".venv/bin/hrm solve sudoku --watch {puzzle}")
    print(".venv/bin/hrm eval sudoku --data sudoku-hard-1k --limit 200")
    print(f".venv/bin/hrm train {RECIPE} seed=1 run_name=my-first-run")
    return 0


def random_row(seed: int) -> tuple[int, str, int]:
    """A random row of the harder half of the hard test set: its index, its puzzle and its rating."""
    split = load_split(HARD_SET, "test")
    hard = np.flatnonzero(split.ratings >= np.median(split.ratings))
    row = int(np.random.default_rng(seed).choice(hard))
    grid = split.inputs[row].astype(int) - 1
    return row, "".join(str(d) if d else "." for d in grid), int(split.ratings[row])


def solve_a_hard_one(console: Console, seed: int) -> None:
    console.print(Rule("1  a hard Sudoku, and a model that never saw it"))
    reasoner = Reasoner.load("sudoku")
    card = reasoner.card
    row, puzzle, rating = random_row(seed)
    clues = sum(c != "." for c in puzzle)
    console.print(f"{card['parameters']:,} parameters, trained on {card['trained_on']}.")
    console.print(f"How good, {card['summary']}.")
    console.print(
        f"The puzzle: row {row} of the test set, drawn at random from its harder half (seed {seed}); {clues} clues; "
        f"a backtracking solver guesses {rating} times on it.\n"
    )
    given = reasoner.task.parse(puzzle)
    console.print(sudoku_board(reasoner.task, given, given))
    started = time.perf_counter()
    with Watcher(console, reasoner.task, given, reasoner.max_segments) as watcher:
        solution = reasoner.solve(puzzle, watcher)
    seconds = time.perf_counter() - started - watcher.drawing
    if not console.is_terminal or reasoner.model.config.deduces:
        console.print(answer_board(reasoner.task, given, solution))
    console.print(verdict(solution, seconds))
    if not solution.verified:
        console.print("It happens, as often as the figure above says. `make demo` draws another puzzle.")
    console.print()


def train_a_small_one(console: Console, seed: int, runs: Path) -> None:
    recipe = load_recipe(RECIPE, [f"seed={seed}", f"run_name=demo-{time.strftime('%Y%m%d-%H%M%S')}"])
    unseen = len(load_split(recipe.data_path, "test").inputs)
    console.print(Rule("2  training an HRM from random weights"))
    console.print(f"{recipe.about.strip()}\n")
    progress = TrainingProgress(console)
    started = time.perf_counter()
    try:
        result = train(
            recipe, runs=runs, report=progress, started=lambda trainer: progress.start(trainer.step, trainer.total)
        )
    finally:
        progress.stop()
    seconds = time.perf_counter() - started
    if result.stopped != "finished":
        console.print(f"Left at step {result.step} of {result.total}; the run is in {result.folder}.")
        return
    share = result.metrics["test/exact_accuracy"]
    console.print(
        f"[bold green]{share:.2%}[/] of {unseen:,} unseen puzzles solved exactly (exact@1), "
        f"{seconds:.0f} seconds from random weights. The run is in {result.folder}.\n"
    )


__all__ = ["run_demo"]
