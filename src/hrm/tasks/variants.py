"""Variants of a Sudoku: puzzles of the same solution, found by exchanging givens, none easier in kind than the puzzle.

A given is taken away and a cell of the solution shown instead that tells it from every other solution there now is. A
puzzle that single assumptions do not solve (a value assumed and followed by singles, ruled out where that contradicts)
passes only variants that they do not solve either: by chance few would be as hard. Needs numba, for a puzzle with fifty
variants takes thousands of exact searches. Grids are uint8 (S,), values of a cell a bit each.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from .sudoku import Sudoku, geometry

MOST_SOLUTIONS = 100
"""A given whose removal leaves so many solutions stays."""
MOST_NODES = 10_000
"""As does one whose removal makes a search that long."""
TRIES = 12
"""Givens taken away, for each variant asked for, before a puzzle is left with fewer."""


def variants(task: Sudoku, puzzles: np.ndarray, answers: np.ndarray, wanted: int, seeds: list[int]) -> list[np.ndarray]:
    """For each puzzle of (N, S), itself and up to `wanted` variants, (1 + n, S): a function of the puzzle and its seed."""
    units, every = _grid(task)

    def vary(row: int) -> np.ndarray:
        return _variants(puzzles[row], answers[row], units, every, wanted, seeds[row] & 0xFFFFFFFF)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # numba's random state is the thread's own
        return list(threads.map(vary, range(len(puzzles))))


def beyond_assumptions(task: Sudoku, puzzle: np.ndarray) -> bool:
    """Whether cells of a puzzle stay open where singles and single assumptions rule out no more."""
    return bool(_beyond(puzzle, *_grid(task)))


def _grid(task: Sudoku) -> tuple[np.ndarray, int]:
    """The cells of each unit, and all values of a cell."""
    return np.array(geometry(task.box_rows, task.box_cols).units), (1 << task.size) - 1


@njit(cache=True, nogil=True)
def _variants(puzzle, answer, units, every, wanted, seed):
    np.random.seed(seed)
    found = np.zeros((wanted + 1, len(puzzle)), np.uint8)
    found[0] = puzzle
    count = 1
    hard = _beyond(puzzle, units, every)
    for _ in range(wanted * TRIES):
        if count > wanted:
            break
        base = found[np.random.randint(count) if np.random.randint(2) else 0].copy()
        givens = np.flatnonzero(base)
        taken = givens[np.random.randint(len(givens))]
        base[taken] = 0
        solutions, complete = _solutions(base, units, every)
        if not complete:
            continue
        kept = 0
        for cell in np.random.permutation(len(puzzle)):
            if kept == 2 or count > wanted:
                break
            if base[cell] or cell == taken or (solutions[:, cell] == answer[cell]).sum() > 1:
                continue
            trial = base.copy()
            trial[cell] = answer[cell]
            if _among(trial, found[:count]) or (hard and not _beyond(trial, units, every)):
                continue
            found[count] = trial
            count += 1
            kept += 1
    return found[:count]


@njit(cache=True, nogil=True)
def _among(grid, grids):
    known = False
    for other in grids:
        known |= (other == grid).all()
    return known


@njit(cache=True, nogil=True)
def _beyond(puzzle, units, every):
    values = _standing(puzzle, every)
    if not _settle(values, units, every):
        return False
    moved = True
    while moved:
        moved = False
        for cell in range(len(values)):
            rest = values[cell]
            while rest:
                bit = rest & -rest
                rest ^= bit
                if values[cell] == bit or not values[cell] & bit:
                    continue
                trial = values.copy()
                trial[cell] = bit
                if not _settle(trial, units, every):
                    values[cell] ^= bit
                    moved = True
                    if not _settle(values, units, every):
                        return False
    return (values & (values - 1)).any()


@njit(cache=True, nogil=True)
def _solutions(puzzle, units, every):
    """Solutions (n, S) of a puzzle, in digits, and whether these are all."""
    found = np.empty((MOST_SOLUTIONS, len(puzzle)), np.uint8)
    stack = np.empty((len(puzzle) * len(units) // 3, len(puzzle)), np.int64)
    stack[0] = _standing(puzzle, every)
    top, count = 1, 0
    for _ in range(MOST_NODES):
        if top == 0:
            return found[:count], True
        top -= 1
        values = stack[top].copy()
        if not _settle(values, units, every):
            continue
        cell, fewest = -1, 99
        for k in range(len(values)):
            options = _count(values[k])
            if 1 < options < fewest:
                cell, fewest = k, options
        if cell < 0:
            if count == MOST_SOLUTIONS:
                break
            for k in range(len(values)):
                found[count, k] = _count(values[k] - 1) + 1
            count += 1
            continue
        rest = values[cell]
        while rest:
            stack[top] = values
            stack[top, cell] = rest & -rest
            rest &= rest - 1
            top += 1
    return found[:count], False


@njit(cache=True, nogil=True)
def _standing(puzzle, every):
    values = np.empty(len(puzzle), np.int64)
    for k in range(len(puzzle)):
        values[k] = 1 << (puzzle[k] - 1) if puzzle[k] else every
    return values


@njit(cache=True, nogil=True)
def _settle(values, units, every):
    """Follow the singles, in place; False on a contradiction."""
    moved = True
    while moved:
        moved = False
        for u in range(len(units)):
            once = twice = fixed = 0
            for k in units[u]:
                bits = values[k]
                twice |= once & bits
                once |= bits
                if not bits & (bits - 1):
                    if fixed & bits:
                        return False
                    fixed |= bits
            if once != every:
                return False
            alone = once & ~twice & ~fixed
            for k in units[u]:
                bits = values[k]
                if not bits & (bits - 1):
                    continue
                left = bits & ~fixed
                if left & alone:
                    left &= alone
                if not left or (left & alone and left & (left - 1)):
                    return False
                if left != bits:
                    values[k] = left
                    moved = True
    return True


@njit(cache=True, nogil=True)
def _count(bits):
    count = 0
    while bits:
        bits &= bits - 1
        count += 1
    return count
