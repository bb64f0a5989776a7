"""Inference: a running batch of puzzles in which finished rows leave, waiting ones take their places, text in and out.

The label never enters this file, and the puzzle's rules enter only to say afterwards whether an answer is right.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoint import load_weights
from .halting import wants_to_halt
from .model import HRM, Output, State
from .tasks import task_for

HALT_RULES = ("auto", "q", "stable", "settled", "never")


@dataclass(frozen=True)
class Answers:
    """What the model answered to N puzzles, in the order asked."""

    tokens: np.ndarray
    """(N, S) uint8: the most probable token of every cell."""
    segments: np.ndarray
    """(N,) int32: segments each puzzle ran."""
    confidence: np.ndarray
    """(N,) float32 in 0..1: sigmoid of Q_halt, or for a model without one the probability of its least sure cell."""


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
    """How far z_H moved in this segment: root mean square of the change."""
    halted: bool


@dataclass(frozen=True)
class Solution:
    """An answered puzzle."""

    puzzle: str
    answer: str
    verified: bool
    """The answer passes the puzzle's own rules."""
    fault: str
    """Why not, in words; empty where verified."""
    segments: int
    confidence: float
    trace: list[Thought] = field(default_factory=list, repr=False)


class Reasoner:
    """Solve puzzles with a model.

    `max_segments`: bound on segments a puzzle (default: as configured, `halt_max_steps_eval`). `halt`: when a puzzle stops before
    that: "q" by the model's learned wish, "stable" when its answer did not change over a segment, "settled" when both
    agree, "never", or "auto": settled where the model learned a wish, else stable. `batch_size`: puzzles that run at once.
    """

    def __init__(
        self,
        model: HRM,
        task: str = "sudoku",
        *,
        max_segments: int | None = None,
        halt: str = "auto",
        batch_size: int = 64,
        card: dict | None = None,
    ):
        if halt not in HALT_RULES:
            raise ValueError(f"halt='{halt}': choose one of {', '.join(HALT_RULES)}")
        learned = model.config.halting != "fixed"
        if halt in ("q", "settled") and not learned:
            raise ValueError(f"halt='{halt}': this model has learned no halting; use stable or never")
        self.model = model.eval()
        self.task = task_for(task, model.config.seq_len)
        self.max_segments = max_segments or model.config.max_segments
        self.halt = ("settled" if learned else "stable") if halt == "auto" else halt
        self.batch_size = batch_size
        self.card = card or {}

    @classmethod
    def load(cls, where: str | Path, device: str = "auto", *, forward_dtype: str = "auto", **options) -> "Reasoner":
        """A Reasoner over `hrm.load(where)`: shipped weights by name, a run folder, a weights folder, or a file."""
        found = load_weights(where, device, forward_dtype=forward_dtype)
        return cls(found.model, found.task, card=found.card, **options)

    def read(self, puzzle: str) -> np.ndarray:
        """The grid of a puzzle given as text. Raises ValueError if it is none, or its givens contradict each other."""
        grid = self.task.parse(puzzle)
        if fault := self.task.clues_fault(grid):
            raise ValueError(f"the givens contradict each other: {fault}")
        return grid

    def solve(self, puzzle: str, watch: Callable[[Thought], None] | None = None) -> Solution:
        """Solve one puzzle given as text; the solution carries the trace of its segments.

        Raises ValueError if the text is not a puzzle of this model's kind.
        """
        trace: list[Thought] = []

        def keep(thought: Thought) -> None:
            trace.append(thought)
            if watch:
                watch(thought)

        grid = self.read(puzzle)
        answers = self.run(self.task.encode(grid)[None], watch=keep)
        return self._solution(grid, answers, 0, trace)

    def solve_many(self, puzzles: Iterable[str], at_once: int = 4096) -> Iterator[Solution]:
        """Solve a stream of puzzles, in order; they share the running batch, `at_once` of them at a time."""
        puzzles = iter(puzzles)
        while chunk := list(islice(puzzles, at_once)):
            grids = [self.read(puzzle) for puzzle in chunk]
            answers = self.run(self.task.encode(np.stack(grids)))
            for row, grid in enumerate(grids):
                yield self._solution(grid, answers, row, [])

    def _solution(self, grid: np.ndarray, answers: Answers, row: int, trace: list[Thought]) -> Solution:
        answer = self.task.decode(answers.tokens[row])
        fault = self.task.fault(grid, answer)
        return Solution(
            puzzle=self.task.format(grid),
            answer=self.task.format(answer),
            verified=not fault,
            fault=fault,
            segments=int(answers.segments[row]),
            confidence=float(answers.confidence[row]),
            trace=trace,
        )

    @torch.inference_mode()
    def run(
        self,
        tokens: np.ndarray,
        puzzle_identifiers: np.ndarray | None = None,
        watch: Callable[[Thought], None] | None = None,
    ) -> Answers:
        """Answer N puzzles: tokens (N, S) uint8 and, where the model knows puzzles by name, identifiers (N,)."""
        device = self.model.H_init.device
        count = len(tokens)
        waiting = torch.from_numpy(np.ascontiguousarray(tokens)).to(device, torch.int32)
        names = np.zeros(count, np.int32) if puzzle_identifiers is None else puzzle_identifiers
        names = torch.from_numpy(np.ascontiguousarray(names)).to(device, torch.int32)
        found = Answers(np.zeros_like(tokens), np.zeros(count, np.int32), np.zeros(count, np.float32))

        rows = torch.zeros(0, dtype=torch.long, device=device)  # (places,) which puzzle sits in each place
        steps = torch.zeros(0, dtype=torch.int32, device=device)
        state = self.model.initial_state(0)
        previous = waiting[:0]
        entered = 0
        while len(rows) or entered < count:
            coming = min(self.batch_size - len(rows), count - entered)
            if coming:
                rows = torch.cat((rows, torch.arange(entered, entered + coming, device=device)))
                steps = torch.cat((steps, steps.new_zeros(coming)))
                state = tuple(map(torch.cat, zip(state, self.model.initial_state(coming), strict=True)))
                previous = torch.cat((previous, previous.new_full((coming, waiting.shape[1]), -1)))
                entered += coming
            before = state
            state, out = self.model(state, waiting[rows], self.model.puzzle_rows(names[rows]))
            steps = steps + 1
            answer = out.logits.argmax(-1).to(torch.int32)
            halted = (steps >= self.max_segments) | self._wants_to_halt(out, answer, previous)
            confidence = self._confidence(out)
            if watch:
                self._tell(watch, rows, steps, answer, out, confidence, before, state, halted)
            done = rows[halted].cpu().numpy()
            found.tokens[done] = answer[halted].cpu().numpy()
            found.segments[done] = steps[halted].cpu().numpy()
            found.confidence[done] = confidence[halted].cpu().numpy()
            stay = ~halted
            rows, steps, previous = rows[stay], steps[stay], answer[stay]
            state = tuple(z[stay] for z in state)
        return found

    def _wants_to_halt(self, out: Output, answer: Tensor, previous: Tensor) -> Tensor:
        wants = torch.full_like(answer[:, 0], self.halt != "never", dtype=torch.bool)
        if self.halt in ("q", "settled"):
            wants &= wants_to_halt(out, self.model.config.halting)
        if self.halt in ("stable", "settled"):
            wants &= (answer == previous).all(-1)
        return wants

    def _confidence(self, out: Output) -> Tensor:
        if self.model.config.halting != "fixed":
            return out.q_halt.sigmoid()
        return out.logits.float().softmax(-1).amax(-1).amin(-1)

    def _tell(
        self,
        watch: Callable[[Thought], None],
        rows: Tensor,
        steps: Tensor,
        answer: Tensor,
        out: Output,
        confidence: Tensor,
        before: State,
        after: State,
        halted: Tensor,
    ) -> None:
        certainty = out.logits.float().softmax(-1).amax(-1).cpu().numpy()
        residual = (after[0].float() - before[0].float()).square().mean((1, 2)).sqrt().tolist()
        for place, row in enumerate(rows.tolist()):
            watch(
                Thought(
                    row=row,
                    segment=int(steps[place]),
                    tokens=answer[place].cpu().numpy().astype(np.uint8),
                    certainty=certainty[place],
                    confidence=float(confidence[place]),
                    residual=residual[place],
                    halted=bool(halted[place]),
                )
            )
