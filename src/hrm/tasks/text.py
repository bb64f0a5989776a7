"""Puzzles of any kind, told as text: a question and its answer are one line each, a cell is a printable character.

Nothing is known of their rules or symmetries, so answers are right by their label alone and rows are not augmented. Tokens:
0 is padding and never used, a character is its place among CHARACTERS + 1. Lines are filled up with spaces to one length, and
spaces at the end do not count: answers may be shorter than questions, and shorter than one another.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

CHARACTERS = "".join(map(chr, range(32, 127)))
"""Printable ASCII, the space first."""
LONGEST = 4096
"""Characters of a line."""


@dataclass(frozen=True)
class Text:
    """The task of lines of up to `seq_len` characters."""

    seq_len: int
    name = "text"
    sound = None
    """No rules to check an answer by."""
    apart_by = "question"
    """Rows of different splits have different questions; answers, of a few kinds perhaps, may agree."""
    one_answer = True
    blank = 1
    vocab_size = len(CHARACTERS) + 1
    box = None
    usual_cells = 1
    """Until the lines are read."""

    @classmethod
    def for_cells(cls, cells: int) -> "Text":
        """The task by the length of its lines. Raises ValueError for none, and for lines beyond LONGEST."""
        if not 1 <= cells <= LONGEST:
            raise ValueError(f"{cells} characters: a line of text has 1 to {LONGEST:,}")
        return cls(cells)

    @classmethod
    def for_lines(cls, lines: Iterable[str]) -> "Text":
        """The task whose lines are as long as the longest of these."""
        return cls.for_cells(max(len(line.rstrip(" ")) for line in lines))

    @staticmethod
    def cells_of(text: str) -> None:
        """A text does not tell how long others are: the weights do."""

    @staticmethod
    def is_drawn_row(line: str) -> bool:
        """Nothing is drawn."""
        return False

    @staticmethod
    def is_puzzle(line: str) -> bool:
        """Every line is one."""
        return True

    @staticmethod
    def tidy(line: str) -> str:
        """A line of a file without what is no cell; spaces are cells."""
        return line.strip("\r\n")

    def parse(self, text: str) -> np.ndarray:
        """Read a line: (S,) uint8, places among CHARACTERS. Raises ValueError naming the first thing that is wrong."""
        line = text.strip("\r\n").rstrip(" ")
        for k, char in enumerate(line):
            if not " " <= char <= "~":
                raise ValueError(f"character {k + 1}: {char!r} is not printable ASCII")
        if len(line) > self.seq_len:
            raise ValueError(f"{len(line)} characters, at most {self.seq_len} expected")
        return np.frombuffer(line.ljust(self.seq_len).encode("ascii"), np.uint8) - ord(" ")

    def format(self, grid: np.ndarray, style: str = "line") -> str:
        """The line of a grid (S,), without spaces at its end."""
        return "".join(CHARACTERS[cell] for cell in grid.tolist()).rstrip(" ")

    def encode(self, grid: np.ndarray) -> np.ndarray:
        """Tokens (…, S) of grids (…, S)."""
        return (grid + 1).astype(np.uint8)

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """Grids (…, S) of tokens (…, S); padding becomes a space."""
        return np.maximum(tokens.astype(np.int64) - 1, 0).astype(np.uint8)

    @staticmethod
    def clues_fault(puzzle: np.ndarray) -> str:
        """Any line may be asked."""
        return ""

    @staticmethod
    def fault(puzzle: np.ndarray, answer: np.ndarray) -> str:
        """No rules are known that an answer could break."""
        return ""

    @staticmethod
    def rate(puzzle: np.ndarray) -> int:
        """How hard a line is, is not known."""
        return 0
