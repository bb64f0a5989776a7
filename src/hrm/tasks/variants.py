"""More Sudokus from a few: variants of the same solution, and puzzles beyond single assumptions.

Beyond single assumptions is a puzzle that stays unsolved when every value is ruled out that, assumed alone and followed by
singles, contradicts: what most Sudoku-Extreme rows are and hardly one of a million random puzzles is. `variants` exchanges
givens and lets none be easier in kind than the puzzle; `beyond` finds such puzzles where there are none, from solved grids.
Needs numba, for a puzzle with fifty variants takes thousands of exact searches. Grids are uint8 (S,), values of a cell a
bit each.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from . import Progress, untold
from .sudoku import Sudoku, geometry

MOST_SOLUTIONS = 100
"""A given whose removal leaves so many solutions stays."""
MOST_NODES = 10_000
"""As does one whose removal makes a search that long."""
TRIES = 12
"""Givens taken away, for each variant asked for, before a puzzle is left with fewer."""
SPREAD = 32
"""Puzzles that `beyond` takes from one start, itself among them."""
PATIENCE = 4000
"""Tries for the next puzzle before a start is left with fewer."""
SWEEPS = 200
"""Tries at every grid for starts before `beyond` makes do with what it found."""
LEAN = 0.95
"""Share of the values left standing that a neighbour must keep, at least: it leans towards the harder."""
FOUND = "puzzles beyond single assumptions"
"""What progress calls them."""


def variants(
    task: Sudoku,
    puzzles: np.ndarray,
    answers: np.ndarray,
    wanted: int,
    seeds: list[int],
    progress: Progress = untold,
) -> list[np.ndarray]:
    """For each puzzle of (N, S), itself and up to `wanted` variants, (1 + n, S): a function of the puzzle and its seed."""
    units, every = _grid(task)

    def vary(row: int) -> np.ndarray:
        return _variants(puzzles[row], answers[row], units, every, wanted, seeds[row] & 0xFFFFFFFF)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # numba's random state is the thread's own
        groups = []
        for group in threads.map(vary, range(len(puzzles))):
            groups.append(group)
            progress("puzzles varied", len(groups), len(puzzles))
    return groups


def beyond(
    task: Sudoku, answers: np.ndarray, wanted: int, seed: int, progress: Progress = untold
) -> tuple[np.ndarray, np.ndarray]:
    """Puzzles beyond single assumptions and their solutions, (wanted, S) each, from solved 9×9 grids (N, S).

    Starts are made from tridagons (the field's word; also Thor's hammer): in four boxes that make a rectangle three values
    stand on three cells each, no two in a line. Where an odd number of the four arrangements is odd as a permutation, three
    values cannot fill twelve such cells, and to see it takes assumptions upon assumptions. Grids are searched for eleven of
    them; all twelve are left open, and what else the solution allows. From each start, and from what that leads to, come
    neighbours, a given exchanged as in `variants` but for any solution that taking it away lets in. Raises ValueError for
    other sizes and for grids without a start.
    """
    if task.box != (3, 3):
        raise ValueError(f"puzzles beyond single assumptions are made of 9x9 grids, not of {task.size}x{task.size}")
    units, every = _grid(task)
    rng = np.random.Generator(np.random.Philox(seed))
    puzzles, solutions = np.zeros((2, 0, task.seq_len), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # numba's random state is the thread's own
        while len(puzzles) < wanted:
            starts: list[np.ndarray] = []
            for _ in range(SWEEPS):
                seeds = rng.integers(1 << 32, size=len(answers))
                tries = threads.map(lambda row: _tridagon(answers[row], units, every, seeds[row]), range(len(answers)))
                starts += [puzzle for puzzle in tries if puzzle.any()]
                progress(FOUND, min(len(puzzles) + len(starts), wanted), wanted)
                if len(starts) * SPREAD >= wanted - len(puzzles):
                    break
            if not starts:
                raise ValueError(
                    f"no puzzle beyond single assumptions found from {len(answers)} rows: give more, or another seed"
                )
            seeds = rng.integers(1 << 32, size=len(starts))
            most = min(SPREAD, wanted - len(puzzles))
            found = [(puzzles, solutions)]
            for more in threads.map(lambda k: _spread(starts[k], units, every, most, seeds[k]), range(len(starts))):
                found.append(more)
                progress(FOUND, min(sum(len(part) for part, _ in found), wanted), wanted)
            puzzles, solutions = (np.concatenate(part) for part in zip(*found, strict=True))
            puzzles, first = np.unique(puzzles, axis=0, return_index=True)
            solutions = solutions[first]
    kept = np.sort(rng.permutation(len(puzzles))[:wanted])
    return puzzles[kept], solutions[kept]


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
        solutions, complete = _solutions(base, units, every, MOST_SOLUTIONS)
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
def _tridagon(answer, units, every, seed):
    """A puzzle beyond single assumptions with this solution, or zeros: one try at each tridagon that the grid has."""
    np.random.seed(seed)
    rows, cols = np.empty((4, 3), np.int64), np.empty((4, 3), np.int64)
    for apart in np.random.permutation(9):  # the box that has neither line in common with the four
        boxes = [b for b in range(9) if b // 3 != apart // 3 and b % 3 != apart % 3]
        for triple in range(729):
            values = (triple // 81 + 1, triple // 9 % 9 + 1, triple % 9 + 1)
            if not values[0] < values[1] < values[2]:
                continue
            for b in range(4):
                for k in range(9):
                    cell = units[18 + boxes[b]][k]
                    for v in range(3):
                        if answer[cell] == values[v]:
                            rows[b, v], cols[b, v] = cell // 9, cell % 9
            stray = _complete(rows, cols)
            if stray < 0:
                continue
            puzzle = answer.copy()
            for v in range(3):  # the three values stay in the box apart
                for cell in range(81):
                    if answer[cell] == values[v] and cell // 27 * 3 + cell % 9 // 3 != apart:
                        puzzle[cell] = 0
            pattern = np.zeros(81, np.bool_)
            for b in range(4):
                for v in range(3):
                    pattern[rows[b, v] * 9 + cols[b, v]] = True
            pattern[stray] = True
            puzzle[pattern] = 0
            for cell in np.random.permutation(81):
                if _unique(puzzle, units, every):
                    break
                if not pattern[cell]:
                    puzzle[cell] = answer[cell]
            if not _unique(puzzle, units, every):
                continue
            _reduce(puzzle, units, every)
            if _beyond(puzzle, units, every):
                return puzzle
    return np.zeros(81, np.uint8)


@njit(cache=True, nogil=True)
def _complete(rows, cols):
    """Move the one value that spoils a tridagon onto its twelfth cell, in place, and return the cell it stood on; else -1."""
    spoilt = -1
    for b in range(4):
        if _in_a_line(rows[b]) or _in_a_line(cols[b]):
            if spoilt >= 0:
                return -1
            spoilt = b
    if spoilt < 0:
        return -1
    v = np.random.randint(3)
    u, w = (v + 1) % 3, (v + 2) % 3
    r, c = rows[spoilt], cols[spoilt]
    if r[u] == r[w] or c[u] == c[w]:
        return -1
    stray = r[v] * 9 + c[v]
    r[v], c[v] = 3 * (r[v] // 3 * 3 + 1) - r[u] - r[w], 3 * (c[v] // 3 * 3 + 1) - c[u] - c[w]
    odd = 0
    for b in range(4):
        for i in range(3):
            for j in range(i):
                odd ^= (rows[b, i] > rows[b, j]) ^ (cols[b, i] > cols[b, j])
    return stray if odd else -1


@njit(cache=True, nogil=True)
def _in_a_line(lines):
    return lines[0] == lines[1] or lines[0] == lines[2] or lines[1] == lines[2]


@njit(cache=True, nogil=True)
def _spread(start, units, every, most, seed):
    """Up to `most` puzzles beyond single assumptions and their solutions: the start, and neighbours of what was found."""
    np.random.seed(seed)
    puzzles, answers = np.zeros((most, len(start)), np.uint8), np.zeros((most, len(start)), np.uint8)
    standing = np.zeros(most, np.int64)
    puzzles[0], answers[0], standing[0] = start, _solutions(start, units, every, 1)[0][0], _beyond(start, units, every)
    count, tries = 1, 0
    while count < most and tries < PATIENCE:
        tries += 1
        near = np.random.randint(count) if np.random.randint(2) else count - 1
        trial = puzzles[near].copy()
        givens = np.flatnonzero(trial)
        taken = givens[np.random.randint(len(givens))]
        trial[taken] = 0
        solutions, complete = _solutions(trial, units, every, MOST_SOLUTIONS)
        if not complete:
            continue
        answer = solutions[np.random.randint(len(solutions))].copy()
        for cell in np.random.permutation(len(start)):
            if len(solutions) == 1:
                break
            agree = solutions[:, cell] == answer[cell]
            if cell != taken and 2 * agree.sum() <= len(solutions):  # tells at least half of them apart
                trial[cell] = answer[cell]
                solutions = solutions[agree]
        if len(solutions) > 1:
            continue
        _reduce(trial, units, every)
        left = _beyond(trial, units, every)
        if left and left >= standing[near] * np.random.uniform(LEAN, 1) and not _among(trial, puzzles[:count]):
            puzzles[count], answers[count], standing[count] = trial, answer, left
            count, tries = count + 1, 0
    return puzzles[:count], answers[:count]


@njit(cache=True, nogil=True)
def _reduce(puzzle, units, every):
    """Take givens away, in random order and in place, while the solution stays the only one."""
    for cell in np.random.permutation(len(puzzle)):
        given = puzzle[cell]
        puzzle[cell] = 0
        if given and not _unique(puzzle, units, every):
            puzzle[cell] = given


@njit(cache=True, nogil=True)
def _unique(puzzle, units, every):
    found, complete = _solutions(puzzle, units, every, 1)
    return complete and len(found) == 1


@njit(cache=True, nogil=True)
def _among(grid, grids):
    known = False
    for other in grids:
        known |= (other == grid).all()
    return known


@njit(cache=True, nogil=True)
def _beyond(puzzle, units, every):
    """How many values stay in cells still open where single assumptions rule out no more; 0 for a solved puzzle."""
    values = _standing(puzzle, every)
    if not _settle(values, units, every):
        return 0
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
                        return 0
    standing = 0
    for bits in values:
        if bits & (bits - 1):
            standing += _count(bits)
    return standing


@njit(cache=True, nogil=True)
def _solutions(puzzle, units, every, most):
    """At most `most` solutions (n, S) of a puzzle, in digits, and whether these are all."""
    found = np.empty((most, len(puzzle)), np.uint8)
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
            if count == most:
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
