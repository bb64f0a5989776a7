"""Mazes on a square grid: parse, format, verify, solve exactly, generate, rate, augment.

A grid is a uint8 array of rows·columns cells, each a number into CELLS: wall, free, start, goal, path. Tokens are the
reference's: 0 is padding, a cell is its number + 1. Steps go to the four neighbours; the outside is wall.

No hard maze has a unique shortest path, so the label is one by a fixed rule: a breadth-first search from S with a queue
and the neighbours in the order down, left, right, up, where the first parent wins. That is the first of all shortest
paths in the order of their directions, and so a greedy walk: at every cell the first direction that comes nearer to G.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .symmetry import Symmetry

CELLS = "# SGo"
WALL, FREE, START, GOAL, PATH, NONE = range(6)
"""NONE is what a model answers where it answers padding: no cell, never right, written `?`."""
WRITTEN = CELLS + "?"
OTHER_WORDS = str.maketrans({".": " ", "█": "#", "·": " ", "s": "S", "g": "G"})
"""What else a cell may be written as."""
DIRECTIONS = ((1, 0), (0, -1), (0, 1), (-1, 0))
"""Down, left, right, up: the order in which the label's search asks the neighbours."""
MOST_COLUMNS = 64
"""The generator keeps a row in one machine word."""
WALL_SHARE = (0.30, 0.50)
"""A generated maze draws its share of walls from this range (Lehnert et al. 2024, appendix C)."""
TRIES_AT_ONCE = 8192
BARREN = 10_000_000
"""Tries of the generator that find no maze, after which at the latest it gives up; 30x30 and 110 cells: one of 54,000."""
STEPS_UNASKED = 16
"""Steps that a search on a GPU takes before it asks, and waits, whether there are cells left to reach."""
FAR = 10**6
"""More steps than any way takes."""
SHORTER, EDITED = 0.5, 0.5
"""Shares of a training batch whose S and G move along their path, and whose walls change away from it."""
MOST_FLIPPED = 0.03
"""Largest chance of a cell off the path to change between wall and free in a maze that is labelled anew."""
RIVAL, MOST_RIVALS = 4, 0.2
"""How much longer or shorter a way may be that opens in such a maze, and the largest chance that it does."""
MOST_BLOCKED = 0.03
"""Largest chance of a cell of such a maze's path to become a wall."""
MOST_CLOSED, MOST_OPENED = 0.3, 0.5
"""Largest chance of a free cell off the path to become a wall, and of a wall without passage to become free."""


