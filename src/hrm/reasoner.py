"""Inference: a running batch of puzzles in which finished rows leave, waiting ones take their places, text in and out.

The label never enters this file. The puzzle's rules enter to say afterwards whether an answer is right, and, only where
`check` asks for it, to accept or refuse the answer of a pass; nothing else chooses by them.
"""

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from .answers import Answers, Solution, Thought
from .backends import engine_for
from .checkpoint import Weights, load_weights
from .deduction import Deduction
from .looks import votes
from .model import HRM
from .running import Batch, Looking, Looks, answer_all
from .tasks import task_for

HALT_RULES = ("auto", "q", "stable", "settled", "residual", "never")
SELECTIONS = ("confidence", "residual", "votes")
DEDUCTION_PASSES = 32


class Reasoner:
    """Solve puzzles with a model.

    `max_segments`: bound on segments a pass (default: as configured, `halt_max_steps_eval`). `halt`: when a pass stops
    before that: "q" by the model's learned wish, "stable" when its answer did not change over a segment, "settled" when
    both agree, "residual" when its state hardly moved over a segment, "never", or "auto": settled where the model learned
    a wish, else stable. `batch_size`: puzzles that run at once.

    A model whose carry is candidates makes `passes` of another kind: each ends in a full grid or, by the model's own
    word, a dead end, and the next sets out from the most probable branch left (deduction.py); it halts when its grid is
    full, and `select`, `accept`, `noise` and `pins` are not for it. `patience`: segments in a row that rule nothing out before it
    assumes a value (default: as configured); where it is given alone, passes may be longer by as much. Its default is 32
    passes; that of the others, to which the following applies, is one.

    `passes`: up to so many looks at a puzzle. The first is the plain one; each other takes a random symmetry of the
    puzzle, undone afterwards, and a random initial state where the model was trained with such; with `noise` > 0 normal
    noise of that deviation joins the state before each of its segments (PTRM). `select`: how one answer is chosen.
    "confidence": a pass that halts of its own accord with confidence above `accept` (default: as configured, mostly one
    half) is accepted and ends the looking, else the most confident; "residual": of all passes the one whose state moved
    least at the end (EqR); "votes": the answer with the largest sum of confidences over all passes. With `pins` a puzzle
    still without an accepted answer is asked up to so many times more, with a cell filled in that the first look wavered
    over. With `check` a pass is accepted if, and only if, its answer obeys the puzzle's rules.

    `states`: the thoughts of a trace hold z_H and z_L as well, up to a megabyte each.

    `backend`: what runs the segments, see backends.py. Raises ValueError for options that are unknown, out of range or not
    for this model.
    """

    def __init__(
        self,
        model: HRM,
        task: str = "sudoku",
        *,
        max_segments: int | None = None,
        halt: str = "auto",
        passes: int | None = None,
        patience: int | None = None,
        select: str = "confidence",
        accept: float | None = None,
        check: bool = False,
        noise: float = 0.0,
        pins: int = 0,
        seed: int = 0,
        backend: str = "auto",
        batch_size: int = 64,
        states: bool = False,
        card: dict | None = None,
    ):
        deduces = model.config.deduces
        passes = (DEDUCTION_PASSES if deduces else 1) if passes is None else passes
        patient = model.config.waits if patience is None else patience
        if max_segments is None:
            max_segments = model.config.max_segments * max(1, -(-patient // model.config.waits))
        for name, value, known in (("halt", halt, HALT_RULES), ("select", select, SELECTIONS)):
            if value not in known:
                raise ValueError(f"{name}='{value}': choose one of {', '.join(known)}")
        learned = model.config.halting != "fixed"
        if halt in ("q", "settled") and not learned:
            raise ValueError(f"halt='{halt}': this model has learned no halting; use stable or never")
        counts = {"passes": passes, "max_segments": max_segments, "patience": patient, "batch_size": batch_size}
        for name, value, least in (*((name, value, 1) for name, value in counts.items()), ("pins", pins, 0)):
            if not least <= value < 2**31:
                raise ValueError(f"{name}={value}: at {f'least {least}' if value < least else 'most 2147483647'}")
        if noise < 0:
            raise ValueError(f"noise={noise}: not negative")
        if accept is not None and not 0 <= accept <= 1:
            raise ValueError(f"accept={accept}: from 0 to 1")
        if pins and select != "confidence":
            raise ValueError(f"pins={pins}: pin and retry goes by confidence; not with select={select}")
        if deduces and (select != "confidence" or accept is not None or noise or pins or halt not in ("auto", "never")):
            raise ValueError("this model carries candidates: only max_segments, passes, patience and check apply to it")
        if patience is not None and not deduces:
            raise ValueError(f"patience={patience}: only for a model that carries candidates")
        self.model = model.eval()
        self.task = task_for(task, model.config.seq_len)
        if self.task.sound is None and (passes > 1 or pins or check):
            instead = ": use votes" if task == "arc" else ""
            raise ValueError(f"passes, pins and check are not for {task}, of which no rules are known{instead}")
        if passes == 1 and (noise or select != "confidence"):
            raise ValueError("noise and select are for several passes: give passes as well")
        if passes + pins == 1 and check:
            raise ValueError("check chooses among several passes: give passes or pins as well")
        known = model.config.vocab_size
        if passes > 1 and not deduces and known != self.task.vocab_size:
            raise ValueError(f"passes={passes}: {task} has {self.task.vocab_size} tokens, this model knows {known}")
        self.max_segments, self.patience = max_segments, patient
        self.halt = "full" if deduces else ("settled" if learned else "stable") if halt == "auto" else halt
        self.passes, self.select, self.check = passes, select, check
        sure = model.config.accept_above if accept is None else accept
        self.accept = None if deduces or check or select != "confidence" or passes + pins == 1 else sure
        if accept is not None and self.accept is None:
            raise ValueError(
                f"accept={accept}: only where confidence chooses among several: give passes or pins, not check"
            )
        self.noise, self.pins, self.seed = noise, pins, seed
        self.backend, self.engine = backend, engine_for(backend, self.model, task)
        self.others: dict[int, Reasoner] = {}
        self.batch_size, self.states = batch_size, states
        self.card = card or {}

    @classmethod
    def load(
        cls,
        where: str | Path,
        device: str = "auto",
        *,
        task: str | None = None,
        forward_dtype: str = "auto",
        seq_len: int | None = None,
        **options,
    ) -> "Reasoner":
        """A Reasoner over `hrm.load(where)`: shipped weights by name, a run folder, a weights folder, or a file.

        `seq_len`: solve puzzles of so many cells, where the weights are for any number (those of mazes are).
        `task`: raise ValueError for weights of another.
        """
        found = load_weights(where, device, forward_dtype=forward_dtype)
        if task not in (None, found.task):
            raise ValueError(f"{where}: weights for {found.task}, not for {task}")
        found = found.resized(seq_len or found.model.config.seq_len)
        return cls(found.model, found.task, card=found.card, **options)

    def fitting(self, puzzle: str) -> "Reasoner":
        """This Reasoner for puzzles as large as the text, where its weights are for any size; else itself.

        Raises ValueError if the text is no puzzle of the size that it seems to have.
        """
        cells = None if self.task.name == "arc" else self.task.cells_of(puzzle)
        if cells in (None, self.task.seq_len):
            return self
        if cells not in self.others:
            task = task_for(self.task.name, cells)
            task.parse(puzzle)
            model = Weights(self.model, self.task.name).resized(cells).model
            if model is self.model:
                return self
            other = copy(self)
            other.model, other.task = model, task
            other.engine = engine_for(self.backend, model, self.task.name)
            self.others[cells] = other
        return self.others[cells]

    def read(self, puzzle: str) -> np.ndarray:
        """The grid of a puzzle given as text. Raises ValueError if it is none, or has no answer at first sight."""
        if self.task.name == "arc":
            raise ValueError("ARC tasks are not puzzles in one text: use `hrm solve arc TASK.json`, or `run`")
        grid = self.task.parse(puzzle)
        if fault := self.task.clues_fault(grid):
            raise ValueError(f"this has no answer: {fault}")
        return grid

    def solve(self, puzzle: str, watch: Callable[[Thought], None] | None = None) -> Solution:
        """Solve one puzzle given as text; the solution carries the trace of its segments.

        Raises ValueError if the text is not a puzzle of this model's kind.
        """
        if (fitting := self.fitting(puzzle)) is not self:
            return fitting.solve(puzzle, watch)
        trace: list[Thought] = []

        def keep(thought: Thought) -> None:
            trace.append(thought)
            if watch:
                watch(thought)

        grid = self.read(puzzle)
        answers = self.run(self.task.encode(grid)[None], watch=keep)
        return self.solution(grid, answers, 0, trace)

    def solve_many(self, puzzles: Iterable[str], at_once: int = 4096) -> Iterator[Solution]:
        """Solve a stream of puzzles, in order; they share the running batch, `at_once` of them at a time.

        Raises ValueError where a text is no puzzle, before any of the same `at_once` is answered.
        """
        puzzles = iter(puzzles)
        while chunk := list(islice(puzzles, at_once)):
            fitting = [self.fitting(puzzle) for puzzle in chunk]
            grids = [reasoner.read(puzzle) for reasoner, puzzle in zip(fitting, chunk, strict=True)]
            solutions: dict[int, Solution] = {}
            for reasoner in dict.fromkeys(fitting):
                rows = [k for k, other in enumerate(fitting) if other is reasoner]
                answers = reasoner.run(reasoner.task.encode(np.stack([grids[k] for k in rows])))
                solutions |= {k: reasoner.solution(grids[k], answers, row, []) for row, k in enumerate(rows)}
            yield from (solutions[k] for k in range(len(chunk)))

    def answer(self, thought: Thought) -> str:
        """What a thought holds for the answer, as text."""
        return self.task.format(self.task.decode(thought.tokens))

    def solution(self, grid: np.ndarray, answers: Answers, row: int, trace: list[Thought]) -> Solution:
        """A row of answers as the solution of a puzzle that was read."""
        answer = self.task.decode(answers.tokens[row])
        fault = self.task.fault(grid, answer)
        return Solution(
            puzzle=self.task.format(grid),
            answer=self.task.format(answer),
            verified=not fault if self.task.sound else None,
            fault=fault,
            segments=int(answers.segments[row]),
            confidence=float(answers.confidence[row]),
            passes=int(answers.passes[row]),
            trace=trace,
        )

    @torch.inference_mode()
    def run(
        self,
        tokens: np.ndarray,
        puzzle_identifiers: np.ndarray | None = None,
        watch: Callable[[Thought], None] | None = None,
    ) -> Answers:
        """Answer N puzzles, in their order: tokens (N, S) uint8 and, where the model knows puzzles by name, identifiers (N,).

        Raises ValueError for puzzles of another size than the model is built for.
        """
        if tokens.shape[1:] != (cells := self.model.config.seq_len,):
            shape = f"tokens of shape {tokens.shape}: expected (puzzles, {cells})"
            raise ValueError(f"{shape}; Reasoner.load(…, seq_len=…) makes weights fit that are for any size")
        names = np.zeros(len(tokens), np.int32) if puzzle_identifiers is None else puzzle_identifiers
        with self.model.cast_once():
            return answer_all(self.running(), tokens, names, self.batch_size, watch)

    def accepts(self, tokens: np.ndarray, answers: Answers) -> np.ndarray:
        """(N,) bool: no further look is needed."""
        if self.check:
            return self._obey_rules(tokens, answers.tokens)
        if self.accept is None:
            return np.zeros(len(tokens), np.bool_)
        return (answers.confidence > self.accept) & (answers.halted | (self.halt == "never"))

    def _obey_rules(self, tokens: np.ndarray, answers: np.ndarray) -> np.ndarray:
        return self.task.verify_batch(self.task.decode(tokens), self.task.decode(answers))

    def chosen(self, tried: list[Answers], accepted: bool = False) -> Answers:
        """One answer to each puzzle out of those of its looks, by the model's signals; the last where that was `accepted`."""
        worth = np.stack([answers.confidence for answers in tried])  # (k, N)
        if self.select == "residual":
            worth = -np.stack([answers.residual for answers in tried])
        elif self.select == "votes":
            worth = votes(np.stack([answers.tokens for answers in tried]), worth)
        worth = np.where(np.isnan(worth), -np.inf, worth)
        worth[-1] = np.inf if accepted else worth[-1]
        best = worth.argmax(0)
        found = Answers.empty(*tried[0].tokens.shape)
        for look, answers in enumerate(tried):
            found.put(best == look, answers.take(best == look))
        found.passes[:], found.segments[:] = len(tried), sum(answers.segments for answers in tried)
        return found

    def looking(self) -> Looking:
        """An empty batch of single looks."""
        how = {name: getattr(self, name) for name in ("halt", "max_segments", "noise", "seed", "states")}
        return Looking(self.model, self.engine, self.task, **how)

    def running(self) -> Batch:
        """An empty batch, of no fixed size, whose puzzles enter and leave at any time and are answered as by `run`.

        Inside `with reasoner.model.cast_once()` the weights are cast once, not at every step.
        """
        if not self.model.config.deduces:
            return Looks(self)
        how = {name: getattr(self, name) for name in ("max_segments", "passes", "patience", "states")}
        obeys = self._obey_rules if self.check else None
        return Deduction(self.model, self.engine, self.task, obeys=obeys, **how)
