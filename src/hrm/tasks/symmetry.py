"""A symmetry of puzzles: where cells take their tokens from, and what the tokens become."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Symmetry:
    """A symmetry for each of B grids, as tensors on one device."""

    source: Any
    """(B, S) int64: the cell that each cell takes its token from."""
    tokens: Any
    """(B, V) int64: what each token becomes. One row in both serves for every grid."""

    def apply(self, grids):
        """Token tensors (B, S), or labels with -100 in them, turned."""
        import torch

        rows = len(grids)
        moved = grids.gather(1, self.source.expand(rows, -1))
        renamed = self.tokens.expand(rows, -1).gather(1, moved.clamp(min=0).long()).to(grids.dtype)
        return torch.where(moved < 0, moved, renamed)

    @classmethod
    def joined(cls, parts: "Sequence[Symmetry]") -> "Symmetry":
        """Those of all parts, in their order."""
        import torch

        return cls(torch.cat([part.source for part in parts]), torch.cat([part.tokens for part in parts]))

    def take(self, places: Any) -> "Symmetry":
        return Symmetry(self.source[places], self.tokens[places])

    def inverse(self) -> "Symmetry":
        """What undoes it."""
        # moving cells and renaming tokens commute, so the two inverses may be done in the order of `apply`
        return Symmetry(self.source.argsort(1), self.tokens.argsort(1))

    def place(self, values):
        """Numbers (B, S), one a cell, moved as the cells are."""
        return values.gather(1, self.source.expand(len(values), -1))
