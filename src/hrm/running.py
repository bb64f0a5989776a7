"""Puzzles that run at once: each enters a batch and leaves it when it is done, whoever else is in it.

Of a model with a latent carry it is Looks, as many at a puzzle as it needs; of one with candidates for a carry Deduction
(deduction.py), a walk.
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import compress
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .answers import Answers, Thought
from .backends import Engine
from .halting import wants_to_halt
from .looks import Look, states_of
from .model import HRM, Output, State
from .tasks.symmetry import Symmetry

if TYPE_CHECKING:
    from .reasoner import Reasoner

STILL = 0.1
"""A state (of root mean square about 1) that moved less than this over a segment has settled, for halt="residual"."""

Watch = Callable[[Thought], None]


class Batch(Protocol):
    """What runs puzzles at once. Each goes by a number, which its thoughts (`row`) and its answer come back under."""

    def __len__(self) -> int:
        """How many puzzles are in it."""

    def enter(self, numbers: Sequence[int], tokens: np.ndarray, names: np.ndarray) -> None:
        """Puzzles join: tokens (n, S) uint8 and puzzle identifiers (n,)."""

    def step(self, watch: Watch | None = None) -> tuple[list[int], Answers]:
        """Run a segment, whose thoughts `watch` hears; the puzzles that left after it, and their answers, (n, …). There is one
        puzzle in it at least."""

    def drop(self, numbers: Container[int]) -> None:
        """These leave without an answer, if they are in it."""


def answer_all(batch: Batch, tokens: np.ndarray, names: np.ndarray, places: int, watch: Watch | None = None) -> Answers:
    """Answer N puzzles, tokens (N, S), at most `places` at once: waiting ones take the places of those that leave."""
    found, entered = Answers.empty(*tokens.shape), 0
    while len(batch) or entered < len(tokens):
        coming = slice(entered, min(len(tokens), entered + places - len(batch)))
        if coming.stop > coming.start:
            batch.enter(range(coming.start, coming.stop), tokens[coming], names[coming])
            entered = coming.stop
        left, answers = batch.step(watch)
        found.put(np.array(left, np.int64), answers)
    return found


class Looking:
    """Single looks at puzzles, each at its own, of which its thoughts do not tell: what comes of them, Looks says.

    `halt`, `max_segments`, `noise` and `seed` as in a Reasoner, but for "auto" and "full".
    """

    def __init__(
        self,
        model: HRM,
        engine: Engine,
        task: Any,
        *,
        halt: str,
        max_segments: int,
        noise: float,
        seed: int,
        states: bool,
    ):
        self.model, self.engine = model, engine
        self.halt, self.max_segments, self.states = halt, max_segments, states
        self.eye = cache(lambda look: Look(look, model, task, noise=noise, seed=seed))
        self.numbers: list[int] = []
        self.eyes: list[Look] = []
        plain = self.eye(0)
        self.back = plain.back.take(slice(0))  # from what is seen to what was asked
        self.tokens = self.back.source.to(torch.int32)  # as they are seen
        self.names = self.steps = self.tokens.new_zeros(0)
        self.previous = self.tokens  # the answer of the segment before
        self.state = tuple(z.expand(0, -1, -1) for z in plain.start)

    def __len__(self) -> int:
        return len(self.numbers)

    @torch.inference_mode()
    def enter(self, numbers: Sequence[int], tokens: np.ndarray, names: np.ndarray, looks: Sequence[int]) -> None:
        """As in a Batch, but for `looks` (n,): which look each is given."""
        device = self.tokens.device
        eyes = [self.eye(look) for look in looks]
        turn = Symmetry.joined([eye.symmetry for eye in eyes])
        seen = turn.apply(torch.from_numpy(np.ascontiguousarray(tokens)).to(device, torch.int32))
        names = torch.from_numpy(np.ascontiguousarray(names)).to(device, torch.int32)
        self.numbers, self.eyes = [*self.numbers, *numbers], [*self.eyes, *eyes]
        self.back = Symmetry.joined([self.back, *(eye.back for eye in eyes)])
        self.tokens, self.names = torch.cat((self.tokens, seen)), torch.cat((self.names, names))
        self.steps = torch.cat((self.steps, torch.zeros_like(names)))
        self.previous = torch.cat((self.previous, torch.full_like(seen, -1)))
        starts = zip(*(eye.start for eye in eyes), strict=True)
        self.state = tuple(torch.cat((z, *start)) for z, start in zip(self.state, starts, strict=True))

    @torch.inference_mode()
    def step(self, watch: Watch | None = None) -> tuple[list[int], Answers]:
        before = self._disturbed()
        self.state, out = self.engine(before, self.tokens, self.names)
        self.steps = self.steps + 1
        answer = out.logits.argmax(-1).to(torch.int32)
        residual = (self.state[0].float() - before[0].float()).square().mean((1, 2)).sqrt()
        halted = self._wants_to_halt(out, answer, residual)
        leaving = halted | (self.steps >= self.max_segments)
        probabilities, order = out.logits.float().softmax(-1).topk(2)  # (places, S, 2)
        here = Answers(
            self.back.apply(answer).cpu().numpy().astype(np.uint8),
            *(values.cpu().numpy() for values in (self.steps, self._confidence(out), residual, halted)),
            np.ones(len(self), np.int32),
            self.back.apply(order[..., 1]).cpu().numpy().astype(np.uint8),
            self.back.place(probabilities[..., 0] - probabilities[..., 1]).cpu().numpy(),
        )
        gone = leaving.cpu().numpy()
        if watch:
            certainty = self.back.place(probabilities[..., 0]).cpu().numpy()
            for place, number in enumerate(self.numbers):
                watch(
                    Thought(
                        row=number,
                        segment=int(here.segments[place]),
                        tokens=here.tokens[place],
                        certainty=certainty[place],
                        confidence=float(here.confidence[place]),
                        residual=float(here.residual[place]),
                        halted=bool(gone[place]),
                        states=states_of(self.state, place) if self.states else (),
                    )
                )
        left = [number for number, leaves in zip(self.numbers, gone, strict=True) if leaves]
        self.previous = answer
        self._keep(~gone)
        return left, here.take(gone)

    @torch.inference_mode()
    def drop(self, numbers: Container[int]) -> None:
        self._keep(np.array([number not in numbers for number in self.numbers], np.bool_))

    def _keep(self, stay: np.ndarray) -> None:
        """Only the places of this mask."""
        if stay.all():
            return
        self.numbers, self.eyes = list(compress(self.numbers, stay)), list(compress(self.eyes, stay))
        there = torch.from_numpy(np.flatnonzero(stay)).to(self.tokens.device)
        self.tokens, self.names, self.steps = self.tokens[there], self.names[there], self.steps[there]
        self.previous, self.state = self.previous[there], tuple(z[there] for z in self.state)
        self.back = self.back.take(there)

    def _disturbed(self) -> State:
        """The states with the noise of every puzzle's look."""
        if not any(eye.deviation for eye in self.eyes):
            return self.state
        noise = zip(*map(cache(Look.noise), self.eyes, self.steps.tolist()), strict=True)
        return tuple((z + torch.stack(drawn)).to(z.dtype) for z, drawn in zip(self.state, noise, strict=True))

    def _wants_to_halt(self, out: Output, answer: Tensor, residual: Tensor) -> Tensor:
        wants = torch.full_like(answer[:, 0], self.halt != "never", dtype=torch.bool)
        if self.halt in ("q", "settled"):
            wants &= wants_to_halt(out, self.model.config.halting)
        if self.halt in ("stable", "settled"):
            wants &= (answer == self.previous).all(-1)
        if self.halt == "residual":
            wants &= residual < STILL
        return wants

    def _confidence(self, out: Output) -> Tensor:
        if self.model.config.halting != "fixed":
            return out.q_halt.sigmoid()
        return out.logits.float().softmax(-1).amax(-1).amin(-1)


