"""More Sudokus from a few: variants of the same solution, and puzzles beyond single assumptions.

Beyond single assumptions is a puzzle that stays unsolved when every value is ruled out that, assumed alone and followed by
singles, contradicts: what most Sudoku-Extreme rows are and hardly one of a million random puzzles is. `variants` exchanges
givens and lets none be easier in kind than the puzzle, drifting to other solutions if asked to; `beyond` finds such puzzles
where there are none, from solved grids; `harder` walks from a puzzle towards those of its solution that give least away.
Needs numba, for a puzzle with fifty variants takes thousands of exact searches. Grids are uint8 (S,), values of a cell a
bit each.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product
from typing import NamedTuple, TypeVar

import numpy as np
from numba import njit

from . import Progress, untold
from .sudoku import Sudoku, geometry

Made = TypeVar("Made")

MOST_SOLUTIONS = 100
"""A given whose removal leaves so many solutions stays."""
MOST_NODES = 10_000
"""As does one whose removal makes a search that long."""
TRIES = 12
"""Givens taken away, for each variant asked for, before a puzzle is left with fewer."""
RECENT = 8
"""A drifting walk goes on from one of so many that it met last, half of the time."""
SPREAD = 32
"""Puzzles that `beyond` takes from one start, itself among them."""
PATIENCE = 4000
"""Tries for the next puzzle before a start is left with fewer."""
SWEEPS = 200
"""Tries at every grid for starts before `beyond` makes do with what it found."""
LEAN = 0.95
"""Share of what makes it hard that a neighbour must keep, at least: of the values left standing, or of the openness."""
GIVEN_BACK = 3
"""Cells that a step of `harder` fills in before it takes others away, at most."""
HOT, COLD = 3.0, 0.5
"""Openness that such a step may lose, in the mean, at the walk's beginning and at its end."""
REMEMBERED = 16
"""Second solutions that a walk remembers of each cell without its given."""
KEPT = 4
"""Puzzles that `harder` keeps of a walk, at most."""
FOUND = "puzzles beyond single assumptions"
"""What progress calls them."""


