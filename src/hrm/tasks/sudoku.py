"""Sudoku of any box shape up to 25×25: parse, format, verify, solve exactly, generate, rate, augment.

A grid is a uint8 array of n·n digits, 0 for a blank. Tokens are the reference's: 0 is padding, 1 a blank, digit d is
d + 1. The solver is exact and deterministic; it is the oracle of tests and labels, and no part of any model.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice

import numpy as np

from .symmetry import Symmetry

SYMBOLS = "123456789ABCDEFGHIJKLMNOP"
BLANKS = ".0_*"
SEPARATORS = re.compile(r"[\s|+=,;:─━│┃┌┐└┘├┤┬┴┼╔╗╚╝║═╠╣╦╩╬\[\]-]")
BOXES = {16: (2, 2), 36: (2, 3), 81: (3, 3), 144: (3, 4), 256: (4, 4), 400: (4, 5), 625: (5, 5)}
"""Cells of a grid -> rows and columns of its boxes."""


class TooHard(ValueError):
    """The exact solver used up the guesses it was allowed."""


@dataclass(frozen=True)
class Sudoku:
    """The task for boxes of `box_rows` × `box_cols` cells: 3×3 makes the 9×9 puzzle, 2×3 the 6×6 one."""

    box_rows: int = 3
    box_cols: int = 3
    name = "sudoku"
    sound = "verified"
    """What an answer is that passes the rules."""
    usual_cells = 81
    """Of a puzzle whose size nobody names."""
    one_answer = True
    """Whether a puzzle has one right answer, so that every pass looks for the same."""
    blank = 1
    """Token of an open cell; 0 is padding, digits follow."""

    @classmethod
    def for_cells(cls, cells: int) -> "Sudoku":
        """The task by number of cells, 81 for 9×9. Raises ValueError for a number that is no grid."""
        if cells not in BOXES:
            raise ValueError(f"{cells} cells make no Sudoku grid; known: {', '.join(map(str, BOXES))}")
        return cls(*BOXES[cells])

    @property
    def size(self) -> int:
        return self.box_rows * self.box_cols

    @property
    def seq_len(self) -> int:
        return self.size**2

    @property
    def apart_by(self) -> str:
        """What no two splits share, and rows are counted by: their answers up to symmetry, or, where a size has too few of
        those for all to differ, their questions."""
        return "question" if self.size <= 6 else "answer"

    @property
    def box(self) -> tuple[int, int]:
        return self.box_rows, self.box_cols

    @property
    def vocab_size(self) -> int:
        return self.size + 2

    @property
    def symbols(self) -> str:
        return SYMBOLS[: self.size]

    # --- text and tokens

    @staticmethod
    def cells_of(text: str) -> int | None:
        """Cells of the puzzle that a text holds, where weights for other sizes could take it: none do."""
        return None

    @staticmethod
    def is_drawn_row(line: str) -> bool:
        """Whether a line is a row of a drawn grid, or of its frame, and no puzzle of any size."""
        cells = len(SEPARATORS.sub("", line))
        return len(line) not in BOXES and (not cells or (cells not in BOXES and cells**2 in BOXES))

    def is_puzzle(self, line: str) -> bool:
        """Whether a line of a file is a puzzle of this size, if a faulty one, and no row of one drawn, frame and all."""
        return len(line) >= min(self.seq_len, 6 * self.size + 2)

    @staticmethod
    def tidy(line: str) -> str:
        """A line of a file without what is no cell."""
        return line.strip()

    def parse(self, text: str) -> np.ndarray:
        """Read a grid: one line of cells, or a drawing with separators. Blanks are . 0 _ or *.

        Raises ValueError naming the first character or count that is wrong.
        """
        line = text.strip()
        if len(line) == self.seq_len and "\n" not in line:
            cells = line.replace("-", ".")  # in one unbroken line a dash can only be a blank
        else:
            cells = SEPARATORS.sub("", text)
        cells = cells.replace("·", ".")
        digits = np.zeros(self.seq_len, np.uint8)
        for place, char in enumerate(cells):
            if char in BLANKS:
                continue
            value = self.symbols.find(char.upper()) + 1
            if not value:
                where = (
                    f"row {place // self.size + 1}, column {place % self.size + 1}: " if place < self.seq_len else ""
                )
                raise ValueError(
                    f"{where}'{char}' is not a digit {self.symbols[0]}-{self.symbols[-1]} nor a blank (. or 0)"
                )
            if place < self.seq_len:
                digits[place] = value
        if len(cells) != self.seq_len:
            raise ValueError(f"{self.seq_len} cells expected for {self.size}x{self.size}, got {len(cells)}")
        return digits

    def format(self, grid: np.ndarray, style: str = "line") -> str:
        """A grid as one line of cells, or drawn with its boxes (style="grid")."""
        cells = [self.symbols[d - 1] if d else "." for d in grid.tolist()]
        if style == "line":
            return "".join(cells)
        if style != "grid":
            raise ValueError(f"style='{style}': choose line or grid")
        n, lines = self.size, []
        for r in range(n):
            if r and r % self.box_rows == 0:
                lines.append("+".join(["-" * (2 * self.box_cols + 1)] * (n // self.box_cols))[1:-1])
            row = cells[r * n : (r + 1) * n]
            boxes = [" ".join(row[c : c + self.box_cols]) for c in range(0, n, self.box_cols)]
            lines.append(" | ".join(boxes))
        return "\n".join(lines)

    def encode(self, grid: np.ndarray) -> np.ndarray:
        """Tokens (…, S) of grids (…, S)."""
        return (grid + 1).astype(np.uint8)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Grids (…, S) of tokens (…, S); padding and blanks both become 0."""
        return np.maximum(tokens.astype(np.int64) - 1, 0).astype(np.uint8)

    # --- rules

    def fault(self, puzzle: np.ndarray, answer: np.ndarray) -> str:
        """Empty if `answer` fills every cell, keeps every given and obeys the rules; else its first fault in words."""
        wrong = np.flatnonzero((answer == 0) | (answer > self.size))
        if len(wrong):
            value = answer[wrong[0]]
            return f"{self._cell(wrong[0])} " + (f"holds {value}, no digit of this size" if value else "is empty")
        changed = np.flatnonzero((puzzle != 0) & (puzzle != answer))
        if len(changed):
            k = changed[0]
            given, said = self.symbols[puzzle[k] - 1], self.symbols[answer[k] - 1]
            return f"{self._cell(k)} was given as {given}, answered {said}"
        return self.clues_fault(answer)

    def clues_fault(self, puzzle: np.ndarray) -> str:
        """Empty if no row, column or box holds a digit twice; else the first that does, in words."""
        for number, unit in enumerate(geometry(self.box_rows, self.box_cols).units):
            values = puzzle[list(unit)]
            counts = np.bincount(values[values > 0], minlength=self.size + 1)
            if counts.max() > 1:
                kind = ("row", "column", "box")[number // self.size]
                return f"{kind} {number % self.size + 1} holds {self.symbols[counts.argmax() - 1]} twice"
        return ""

    def _cell(self, k: int) -> str:
        return f"cell r{k // self.size + 1}c{k % self.size + 1}"

    def verify(self, puzzle: np.ndarray, answer: np.ndarray) -> bool:
        """Whether `answer` solves `puzzle`."""
        return not self.fault(puzzle, answer)

    def verify_batch(self, puzzles: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """`verify` of each row: bool (N,) for grids (N, S)."""
        kept = ((puzzles == 0) | (puzzles == answers)).all(1)
        units = np.array(geometry(self.box_rows, self.box_cols).units)  # (3n, n)
        complete = np.sort(answers[:, units], axis=-1) == np.arange(1, self.size + 1)
        return kept & complete.all((1, 2))

    # --- exact solving

    def solve(self, puzzle: np.ndarray, limit: int = 2, max_guesses: int | None = None) -> list[np.ndarray]:
        """At most `limit` solutions, found by exact search; two tell that a puzzle is not unique.

        Raises TooHard after `max_guesses` guesses.
        """
        search = Search(self, max_guesses)
        return list(islice(search.solutions(puzzle), limit))

    def rate(self, puzzle: np.ndarray) -> int:
        """Guesses (digits tried in branch cells) that this solver needs to find and prove the solution; 0 if singles do.

        Depends on the puzzle's orientation, and is not tdoku's rating, though akin to it.
        """
        search = Search(self, None)
        list(islice(search.solutions(puzzle), 2))
        return search.guesses

    def is_unique(self, puzzle: np.ndarray, max_guesses: int | None = None) -> bool:
        return len(self.solve(puzzle, 2, max_guesses)) == 1

    # --- making puzzles

    def random_grid(self, rng: np.random.Generator) -> np.ndarray:
        """A solved grid. Up to 9×9 by random search, so any grid can come; above, a random symmetry of one pattern."""
        if self.size <= 9:
            return next(Search(self, None, rng).solutions(np.zeros(self.seq_len, np.uint8)))
        n, rows, cols = self.size, self.box_rows, self.box_cols
        r, c = np.divmod(np.arange(n * n), n)
        pattern = (cols * (r % rows) + r // rows + c) % n  # each row shifted: a known solved grid
        row = shuffled_lines(rng, n, rows)
        column = shuffled_lines(rng, n, cols)
        return (rng.permutation(n)[pattern.reshape(n, n)[row][:, column].ravel()] + 1).astype(np.uint8)

    def generate(
        self, rng: np.random.Generator, *, clues: int | None = None, symmetric: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """A puzzle with exactly one solution, and that solution.

        Clues are taken away in random order while the solution stays unique, until `clues` are left; None goes on to
        a minimal puzzle up to 9×9 and to half of the cells above, where proofs of minimality take long. `symmetric`
        takes them in pairs opposite the centre (then minimal in pairs only). More than `clues` are left where the
        grid does not allow so few.
        """
        solution = self.random_grid(rng)
        target = clues if clues is not None else (0 if self.size <= 9 else self.seq_len // 2)
        return self._reduce(solution.copy(), solution, rng, target, symmetric), solution

    def generate_many(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Endlessly, minimal puzzles and their solutions."""
        while True:
            yield self.generate(rng)

    def _reduce(
        self, puzzle: np.ndarray, solution: np.ndarray, rng: np.random.Generator, target: int, symmetric: bool = False
    ) -> np.ndarray:
        """Take clues away from `puzzle` while the solution stays unique and more than `target` are left."""
        for k in rng.permutation(self.seq_len):
            cells = {k, self.seq_len - 1 - k} if symmetric else {k}
            cells = [c for c in cells if puzzle[c]]
            if not cells or (puzzle > 0).sum() - len(cells) < target:
                continue
            trial = puzzle.copy()
            trial[cells] = 0
            try:
                if self.is_unique(trial, max_guesses=10_000 if self.size <= 9 else 100):
                    puzzle = trial
            except TooHard:
                continue
        return puzzle

    def harden(self, puzzle: np.ndarray, rng: np.random.Generator, steps: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Search near a puzzle for a harder one: puzzle, solution and rating after `steps` tries.

        A try gives a few cells back and reduces again in another order; it is kept if its rating is no lower.
        """
        solution = self.solve(puzzle, 1)[0]
        rating = self.rate(puzzle)
        for _ in range(steps):
            trial = puzzle.copy()
            blanks = np.flatnonzero(trial == 0)
            back = rng.choice(blanks, size=min(3, len(blanks)), replace=False)
            trial[back] = solution[back]
            trial = self._reduce(trial, solution, rng, 0)
            tried = self.rate(trial)
            if tried >= rating:
                puzzle, rating = trial, tried
        return puzzle, solution, rating

    # --- symmetry

    def augment(self, inputs, labels, generator):
        """A random symmetry of every row: digits, bands, stacks, rows and columns within them, transpose.

        inputs, labels: token tensors (B, S) of any integer dtype on the generator's device; padding (0), blanks and
        ignored labels (-100) stay what they are. Boxes that are not square are not transposed. No host synchronisation.
        """
        symmetry = self.draw_symmetry(len(inputs), generator)
        return symmetry.apply(inputs), symmetry.apply(labels)

    def reclue(self, inputs, labels, generator, *, share: float, hints: int, drop: float):
        """New puzzles from a row's own cells: `share` of the rows gain 1..`hints` cells of their answer and lose some givens.

        Of h cells gained, up to h · `drop` givens are taken away, both uniformly at random; the puzzle's uniqueness is not
        looked at. inputs, labels: token tensors (B, S). Returns the new inputs. (Hints alone: augmented HRM, 2601.10679.)
        """
        import torch

        batch, device = len(inputs), inputs.device

        def uniform(*shape: int) -> torch.Tensor:
            return torch.rand((batch, *shape), generator=generator, device=device)

        chosen, given = uniform(1) < share, inputs > 1
        gained = 1 + (uniform(1) * hints).long()  # (B, 1)
        lost = (gained * drop * uniform(1)).long()
        rank_open = uniform(self.seq_len).masked_fill(given, 2).argsort(1).argsort(1)
        rank_given = uniform(self.seq_len).masked_fill(~given, 2).argsort(1).argsort(1)
        shown = torch.where((rank_open < gained) & ~given, labels, inputs)
        shown = torch.where((rank_given < lost) & given, 1, shown)
        return torch.where(chosen, shown, inputs)

    def draw_symmetry(self, batch: int, generator):
        """One random symmetry of the puzzle for each of `batch` rows, on the generator's device."""
        import torch

        n, device = self.size, generator.device

        def shuffles(*shape: int) -> torch.Tensor:
            return torch.rand((batch, *shape), generator=generator, device=device).argsort(-1)

        def lines(height: int) -> torch.Tensor:  # (B, n): where each line comes from
            return (shuffles(n // height)[:, :, None] * height + shuffles(n // height, height)).view(batch, n)

        digits = torch.cat((torch.arange(2, device=device).expand(batch, 2), shuffles(n) + 2), 1)  # (B, n + 2)
        rows, columns = lines(self.box_rows), lines(self.box_cols)
        source = rows[:, :, None] * n + columns[:, None, :]  # (B, n, n)
        if self.box_rows == self.box_cols:
            turned = rows[:, None, :] * n + columns[:, :, None]
            turn = torch.rand((batch, 1, 1), generator=generator, device=device) < 0.5
            source = torch.where(turn, turned, source)
        return Symmetry(source.view(batch, n * n), digits)

    def candidates(self, tokens):
        """What may stand in each cell of a puzzle, (B, S, V) bool: a given itself, every digit in an open cell."""
        import torch

        value = torch.arange(self.vocab_size, device=tokens.device)
        return torch.where(tokens[..., None] == self.blank, value > self.blank, value == tokens[..., None])

    def same_orbit_key(self, solution: np.ndarray) -> int:
        """A hash equal for solved grids that a symmetry or relabelling turns into one another, and rarely else.

        For two rows, the map from the digits of one to those below has cycle lengths that no relabelling or moving of
        columns changes; the key collects them over all pairs of rows and of columns, pairs within a band apart.
        """
        n = self.size
        grid = solution.reshape(n, n).astype(int) - 1
        sides = []
        for lines, height in ((grid, self.box_rows), (grid.T, self.box_cols)):
            within = [[] for _ in range(n // height)]
            across = []
            for a in range(n):
                for b in range(a + 1, n):
                    home = within[a // height] if a // height == b // height else across
                    home.append(cycle_lengths(lines[a], lines[b]))
            sides.append((tuple(sorted(tuple(sorted(band)) for band in within)), tuple(sorted(across))))
        return hash(tuple(sorted(sides) if self.box_rows == self.box_cols else sides))


def parse_any(text: str) -> tuple[Sudoku, np.ndarray]:
    """Read a grid of whatever size its number of cells tells."""
    line = text.strip()
    count = len(line) if "\n" not in line and len(line) in BOXES else len(SEPARATORS.sub("", line))
    task = Sudoku.for_cells(count)
    return task, task.parse(text)


def shuffled_lines(rng: np.random.Generator, n: int, height: int) -> np.ndarray:
    """A random order of n lines that keeps bands of `height` together."""
    return np.concatenate([band * height + rng.permutation(height) for band in rng.permutation(n // height)])


def cycle_lengths(first: np.ndarray, second: np.ndarray) -> tuple[int, ...]:
    """Sorted cycle lengths of the permutation that takes each entry of `first` to the one below it in `second`."""
    following = dict(zip(first.tolist(), second.tolist(), strict=True))
    lengths = []
    while following:
        start, length = next(iter(following)), 0
        while start in following:
            start, length = following.pop(start), length + 1
        lengths.append(length)
    return tuple(sorted(lengths))


@dataclass(frozen=True)
class Geometry:
    """Rows, columns and boxes of a grid, as cell numbers."""

    units: list[tuple[int, ...]]
    units_of: list[list[tuple[int, ...]]]
    peers: list[list[int]]


@cache
def geometry(box_rows: int, box_cols: int) -> Geometry:
    n = box_rows * box_cols
    cells = np.arange(n * n).reshape(n, n)
    boxes = cells.reshape(n // box_rows, box_rows, n // box_cols, box_cols).swapaxes(1, 2).reshape(n, n)
    units = [tuple(unit) for unit in (*cells.tolist(), *cells.T.tolist(), *boxes.tolist())]
    units_of = [[unit for unit in units if k in unit] for k in range(n * n)]
    peers = [sorted({c for unit in own for c in unit} - {k}) for k, own in enumerate(units_of)]
    return Geometry(units, units_of, peers)


class Search:
    """Exact depth-first search over candidate sets (one bit a digit), singles propagated, tightest cell first."""

    def __init__(self, task: Sudoku, max_guesses: int | None, rng: np.random.Generator | None = None):
        self.task, self.max_guesses, self.rng = task, max_guesses, rng
        self.geometry = geometry(task.box_rows, task.box_cols)
        self.guesses = 0

    def solutions(self, puzzle: np.ndarray) -> Iterator[np.ndarray]:
        """Every solution of `puzzle`, lazily."""
        candidates = self.after_singles(puzzle)
        if candidates:
            yield from self._branch(candidates)

    def after_singles(self, puzzle: np.ndarray) -> list[int] | None:
        """What the givens and the singles that they imply leave of each cell, a bit a digit; None on a contradiction."""
        candidates = [(1 << self.task.size) - 1] * self.task.seq_len
        for k, digit in enumerate(puzzle.tolist()):
            if digit and not self.restrict(candidates, k, 1 << (digit - 1)):
                return None
        return candidates

    def _branch(self, candidates: list[int]) -> Iterator[np.ndarray]:
        best, fewest = -1, 99
        for k, bits in enumerate(candidates):
            count = bits.bit_count()
            if 1 < count < fewest:
                best, fewest = k, count
                if count == 2:
                    break
        if best < 0:
            yield np.array([bits.bit_length() for bits in candidates], np.uint8)
            return
        options = [1 << d for d in range(self.task.size) if candidates[best] >> d & 1]
        if self.rng is not None:
            self.rng.shuffle(options)
        for bit in options:
            self.guesses += 1
            if self.max_guesses is not None and self.guesses > self.max_guesses:
                raise TooHard(f"more than {self.max_guesses} guesses")
            trial = candidates.copy()
            if self.restrict(trial, best, bit):
                yield from self._branch(trial)

    def restrict(self, candidates: list[int], cell: int, keep: int) -> bool:
        """Leave cell only `keep`, with all that singles imply; False on a contradiction."""
        peers, units_of = self.geometry.peers, self.geometry.units_of
        pending = [(cell, keep)]
        while pending:
            k, allowed = pending.pop()
            gone = candidates[k] & ~allowed
            if not gone:
                if not candidates[k]:
                    return False
                continue
            left = candidates[k] & allowed
            if not left:
                return False
            candidates[k] = left
            if not left & (left - 1):
                pending += [(p, ~left) for p in peers[k] if candidates[p] & left]
            for unit in units_of[k]:
                once = twice = 0
                for c in unit:
                    bits = candidates[c]
                    twice |= once & bits
                    once |= bits
                if gone & ~once:
                    return False  # a digit lost its last place
                single = gone & ~twice
                if single:
                    pending += [(c, candidates[c] & single) for c in unit if candidates[c] & single]
        return True