@dataclass(frozen=True)
class Maze:
    """The task for mazes of `rows` × `columns` cells."""

    rows: int = 30
    columns: int = 30
    name = "maze"
    sound = "valid_and_shortest"
    """What an answer is that passes the rules."""
    usual_cells = 900
    one_answer = False
    """A maze may have several shortest paths."""
    blank = FREE + 1
    """Token of a cell that may become another."""
    vocab_size = len(CELLS) + 1
    box = None

    @classmethod
    def for_cells(cls, cells: int) -> "Maze":
        """The square task by number of cells, 900 for 30×30. Raises ValueError for a number that is no square."""
        side = math.isqrt(cells)
        if side < 2 or side * side != cells:
            raise ValueError(f"{cells} cells make no square maze")
        return cls(side, side)

    @property
    def seq_len(self) -> int:
        return self.rows * self.columns

    # --- text and tokens

    @staticmethod
    def cells_of(text: str) -> int | None:
        """Cells of the first square maze in a text, drawn or one a line; None where it is empty."""
        text = text.translate(OTHER_WORDS)
        lines = text.splitlines()
        mazes = sum(not Maze.is_drawn_row(line) for line in lines)
        if lines and len(lines) == max(map(len, lines)) and mazes <= len(lines) / 2:
            return len(lines) ** 2  # as many rows as columns, however empty, and no maze in most of them
        lines = text.strip("\r\n").splitlines()
        if not lines:
            return None
        one = next((k for k, line in enumerate(lines) if not line), len(lines))  # drawn mazes are parted by blank lines
        wide = len(lines[0])
        a_line_each = sum("S" in line for line in lines[:one]) > 1  # a drawn maze has one start
        return wide if one == 1 or a_line_each or wide > 2 * one else one * one

    @staticmethod
    def is_drawn_row(line: str) -> bool:
        """Whether a line is a row of a drawn maze, and no maze: those have an S, a G and a square number of cells."""
        told = line.translate(OTHER_WORDS)
        return "S" not in told or "G" not in told or math.isqrt(len(line)) ** 2 != len(line)

    def is_puzzle(self, line: str) -> bool:
        """Whether a line of a file, whose first maze is of this size, is a maze, if a faulty one, and no row of one drawn."""
        told = line.translate(OTHER_WORDS)
        square = math.isqrt(len(line)) ** 2 == len(line)
        return "S" in told and "G" in told and len(line) != self.columns and (square or len(line) > MOST_COLUMNS)

    @staticmethod
    def tidy(line: str) -> str:
        """A line of a file without what is no cell; spaces are cells."""
        return line.strip("\r\n")

    def parse(self, text: str) -> np.ndarray:
        """Read a maze: one line of cells, or a line a row; `#` wall, space or `.` free, S, G, and `o` for a path.

        Free cells at the end of a row may be missing. Raises ValueError naming the first thing that is wrong.
        """
        text = text.translate(OTHER_WORDS)
        lines = text.splitlines()
        if len(lines) != self.rows:  # else the first or the last, where it is empty, is a row without walls
            text = text.strip("\r\n")
            lines = text.splitlines()
        if len(lines) == 1:
            if len(text) != self.seq_len:
                raise ValueError(
                    f"{self.seq_len} cells expected for {self.rows}x{self.columns}, got {len(text)}"
                    + (" (spaces are cells: do not strip the line)" if len(text) < self.seq_len else "")
                )
            lines = [text[k : k + self.columns] for k in range(0, len(text), self.columns)]
        if len(lines) != self.rows:
            raise ValueError(f"{self.rows} rows expected for {self.rows}x{self.columns}, got {len(lines)}")
        grid = np.zeros((self.rows, self.columns), np.uint8)
        for r, line in enumerate(lines):
            if len(line) > self.columns:
                raise ValueError(f"row {r + 1}: {self.columns} cells expected, got {len(line)}")
            for c, char in enumerate(line.ljust(self.columns)):
                if char not in WRITTEN:
                    raise ValueError(f"row {r + 1}, column {c + 1}: '{char}' is none of '#', ' ', 'S', 'G', 'o'")
                grid[r, c] = WRITTEN.index(char)
        return grid.ravel()

    def format(self, grid: np.ndarray, style: str = "line") -> str:
        """A maze as one line of cells, or a line a row (style="grid")."""
        cells = [WRITTEN[cell] for cell in grid.tolist()]
        if style == "line":
            return "".join(cells)
        if style != "grid":
            raise ValueError(f"style='{style}': choose line or grid")
        return "\n".join("".join(cells[k : k + self.columns]) for k in range(0, self.seq_len, self.columns))

    def encode(self, grid: np.ndarray) -> np.ndarray:
        """Tokens (…, S) of grids (…, S)."""
        return (grid + 1).astype(np.uint8)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Grids (…, S) of tokens (…, S); padding becomes NONE."""
        return np.where(tokens == 0, NONE, tokens.astype(np.int64) - 1).astype(np.uint8)

    # --- rules

    def clues_fault(self, puzzle: np.ndarray) -> str:
        """Empty if `puzzle` is a maze with a way from its S to its G and no path drawn; else its first fault in words."""
        for cell, word in ((START, "start"), (GOAL, "goal")):
            if (count := int((puzzle == cell).sum())) != 1:
                return f"{count} {word} cells '{CELLS[cell]}', expected 1"
        if (puzzle == NONE).any():
            return f"{self._cell(np.flatnonzero(puzzle == NONE)[0])} holds '?', which is no cell"
        if (puzzle == PATH).any():
            return f"{self._cell(np.flatnonzero(puzzle == PATH)[0])} holds a path cell 'o'; a puzzle has none"
        return "" if self.rate(puzzle) else "no way leads from S to G"

    def fault(self, puzzle: np.ndarray, answer: np.ndarray) -> str:
        """Empty if `answer` is `puzzle` with one shortest path from S to G drawn in; else its first fault in words."""
        changed = np.flatnonzero((puzzle != answer) & ~((puzzle == FREE) & (answer == PATH)))
        if len(changed):
            k = changed[0]
            words = dict(enumerate(("a wall", "free", "S", "G", "a path cell")))
            return f"{self._cell(k)} was given as {words[int(puzzle[k])]}, answered {words.get(int(answer[k]), 'none')}"
        length, shortest = int((answer == PATH).sum()) + 1, int(self.distances(puzzle[None])[0])
        along = int(self.distances(answer[None], only_path=True)[0])
        if along < 0:
            return "the path does not lead from S to G"
        if along != shortest:
            return f"the path takes {along} steps, {shortest} would do"
        return "" if length == shortest else f"cells of the path that lead nowhere: {length - shortest}"

    def _cell(self, k: int) -> str:
        return f"cell r{k // self.columns + 1}c{k % self.columns + 1}"

    def verify(self, puzzle: np.ndarray, answer: np.ndarray) -> bool:
        """Whether `answer` is a shortest path of `puzzle`, and nothing else drawn."""
        return bool(self.verify_batch(puzzle[None], answer[None])[0])

    def verify_batch(self, puzzles: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """`verify` of each row: bool (N,) for grids (N, S); False, too, where the puzzle is none."""
        one_each = [(puzzles == cell).sum(1) == 1 for cell in (START, GOAL)]
        kept = ((puzzles == answers) | ((puzzles == FREE) & (answers == PATH))).all(1)
        length = (answers == PATH).sum(1) + 1
        shortest, along = self.distances(puzzles), self.distances(answers, only_path=True)
        return kept & one_each[0] & one_each[1] & (puzzles < PATH).all(1) & (shortest == length) & (along == length)

    # --- exact solving

    def distances(self, grids: np.ndarray, only_path: bool = False) -> np.ndarray:
        """Steps of the shortest way from S to G in each of N grids, (N,) int; -1 where there is none.

        `only_path` goes over drawn path cells alone.
        """
        boards = grids.reshape(-1, self.rows, self.columns)
        passable = (boards != WALL) & ~((boards == FREE) & only_path)
        field = flood(passable, boards == START)
        return np.where(boards == GOAL, field, -1).max((1, 2))

    def solve(self, puzzle: np.ndarray) -> np.ndarray:
        """The label of a maze: its first shortest path (see above). Raises ValueError where there is no way."""
        board = puzzle.reshape(self.rows, self.columns)
        field = flood((board != WALL)[None], (board == GOAL)[None])[0]
        r, c = np.argwhere(board == START)[0]
        if field[r, c] < 0:
            raise ValueError("no way leads from S to G")
        answer = board.copy()
        while field[r, c] > 1:
            near = ((r + dr, c + dc) for dr, dc in DIRECTIONS)
            r, c = next(
                (y, x)
                for y, x in near
                if 0 <= y < self.rows and 0 <= x < self.columns and field[y, x] == field[r, c] - 1
            )
            answer[r, c] = PATH
        return answer.ravel()

    @property
    def apart_by(self) -> str:
        """As of Sudokus; answers are the same where the walls are."""
        return "question" if self.seq_len < 25 else "answer"

    def same_orbit_key(self, maze: np.ndarray) -> int:
        """A hash equal for mazes whose walls a turn or a reflection makes one another: S and G move in training."""
        board = (maze == WALL).reshape(self.rows, self.columns)
        forms = [np.rot90(side, k) for side in (board, board.T) for k in range(4)]
        return hash(min(form.astype(np.uint8).tobytes() for form in forms))

    def rate(self, puzzle: np.ndarray) -> int:
        """Cells of the shortest path, S and G counted; 0 where there is no way."""
        return int(self.distances(puzzle[None])[0]) + 1

    # --- making puzzles

    def generate(
        self, rng: np.random.Generator, *, min_path: int = 2, walls: tuple[float, float] = WALL_SHARE
    ) -> tuple[np.ndarray, np.ndarray]:
        """A maze whose shortest path has `min_path` cells and more, and its label."""
        return next(self.generate_many(rng, min_path=min_path, walls=walls))

    def generate_many(self, rng: np.random.Generator, *, min_path: int = 2, walls: tuple[float, float] = WALL_SHARE):
        """Endlessly, mazes and their labels, drawn as Maze-Hard was: every cell a wall by a chance drawn for the maze from
        `walls`, S and G anywhere free, kept if the path has `min_path` cells (30×30 and 110: one of 54,000 tries).

        Instead of drawing G, a maze with k of its free cells far enough from S is kept with chance k / (free - 1), and G
        is one of the k: the same distribution. Raises ValueError if some million tries find none, which are minutes.
        """
        if self.columns > MOST_COLUMNS:
            raise ValueError(f"mazes of {self.columns} columns cannot be generated: at most {MOST_COLUMNS}")
        if min_path >= self.seq_len:
            raise ValueError(
                f"no {self.rows}x{self.columns} maze has a path of {min_path} cells: ask for shorter paths"
            )
        barren = 0
        at_once = 64 if min_path <= max(self.rows, self.columns) // 2 else TRIES_AT_ONCE
        while barren < min(BARREN, 1_000_000 * max(1, min_path**2 // 400)):
            barren += at_once
            for grid in self._tries(rng, at_once, min_path, walls):
                barren = 0
                yield grid, self.solve(grid)
        raise ValueError(
            f"no {self.rows}x{self.columns} maze with a path of {min_path} cells in {barren:,} tries: ask for shorter paths"
        )

    def _tries(self, rng: np.random.Generator, count: int, min_path: int, walls: tuple[float, float]):
        """Draw `count` mazes and starts; yield those that are kept."""
        word, half = (np.uint32, 32) if self.columns <= 32 else (np.uint64, 64)
        chance = (rng.uniform(*walls, count) * 65536).astype(np.uint16)
        noise = rng.integers(0, 65536, (count, self.rows, self.columns), np.uint16)
        free = noise >= chance[:, None, None]
        in_row = free.sum(2, dtype=np.uint8)
        so_far = in_row.cumsum(1, dtype=np.int64)
        open_cells, each = so_far[:, -1], np.arange(count)
        nth = (rng.random(count) * open_cells).astype(np.int64)
        row = (so_far > nth[:, None]).argmax(1)  # which holds the free cell that is S; then where in the row
        nth -= so_far[each, row] - in_row[each, row]
        column = (free[each, row].cumsum(1) > nth[:, None]).argmax(1)
        keep_if = rng.random(count)
        padded = np.zeros((count, self.rows, half), np.bool_)
        padded[..., : self.columns] = free
        land = np.packbits(padded, axis=-1, bitorder="little").view(word)[..., 0]  # (count, rows)
        seen = np.zeros_like(land)
        seen[each, row] = word(1) << column.astype(word)
        alive, edge, left = np.flatnonzero(open_cells > 1), seen, land & ~seen
        edge, left = edge[alive], left[alive]
        for _ in range(min_path - 2):  # `left` then holds what is not within so many steps of S
            near = (edge << word(1)) | (edge >> word(1))
            near[:, 1:] |= edge[:, :-1]
            near[:, :-1] |= edge[:, 1:]
            edge = near & left
            left &= ~edge
            going = edge.any(1)
            if going.sum() < 0.8 * len(going):
                alive, edge, left = alive[going], edge[going], left[going]
        for place, tried in enumerate(alive):
            board = np.where(free[tried], FREE, WALL).astype(np.uint8).ravel()
            board[row[tried] * self.columns + column[tried]] = START
            if not edge[place].any():
                continue
            grid = board.reshape(1, self.rows, self.columns)
            field = flood(grid != WALL, grid == START)[0].ravel()
            far = np.flatnonzero(field >= min_path - 1)
            if keep_if[tried] * (open_cells[tried] - 1) < len(far):
                board[far[int(rng.integers(len(far)))]] = GOAL
                yield board

    # --- symmetry

    def augment(self, inputs: Any, labels: Any, generator: Any) -> tuple[Any, Any]:
        """Other mazes whose labels follow from those at hand; nothing is solved anew.

        Errands: in half of the rows S and G move to two cells of their path, in its order, lengths drawn evenly on a
        logarithmic scale; a part of a first shortest path is one between its own ends. Edits, in as many rows: free
        cells off the path become walls, by a chance of the row's own, since fewer ways leave the label the first; and
        walls with at most one free neighbour become free, as no path leads through them. (Turning a maze would break
        the rule of its label.) inputs, labels: token tensors (B, S) on the generator's device.
        """
        import torch

        batch, device = len(inputs), inputs.device

        def uniform(*shape: int) -> Any:
            return torch.rand((batch, *shape), generator=generator, device=device)

        order = path_order(labels.view(batch, self.rows, self.columns)).flatten(1)  # 0 at S, -1 off the path
        last = order.amax(1, keepdim=True)  # at G
        span = (last.clamp(min=1).float() ** uniform(1)).round().long().clamp(min=1)
        span = torch.where((uniform(1) < SHORTER) & (last > 0), span, last)
        first = (uniform(1) * (last - span + 1)).long()
        final = first + span
        told = torch.where(order >= 0, FREE + 1, labels)
        told = torch.where((order > first) & (order < final), PATH + 1, told)
        told = torch.where((order >= 0) & (order == first), START + 1, told)
        told = torch.where((order >= 0) & (order == final), GOAL + 1, told)
        edited = uniform(1) < EDITED
        told = torch.where(edited & (told == FREE + 1) & (uniform(self.seq_len) < MOST_CLOSED * uniform(1)), 1, told)
        ways = beside((told > WALL + 1).view(batch, self.rows, self.columns), False).sum(-1).flatten(1)  # free beside
        cells = torch.arange(self.seq_len, device=device)
        colour = (cells // self.columns + cells % self.columns) % 2  # no two cells of a colour touch, so none link up
        pocket = (told == WALL + 1) & (ways <= 1) & (colour == (uniform(1) < 0.5))
        told = torch.where(edited & pocket & (uniform(self.seq_len) < MOST_OPENED * uniform(1)), FREE + 1, told)
        asked = torch.where(told == PATH + 1, FREE + 1, told)
        return asked.to(inputs.dtype), told.to(labels.dtype)

    def relabel(self, inputs: Any, labels: Any, generator: Any, share: float) -> tuple[Any, Any]:
        """New mazes with labels found by search: `share` of the rows are turned and edited.

        Cells off the path change between wall and free. Then walls become free through which a way would be about as
        long as the shortest, and cells of the path become walls where another way is left: it is nearly equal ways
        that are hard to tell apart. This is more labelled data than the rows at hand, not augmentation: report it as a
        setting of its own. inputs, labels: token tensors (B, S).
        """
        import torch

        batch, device = len(inputs), inputs.device

        def cells(most: float) -> Any:
            """Each cell of a row by the row's own chance, up to `most`."""
            chance = most * torch.rand((batch, 1), generator=generator, device=device)
            return torch.rand((batch, self.seq_len), generator=generator, device=device) < chance

        asked, told = inputs, labels
        if self.rows == self.columns:
            turn = self.draw_symmetry(batch, generator)
            asked, told = turn.apply(inputs), turn.apply(labels)
        asked = torch.where(cells(MOST_FLIPPED) & (told <= FREE + 1), WALL + 1 + FREE + 1 - asked, asked)
        asked = torch.where(cells(MOST_RIVALS) & self._rivals(asked), FREE + 1, asked)
        told, _ = self.first_paths(asked)
        blocked = torch.where(cells(MOST_BLOCKED) & (told == PATH + 1), WALL + 1, asked)
        told_blocked, solved = self.first_paths(blocked)
        asked, told = (torch.where(solved[:, None], *two) for two in ((blocked, asked), (told_blocked, told)))
        chosen = torch.rand((batch, 1), generator=generator, device=device) < share
        return torch.where(chosen, asked, inputs), torch.where(chosen, told.to(labels.dtype), labels)

    def _rivals(self, tokens: Any) -> Any:
        """The walls that, opened, would lead a way within RIVAL steps of the shortest: (B, S) bool for mazes (B, S) that
        have one."""
        import torch

        boards = tokens.view(-1, self.rows, self.columns)
        free, start, goal = (boards > WALL + 1, boards == START + 1, boards == GOAL + 1)
        fields = flood(free.repeat(2, 1, 1), torch.cat((start, goal)))  # in one, for each call has its own many steps
        onward = fields[len(boards) :]
        before, after = beside(torch.where(fields < 0, FAR, fields)).chunk(2)
        through = before[..., :, None] + after[..., None, :] + 2  # (B, R, C, 4, 4): in from one side, out by another
        back = FAR * torch.eye(4, dtype=through.dtype, device=through.device)  # by the same one: a pocket
        longer = (through + back).amin((-2, -1)) - (onward * start).sum((1, 2))[:, None, None]
        return (~free & (longer.abs() <= RIVAL)).flatten(1)

    def first_paths(self, tokens: Any) -> tuple[Any, Any]:
        """`solve` for a batch on its device: labels (B, S) of mazes in tokens (B, S), and which have a way at all (B,)."""
        import torch

        boards = tokens.view(-1, self.rows, self.columns)
        field = flood(boards > WALL + 1, boards == GOAL + 1)
        closer = (beside(field, -1) == field[..., None] - 1) & (field > 0)[..., None]
        step = torch.tensor([down * self.columns + right for down, right in DIRECTIONS], device=tokens.device)
        first = step[closer.byte().argmax(-1)]  # argmax gives the first of equals
        onward = torch.where(closer.any(-1), first, 0).flatten(1)
        here = (tokens == START + 1).byte().argmax(1, keepdim=True)
        steps = field.flatten(1).gather(1, here)
        path = []
        for _ in range(int(steps.max()) - 1):
            here = here + onward.gather(1, here)
            path.append(here)
        told = tokens.scatter(1, torch.cat(path, 1), PATH + 1) if path else tokens
        return torch.where(tokens == FREE + 1, told, tokens), steps[:, 0] >= 0

    def draw_symmetry(self, batch: int, generator: Any) -> Symmetry:
        """One of the eight turns and reflections for each of `batch` rows (square mazes), on the generator's device."""
        import torch

        device = generator.device
        cells = torch.arange(self.seq_len, device=device).view(self.rows, self.columns)
        turns = [torch.rot90(side, k) for side in (cells, cells.flip(1)) for k in range(4)]
        sources = torch.stack([turn.flatten() for turn in turns])  # (8, S)
        which = torch.randint(8, (batch,), generator=generator, device=device)
        return Symmetry(sources[which], torch.arange(self.vocab_size, device=device).expand(batch, -1))