def variants(
    task: Sudoku,
    puzzles: np.ndarray,
    answers: np.ndarray,
    wanted: int,
    seeds: list[int],
    progress: Progress = untold,
    *,
    drift: bool = False,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each puzzle of (N, S) itself and up to `wanted` variants, and their solutions, (1 + n, S) each.

    A variant is the puzzle or an earlier variant with a given exchanged for another of the same solution, and beyond single
    assumptions where the puzzle is. With `drift` it is more often one of the last few met, and the solution may be any that
    taking the given away lets in; half of the time several givens take its place and others go, until the puzzle is minimal;
    but it has LEAN of the puzzle's openness at least. What is made of a puzzle is a function of it and its seed.
    """
    grid = grid_of(task)

    def vary(row: int) -> tuple[np.ndarray, np.ndarray]:
        return _variants(puzzles[row], answers[row], grid, wanted, seeds[row] & 0xFFFFFFFF, drift)

    return _of_each(vary, len(puzzles), "puzzles varied", progress)


def harder(
    task: Sudoku,
    puzzles: np.ndarray,
    answers: np.ndarray,
    steps: int,
    seeds: list[int],
    progress: Progress = untold,
) -> list[np.ndarray]:
    """For each puzzle of (N, S) the most open ones, (n, S) with n <= KEPT, of a walk of so many steps.

    Open is a puzzle in which much still stands after a value has been assumed and singles followed, in the mean over what
    may be assumed; after a contradiction nothing does. The walk goes from minimal puzzle to minimal puzzle of the same
    solution and cools down, as simulated annealing does; what is kept of it is more open than the puzzle, and beyond single
    assumptions where the puzzle is: a function of it and its seed.
    """
    grid = grid_of(task)

    def harden(row: int) -> np.ndarray:
        return _harden(puzzles[row], answers[row], grid, steps, seeds[row] & 0xFFFFFFFF)

    return _of_each(harden, len(puzzles), "puzzles hardened", progress)


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
    grid = grid_of(task)
    rng = np.random.Generator(np.random.Philox(seed))
    puzzles, solutions = np.zeros((2, 0, task.seq_len), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # numba's random state is the thread's own
        while len(puzzles) < wanted:
            starts: list[np.ndarray] = []
            for _ in range(SWEEPS):
                seeds = rng.integers(1 << 32, size=len(answers))
                tries = threads.map(lambda row: _tridagon(answers[row], grid, seeds[row]), range(len(answers)))
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
            for more in threads.map(lambda k: _spread(starts[k], grid, most, seeds[k]), range(len(starts))):
                found.append(more)
                progress(FOUND, min(sum(len(part) for part, _ in found), wanted), wanted)
            puzzles, solutions = (np.concatenate(part) for part in zip(*found, strict=True))
            puzzles, first = np.unique(puzzles, axis=0, return_index=True)
            solutions = solutions[first]
    kept = np.sort(rng.permutation(len(puzzles))[:wanted])
    return puzzles[kept], solutions[kept]


def left_by_assumptions(task: Sudoku, puzzle: np.ndarray) -> int:
    """How many values stay in open cells where singles and single assumptions rule out no more: 0 where they solve it."""
    return int(_beyond(puzzle, grid_of(task)))


def openness(task: Sudoku, puzzle: np.ndarray) -> float:
    """How many values still stand when one that singles leave is assumed, in the mean over these; none if it contradicts."""
    return float(_openness(puzzle, grid_of(task), 0.0))


def depth(task: Sudoku, puzzle: np.ndarray) -> float:
    """How many values still stand when one that single assumptions leave is assumed, and they are followed to the end again.

    In the mean over what may be assumed; none where that contradicts, and 0 for a puzzle that single assumptions solve.
    """
    return float(_depth(puzzle, grid_of(task)))


def has_exocet(task: Sudoku, puzzle: np.ndarray) -> bool:
    """Whether what singles leave of a 9×9 puzzle has an exocet of four values (the field's word; here its junior form).

    Two open cells of a box in one line of it, the base, leave four values between them. Each of the two targets stands in
    one of the boxes beside it, in another line than the base and than the other, and may be two of the four at least; its
    partner, in its column and the other's line, may be none. The two columns of the targets and that of the base box's third
    cell have six lines elsewhere, and each of the four stands in two of them at most. Then the targets hold what the base
    holds. So for rows, and for columns alike.
    """
    return bool(_has_exocet(puzzle, grid_of(task), exocet_places()))


@cache
def exocet_places() -> np.ndarray:
    """(2916, 24): every place for an exocet: two base cells, two targets, their two partners, and six lines of three cells."""
    found = []
    for band, box, line, third, swapped, one, two in product(*map(range, (3, 3, 3, 3, 2, 3, 3))):
        base, first, second = (3 * band + (line + k) % 3 for k in (0, 1 + swapped, 2 - swapped))
        left, right, apart = (3 * box + (third + k) % 3 for k in (1, 2, 0))
        here, there = (3 * ((box + k) % 3) + column for k, column in ((1, one), (2, two)))
        cells = [(base, left), (base, right), (first, here), (second, there), (second, here), (first, there)]
        cells += [(row, column) for row in range(9) if row // 3 != band for column in (apart, here, there)]
        found += [[9 * row + column for row, column in cells], [9 * column + row for row, column in cells]]
    return np.array(found)


def standing_and_refuted(task: Sudoku, puzzle: np.ndarray) -> tuple[int, int]:
    """How many values stand in open cells after singles, and how many of them a single assumption refutes."""
    return _assumed(puzzle, grid_of(task), 0.0)[:2]


def _of_each(make: Callable[[int], Made], rows: int, said: str, progress: Progress) -> list[Made]:
    """What `make` makes of each row, with a thread for each CPU."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # numba's random state is the thread's own
        made = []
        for one in threads.map(make, range(rows)):
            made.append(one)
            progress(said, len(made), rows)
    return made


class Grid(NamedTuple):
    """A size of Sudoku as the compiled functions take it."""

    units: np.ndarray
    """(U, n): the cells of each row, column and box."""
    homes: np.ndarray
    """(S, 3): the units of each cell."""
    every: int
    """All values of a cell."""


@cache
def grid_of(task: Sudoku) -> Grid:
    units = np.array(geometry(task.box_rows, task.box_cols).units)
    homes = np.array([np.flatnonzero((units == cell).any(1)) for cell in range(task.seq_len)])
    return Grid(units, homes, (1 << task.size) - 1)


@njit(cache=True, nogil=True)
def _variants(puzzle, answer, grid, wanted, seed, drift):
    np.random.seed(seed)
    found, answers = np.zeros((wanted + 1, len(puzzle)), np.uint8), np.zeros((wanted + 1, len(puzzle)), np.uint8)
    found[0], answers[0] = puzzle, answer
    count = 1
    hard, others = _beyond(puzzle, grid), _unproven(puzzle)
    floor = LEAN * _openness(puzzle, grid, 0.0) if drift else 0.0
    for _ in range(wanted * TRIES):
        if count > wanted:
            break
        near = 0
        if np.random.randint(2):
            near = np.random.randint(count)
        elif drift:
            near = max(count - 1 - np.random.randint(RECENT), 0)
        if drift and np.random.randint(2):
            trial, solution = _neighbour(found[near], grid, others)
            trials = np.expand_dims(trial, 0)
        else:
            trials, solution = _exchanged(found[near], answers[near], grid, drift)
        kept = 0
        for trial in trials:
            if kept == 2 or count > wanted:
                break
            if not trial.any() or _among(trial, found[:count]) or (drift and _openness(trial, grid, floor) < floor):
                continue
            if hard and not _beyond(trial, grid):
                continue
            found[count], answers[count] = trial, solution
            count += 1
            kept += 1
    return found[:count], answers[:count]


@njit(cache=True, nogil=True)
def _exchanged(puzzle, answer, grid, drift):
    """Puzzles (n, S) with one given of this exchanged for another, in random order, and their solution.

    This is `answer`, or with `drift` any that taking the given away lets in.
    """
    trials = np.zeros((len(puzzle), len(puzzle)), np.uint8)
    base = puzzle.copy()
    givens = np.flatnonzero(base)
    taken = givens[np.random.randint(len(givens))]
    base[taken] = 0
    solutions, complete = _solutions(base, grid, MOST_SOLUTIONS)
    if not complete:
        return trials[:0], answer
    if drift:
        answer = solutions[np.random.randint(len(solutions))]
    count = 0
    for cell in np.random.permutation(len(puzzle)):
        if not base[cell] and cell != taken and (solutions[:, cell] == answer[cell]).sum() == 1:
            trials[count] = base
            trials[count, cell] = answer[cell]
            count += 1
    return trials[:count], answer


@njit(cache=True, nogil=True)
def _tridagon(answer, grid, seed):
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
                    cell = grid.units[18 + boxes[b]][k]
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
                if _unique(puzzle, grid):
                    break
                if not pattern[cell]:
                    puzzle[cell] = answer[cell]
            if not _unique(puzzle, grid):
                continue
            _reduce(puzzle, grid, puzzle > 0, _unproven(puzzle))
            if _beyond(puzzle, grid):
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
def _spread(start, grid, most, seed):
    """Up to `most` puzzles beyond single assumptions and their solutions: the start, and neighbours of what was found."""
    np.random.seed(seed)
    puzzles, answers = np.zeros((most, len(start)), np.uint8), np.zeros((most, len(start)), np.uint8)
    standing = np.zeros(most, np.int64)
    puzzles[0], answers[0], standing[0] = start, _solutions(start, grid, 1)[0][0], _beyond(start, grid)
    count, tries, others = 1, 0, _unproven(start)
    while count < most and tries < PATIENCE:
        tries += 1
        near = np.random.randint(count) if np.random.randint(2) else count - 1
        trial, answer = _neighbour(puzzles[near], grid, others)
        if not trial.any():
            continue
        left = _beyond(trial, grid)
        if left and left >= standing[near] * np.random.uniform(LEAN, 1) and not _among(trial, puzzles[:count]):
            puzzles[count], answers[count], standing[count] = trial, answer, left
            count, tries = count + 1, 0
    return puzzles[:count], answers[:count]


@njit(cache=True, nogil=True)
def _neighbour(puzzle, grid, others):
    """A minimal puzzle beside this: a given is gone, the solution any that this lets in, told from the others by new givens.

    Returned with its solution; nothing but zeros where there are more than MOST_SOLUTIONS. `others` as in `_reduce`.
    """
    trial, nothing = puzzle.copy(), np.zeros(len(puzzle), np.uint8)
    givens = np.flatnonzero(trial)
    taken = givens[np.random.randint(len(givens))]
    trial[taken] = 0
    solutions, complete = _solutions(trial, grid, MOST_SOLUTIONS)
    if not complete:
        return nothing, nothing
    answer = solutions[np.random.randint(len(solutions))].copy()
    for cell in np.random.permutation(len(puzzle)):
        if len(solutions) == 1:
            break
        agree = solutions[:, cell] == answer[cell]
        if cell != taken and 2 * agree.sum() <= len(solutions):  # tells at least half of them apart
            trial[cell] = answer[cell]
            solutions = solutions[agree]
    if len(solutions) > 1:
        return nothing, nothing
    _reduce(trial, grid, trial > 0, others)
    return trial, answer


@njit(cache=True, nogil=True)
def _harden(puzzle, answer, grid, steps, seed):
    """What `harder` keeps of its walk (n, S)."""
    np.random.seed(seed)
    hard = _beyond(puzzle, grid) > 0
    here, others = puzzle.copy(), _unproven(puzzle)
    height = _openness(here, grid, 0.0)
    found, heights = np.zeros((KEPT, len(puzzle)), np.uint8), np.full(KEPT, height)
    for step in range(steps):
        trial = here.copy()
        back = np.random.permutation(np.flatnonzero(here == 0))[: np.random.randint(1, GIVEN_BACK + 1)]
        trial[back] = answer[back]
        for fresh in (False, True):  # those just given back come last, or they would be taken away again
            _reduce(trial, grid, (here == 0) == fresh, others)
        floor = height - HOT * (COLD / HOT) ** (step / steps) * np.random.exponential()
        reached = _openness(trial, grid, floor)
        if reached < floor or (hard and not _beyond(trial, grid)):
            continue
        here, height = trial, reached
        least = heights.argmin()
        if height > heights[least] and not _among(here, found):
            found[least], heights[least] = here, height
    return found[found.sum(1) > 0]


@njit(cache=True, nogil=True)
def _openness(puzzle, grid, floor):
    """`openness`. Where it is less than `floor`, what is returned is so too."""
    return _assumed(puzzle, grid, floor)[2]


@njit(cache=True, nogil=True)
def _assumed(puzzle, grid, floor):
    """How many values stand after singles, how many of these a single assumption refutes, and `openness`.

    Not all are assumed where openness is sure to be less than `floor`, nor all refuted counted, and what is returned is less.
    """
    values = _standing(puzzle, grid)
    _settle(values, grid, -1)
    left, refuted = _left(values), 0
    spare = (left - floor) * left  # what all assumptions together may still take away
    for cell in range(len(values)):
        rest = values[cell]
        if not rest & (rest - 1):
            continue
        while rest and spare >= 0:
            trial = values.copy()
            trial[cell] = rest & -rest
            if _settle(trial, grid, cell):
                spare -= left - _left(trial)
            else:
                spare -= left
                refuted += 1
            rest &= rest - 1
    return left, refuted, floor + spare / left if left else 0.0


@njit(cache=True, nogil=True)
def _has_exocet(puzzle, grid, places):
    """Whether what singles leave has one in a row of `places` (N, 24)."""
    values, found = _standing(puzzle, grid), False
    _settle(values, grid, -1)
    for place in places:
        found |= _is_exocet(values, place)
    return found


@njit(cache=True, nogil=True)
def _is_exocet(values, place):
    """`has_exocet` of what stands in each cell (S,), at one place (24,)."""
    base = values[place[0]] | values[place[1]]
    if _count(base) != 4 or _count(values[place[0]]) < 2 or _count(values[place[1]]) < 2:
        return False
    if _count(values[place[2]] & base) < 2 or _count(values[place[3]] & base) < 2:
        return False
    if (values[place[4]] | values[place[5]]) & base:
        return False
    once = twice = thrice = 0
    for k in range(6, 24, 3):
        line = (values[place[k]] | values[place[k + 1]] | values[place[k + 2]]) & base
        thrice |= twice & line
        twice |= once & line
        once |= line
    return not thrice


@njit(cache=True, nogil=True)
def _contradicts(values, grid, cell, bit):
    """Whether a value of a cell, assumed where singles have been followed, ends in a contradiction by singles."""
    trial = values.copy()
    trial[cell] = bit
    return not _settle(trial, grid, cell)


@njit(cache=True, nogil=True)
def _reduce(puzzle, grid, among, others):
    """Take givens of the mask `among` away, in random order and in place, while the solution stays the only one.

    `others` (S, REMEMBERED, S): for each cell what `_needed` found near by, or zeros.
    """
    for cell in np.random.permutation(len(puzzle)):
        if puzzle[cell] and among[cell] and not _needed(puzzle, grid, cell, others[cell]):
            puzzle[cell] = 0


@njit(cache=True, nogil=True)
def _unproven(puzzle):
    """`others` of which nothing is known yet."""
    return np.zeros((len(puzzle), REMEMBERED, len(puzzle)), np.uint8)


@njit(cache=True, nogil=True)
def _needed(puzzle, grid, cell, others):
    """Whether a puzzle of one solution would have more without its given in `cell`.

    `others` (REMEMBERED, S) are some that puzzles near by would have, or zeros; where one still proves it nothing is
    searched, and what a search finds takes the place of the oldest.
    """
    for other in others:
        proves = other[cell] != puzzle[cell]
        for k in range(len(puzzle)):
            if not proves:
                break
            proves &= k == cell or not puzzle[k] or other[k] == puzzle[k]
        if proves:
            return True
    values = _standing(puzzle, grid)
    values[cell] = grid.every & ~values[cell]
    found, complete = _search(values, grid, 0)
    if len(found):
        others[1:] = others[:-1].copy()
        others[0] = found[0]
    return not complete


@njit(cache=True, nogil=True)
def _unique(puzzle, grid):
    found, complete = _solutions(puzzle, grid, 1)
    return complete and len(found) == 1


@njit(cache=True, nogil=True)
def _among(puzzle, puzzles):
    known = False
    for other in puzzles:
        known |= (other == puzzle).all()
    return known


@njit(cache=True, nogil=True)
def _beyond(puzzle, grid):
    """How many values stay in cells still open where single assumptions rule out no more; 0 for a solved puzzle."""
    return _left(_by_assumptions(puzzle, grid))


@njit(cache=True, nogil=True)
def _by_assumptions(puzzle, grid):
    """What stands in each cell (S,) where single assumptions rule out no more; nothing at all after a contradiction."""
    values = _standing(puzzle, grid)
    if not (_settle(values, grid, -1) and _close(values, grid)):
        values[:] = 0
    return values


@njit(cache=True, nogil=True)
def _close(values, grid):
    """Rule out by single assumptions until they rule out no more, in place, where singles have been followed; False on a
    contradiction."""
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
                if _contradicts(values, grid, cell, bit):
                    values[cell] ^= bit
                    moved = True
                    if not _settle(values, grid, cell):
                        return False
    return True


@njit(cache=True, nogil=True)
def _depth(puzzle, grid):
    """`depth`."""
    values = _by_assumptions(puzzle, grid)
    tried = left = 0
    for cell in range(len(values)):
        rest = values[cell]
        while values[cell] & (values[cell] - 1) and rest:
            trial = values.copy()
            trial[cell] = rest & -rest
            tried += 1
            if _settle(trial, grid, cell) and _close(trial, grid):
                left += _left(trial)
            rest &= rest - 1
    return left / tried if tried else 0.0


@njit(cache=True, nogil=True)
def _left(values):
    """How many values stand in the cells still open."""
    left = 0
    for bits in values:
        if bits & (bits - 1):
            left += _count(bits)
    return left


@njit(cache=True, nogil=True)
def _solutions(puzzle, grid, most):
    """At most `most` solutions (n, S) of a puzzle, in digits, and whether these are all; one more to show that they are not."""
    return _search(_standing(puzzle, grid), grid, most)


@njit(cache=True, nogil=True)
def _search(values, grid, most):
    """`_solutions` of what stands in each cell (S,)."""
    found = np.empty((most + 1, len(values)), np.uint8)
    states = np.empty((len(values) + 1, len(values)), np.int64)
    branch = np.empty(len(values) + 1, np.int64)  # the cell that each state is split at
    rest = np.zeros(len(values) + 1, np.int64)  # its values not yet tried
    states[0] = values
    depth, count, changed = 0, 0, -1
    for _ in range(MOST_NODES):
        if _settle(states[depth], grid, changed):
            cell, fewest = -1, 99
            for k in range(len(values)):
                options = _count(states[depth, k])
                if 1 < options < fewest:
                    cell, fewest = k, options
                    if options == 2:
                        break
            if cell >= 0:
                branch[depth], rest[depth] = cell, states[depth, cell]
                depth += 1
            else:
                for k in range(len(values)):
                    found[count, k] = _count(states[depth, k] - 1) + 1
                count += 1
                if count > most:
                    return found, False
        while depth and not rest[depth - 1]:
            depth -= 1
        if not depth:
            return found[:count], True
        highest = rest[depth - 1]
        while highest & (highest - 1):
            highest &= highest - 1
        rest[depth - 1] ^= highest
        changed = branch[depth - 1]
        states[depth] = states[depth - 1]
        states[depth, changed] = highest
    return found[:count], False


@njit(cache=True, nogil=True)
def _standing(puzzle, grid):
    values = np.empty(len(puzzle), np.int64)
    for k in range(len(puzzle)):
        values[k] = 1 << (puzzle[k] - 1) if puzzle[k] else grid.every
    return values


@njit(cache=True, nogil=True)
def _settle(values, grid, changed):
    """Follow the singles, in place, from a cell that lost values, or from all with -1; False on a contradiction."""
    units, homes = grid.units, grid.homes
    dirty = np.full(len(units), changed < 0)
    if changed >= 0:
        for home in homes[changed]:
            dirty[home] = True
    moved = True
    while moved:
        moved = False
        for u in range(len(units)):
            if not dirty[u]:
                continue
            dirty[u] = False
            once = twice = fixed = 0
            for i in range(units.shape[1]):
                bits = values[units[u, i]]
                twice |= once & bits
                once |= bits
                if not bits & (bits - 1):
                    if fixed & bits:
                        return False
                    fixed |= bits
            if once != grid.every:
                return False
            alone = once & ~twice & ~fixed
            for i in range(units.shape[1]):
                k = units[u, i]
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
                    for home in homes[k]:
                        dirty[home] = True
    return True


@njit(cache=True, nogil=True)
def _count(bits):
    count = 0
    while bits:
        bits &= bits - 1
        count += 1
    return count