@dataclass
class Course:
    """A puzzle on its way through its looks."""

    tokens: np.ndarray
    """(S,) uint8: the puzzle."""
    name: int
    """Its puzzle identifier."""
    most: int
    """Looks, at most."""
    tried: list[Answers] = field(default_factory=list)
    """What each look answered, one row each."""


class Looks:
    """As many looks at each puzzle as a Reasoner gives it, each puzzle at its own: a running batch.

    After `passes` looks without an accepted answer come the `pins`: plain looks at the puzzle with one open cell filled in.
    Those cells come first between whose two best values the first look wavered most, each with either value.
    What is accepted and which look is taken, both leave to the Reasoner.
    """

    def __init__(self, reasoner: "Reasoner"):
        self.reasoner, self.looking = reasoner, reasoner.looking()
        self.courses: dict[int, Course] = {}

    def __len__(self) -> int:
        return len(self.courses)

    def enter(self, numbers: Sequence[int], tokens: np.ndarray, names: np.ndarray) -> None:
        open_ = (tokens == self.reasoner.task.blank).any(1)  # else there is no cell to pin
        most = self.reasoner.passes + self.reasoner.pins * open_
        self.courses |= zip(numbers, map(Course, tokens, names.tolist(), most.tolist()), strict=True)
        self._look(numbers)

    def step(self, watch: Watch | None = None) -> tuple[list[int], Answers]:
        def told(thought: Thought) -> None:
            watch(replace(thought, look=len(self.courses[thought.row].tried)))

        numbers, answers = self.looking.step(watch and told)
        if not numbers:
            return [], answers
        courses = [self.courses[number] for number in numbers]
        accepted = self.reasoner.accepts(np.stack([course.tokens for course in courses]), answers)
        again, left, found = [], [], [answers.take([])]
        for place, (number, course) in enumerate(zip(numbers, courses, strict=True)):
            course.tried.append(answers.take([place]))
            if len(course.tried) < course.most and not accepted[place]:
                again.append(number)
                continue
            left.append(number)
            found.append(self.reasoner.chosen(course.tried, accepted[place]))
            del self.courses[number]
        if again:
            self._look(again)
        return left, Answers.joined(found)

    def drop(self, numbers: Container[int]) -> None:
        self.looking.drop(numbers)
        self.courses = {number: course for number, course in self.courses.items() if number not in numbers}

    def _look(self, numbers: Sequence[int]) -> None:
        """Every one of these is looked at (again)."""
        courses = [self.courses[number] for number in numbers]
        tokens, looks = zip(*map(self._next, courses), strict=True)
        self.looking.enter(numbers, np.stack(tokens), np.array([course.name for course in courses]), looks)

    def _next(self, course: Course) -> tuple[np.ndarray, int]:
        """The tokens that a puzzle's next look is given, and the number of that look."""
        look = len(course.tried)
        pin = look - self.reasoner.passes
        if pin < 0:
            return course.tokens, look
        first, pinned = course.tried[0], course.tokens.copy()
        blank = pinned == self.reasoner.task.blank
        wavering = np.where(blank, first.margin[0], np.inf).argsort(kind="stable")
        cell = wavering[(pin // 2) % blank.sum()]
        pinned[cell] = (first.runner_up if pin % 2 else first.tokens)[0, cell]
        return pinned, 0