def beside(boards: Any, outside: int = FAR) -> Any:
    """What each cell's four neighbours hold, in the order of DIRECTIONS: (B, R, C, 4) for a tensor (B, R, C)."""
    import torch
    import torch.nn.functional as F

    around = F.pad(boards, (1, 1, 1, 1), value=outside)
    return torch.stack((around[:, 2:, 1:-1], around[:, 1:-1, :-2], around[:, 1:-1, 2:], around[:, :-2, 1:-1]), -1)


def flood(passable: Any, source: Any) -> Any:
    """Steps from the source cells over passable ones in each of N boards, (N, R, C) int64; -1 where none lead. Arrays of
    numpy or tensors of torch, those of the CPU by way of numpy, whose small steps cost less."""
    if isinstance(passable, np.ndarray) or passable.device.type != "cpu":
        return spread(passable, source)
    import torch

    return torch.from_numpy(spread(passable.numpy(), source.numpy()))


def spread(passable: Any, source: Any) -> Any:
    """`flood` in the library that the boards come in."""
    steps = 1
    if isinstance(passable, np.ndarray):
        pad = partial(np.pad, pad_width=((0, 0), (0, 1), (0, 1)))
    else:
        import torch

        pad = partial(torch.nn.functional.pad, pad=(0, 1, 0, 1))
        steps = STEPS_UNASKED
    count, rows, columns = passable.shape
    width = columns + 1  # a wall ends every row and board, so that in one line of all cells neighbours are shifts
    edge, left = (pad(cells).reshape(-1) for cells in (source & passable, passable & ~source))
    field = left * 0
    while edge.any():
        for _ in range(steps):
            near = edge & False
            near[1:] = edge[:-1]
            near[:-1] |= edge[1:]
            near[width:] |= edge[:-width]
            near[:-width] |= edge[width:]
            field += left
            edge = near & left
            left = left ^ edge
    field[left] = -1
    field = field.reshape(count, rows + 1, width)[:, :rows, :columns]
    field[~passable] = -1
    return field


def path_order(labels: Any) -> Any:
    """Place of each cell on its label's path, 0 at S, -1 off it: (B, R, C) int64 for label tokens (B, R, C).

    A shortest path has no short cuts, so a cell of it touches only the cells before and after it on the path.
    """
    return flood(labels > FREE + 1, labels == START + 1)
