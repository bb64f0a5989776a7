"""What a Reasoner gives back: answers to many puzzles as arrays, thoughts for those who watch, solutions as text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Answers:
    """What the model answered to N puzzles, in the order asked."""

    tokens: np.ndarray
    """(N, S) uint8: the most probable token of every cell."""
    segments: np.ndarray
    """(N,) int32: segments each puzzle ran."""
    confidence: np.ndarray
    """(N,) float32 in 0..1: sigmoid of Q_halt, or for a model without one the probability of its least sure cell."""
    residual: np.ndarray
    """(N,) float32: how far the carry moved in the last segment: root mean square of the change of z_H, or the share of
    the candidates that fell."""
    halted: np.ndarray
    """(N,) bool: the pass ended by its halting rule, not at the bound on segments."""
    passes: np.ndarray
    """(N,) int32: passes run until the answer was accepted."""
    runner_up: np.ndarray
    """(N, S) uint8: the second most probable token of every cell."""
    margin: np.ndarray
    """(N, S) float32: how much less probable it is."""

    @classmethod
    def empty(cls, count: int, cells: int) -> "Answers":
        kinds = (np.int32, np.float32, np.float32, np.bool_, np.int32)
        return cls(
            np.zeros((count, cells), np.uint8),
            *(np.zeros(count, kind) for kind in kinds),
            np.zeros((count, cells), np.uint8),
            np.zeros((count, cells), np.float32),
        )

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> "Answers":
        """The rows of all parts, of which there is one at least, in their order."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def put(self, places: np.ndarray, other: "Answers") -> None:
        """Overwrite the rows `places`, indices or a mask, by the rows of `other`."""
        for name in self.__dataclass_fields__:
            getattr(self, name)[places] = getattr(other, name)

    def take(self, places: np.ndarray) -> "Answers":
        return Answers(*(getattr(self, name)[places] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Thought:
    """The state of mind of one puzzle after a segment, for those who watch."""

    row: int
    """Which of the puzzles asked about."""
    segment: int
    tokens: np.ndarray
    """(S,) uint8: the answer so far."""
    certainty: np.ndarray
    """(S,) float32: probability of each cell's token."""
    confidence: float
    residual: float
    """How far the carry moved in this segment (see Answers)."""
    halted: bool
    look: int = 0
    """Which pass over the puzzle this belongs to."""
    candidates: np.ndarray | None = None
    """(S, V) bool: the tokens that stand after this segment, where they are the carry; a Sudoku's digit d is token d + 1."""
    states: tuple[np.ndarray, ...] = ()
    """z_H and z_L after this segment, (N, D) float32 each, where the Reasoner was asked for `states`: of N positions, in the
    order of the model's, the puzzle as this pass saw it."""


@dataclass(frozen=True)
class Solution:
    """An answered puzzle."""

    puzzle: str
    answer: str
    verified: bool | None
    """The answer passes the puzzle's own rules; None where none are known."""
    fault: str
    """Why not, in words; empty where it does or none are known."""
    segments: int
    """Of all passes together."""
    confidence: float
    passes: int
    trace: list[Thought] = field(default_factory=list, repr=False)

    def record(self) -> dict[str, Any]:
        """What is told of it in JSON, by the shell and over HTTP; `fault` is there where the answer fails."""
        told = {
            "puzzle": self.puzzle,
            "answer": self.answer,
            "verified": self.verified,
            "segments": self.segments,
            "passes": self.passes,
            "confidence": round(self.confidence, 4) if math.isfinite(self.confidence) else None,
        }
        return told | ({"fault": self.fault} if self.fault else {})
