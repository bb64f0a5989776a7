"""Puzzles that run at once: each enters a batch and leaves it when it is done, whoever else is in it.

A batch is of one kind of pass: Looking here is one look at each puzzle by a model with a latent carry, Looks as many as a
puzzle needs, Deduction (deduction.py) a walk with candidates.
"""

from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from .answers import Answers, Thought
from .backends import Engine
from .halting import wants_to_halt
from .looks import Look, states_of
from .model import HRM, Output

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
    """One look at each puzzle, as `eye` sees it; `halt` and `max_segments` as in a Reasoner, but for "auto" and "full"."""

    def __init__(
        self,
        model: HRM,
        engine: Engine,
        eye: Look,
        *,
        halt: str,
        max_segments: int,
        states: bool = False,
    ):
        self.model, self.engine, self.eye = model, engine, eye
        self.halt, self.max_segments, self.states = halt, max_segments, states
        device, cells = model.H_init.device, model.config.seq_len
        self.numbers: list[int] = []
        self.tokens = torch.zeros(0, cells, dtype=torch.int32, device=device)  # as this look sees them
        self.names = torch.zeros(0, dtype=torch.int32, device=device)
        self.steps = torch.zeros(0, dtype=torch.int32, device=device)
        self.previous = self.tokens  # the answer of the segment before
        self.state = eye.initial_state(0)

    def __len__(self) -> int:
        return len(self.numbers)

    @torch.inference_mode()
    def enter(self, numbers: Sequence[int], tokens: np.ndarray, names: np.ndarray) -> None:
        device = self.tokens.device
        seen = self.eye.turn(torch.from_numpy(np.ascontiguousarray(tokens)).to(device, torch.int32))
        names = torch.from_numpy(np.ascontiguousarray(names)).to(device, torch.int32)
        self.numbers += numbers
        self.tokens, self.names = torch.cat((self.tokens, seen)), torch.cat((self.names, names))
        self.steps = torch.cat((self.steps, self.steps.new_zeros(len(numbers))))
        self.previous = torch.cat((self.previous, torch.full_like(seen, -1)))
        self.state = tuple(map(torch.cat, zip(self.state, self.eye.initial_state(len(numbers)), strict=True)))

    @torch.inference_mode()
    def step(self, watch: Watch | None = None) -> tuple[list[int], Answers]:
        before = self.eye.disturb(self.state, self.steps)
        self.state, out = self.engine(before, self.tokens, self.names)
        self.steps = self.steps + 1
        answer = out.logits.argmax(-1).to(torch.int32)
        residual = (self.state[0].float() - before[0].float()).square().mean((1, 2)).sqrt()
        halted = self._wants_to_halt(out, answer, residual)
        leaving = halted | (self.steps >= self.max_segments)
        probabilities, order = out.logits.float().softmax(-1).topk(2)  # (places, S, 2)
        here = Answers(
            self.eye.turn_back(answer).cpu().numpy().astype(np.uint8),
            *(values.cpu().numpy() for values in (self.steps, self._confidence(out), residual, halted)),
            np.ones(len(self), np.int32),
            self.eye.turn_back(order[..., 1]).cpu().numpy().astype(np.uint8),
            self.eye.place_back(probabilities[..., 0] - probabilities[..., 1]).cpu().numpy(),
        )
        gone = leaving.cpu().numpy()
        if watch:
            certainty = self.eye.place_back(probabilities[..., 0]).cpu().numpy()
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
                        look=self.eye.number,
                        states=states_of(self.state, place) if self.states else (),
                    )
                )
        left = [number for number, leaves in zip(self.numbers, gone, strict=True) if leaves]
        self.previous = answer
        self._keep(~leaving, ~gone)
        return left, here.take(gone)

    @torch.inference_mode()
    def drop(self, numbers: Container[int]) -> None:
        stay = np.array([number not in numbers for number in self.numbers], np.bool_)
        if not stay.all():
            self._keep(torch.from_numpy(stay).to(self.tokens.device), stay)

    def _keep(self, stay: Tensor, too: np.ndarray) -> None:
        """Only these places: a mask on the device, and the same on the host."""
        self.numbers = [number for number, stays in zip(self.numbers, too, strict=True) if stays]
        self.tokens, self.names, self.steps = self.tokens[stay], self.names[stay], self.steps[stay]
        self.previous, self.state = self.previous[stay], tuple(z[stay] for z in self.state)

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


class Looks:
    """As many looks at each puzzle as a Reasoner gives it: those of the same number run together.

    For puzzles that come one by one. `Reasoner.run`, which has them all, finishes one look before the next and so keeps its
    batches full; what is accepted and which look is taken, both leave to the Reasoner.
    """

    def __init__(self, reasoner: "Reasoner"):
        self.reasoner = reasoner
        self.tried: dict[int, list[Answers]] = {}
        self.puzzles: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.looking: dict[int, Looking] = {}

    def __len__(self) -> int:
        return len(self.tried)

    def enter(self, numbers: Sequence[int], tokens: np.ndarray, names: np.ndarray) -> None:
        for place, number in enumerate(numbers):
            self.tried[number], self.puzzles[number] = [], (tokens[place], names[place])
        self._begin(0, list(numbers))

    def _begin(self, look: int, numbers: list[int]) -> None:
        if look not in self.looking:
            self.looking[look] = self.reasoner.looking(look)
        tokens, names = zip(*(self.puzzles[number] for number in numbers), strict=True)
        self.looking[look].enter(numbers, np.stack(tokens), np.stack(names))

    def step(self, watch: Watch | None = None) -> tuple[list[int], Answers]:
        left: list[int] = []
        found = [Answers.empty(0, self.reasoner.task.seq_len)]
        for look, looking in sorted(self.looking.items(), reverse=True):
            numbers, answers = looking.step(watch)
            again = []
            for place, number in enumerate(numbers):
                answer, tokens = answers.take([place]), self.puzzles[number][0][None]
                self.tried[number].append(answer)
                if look + 1 < self.reasoner.passes and not self.reasoner.accepts(tokens, answer)[0]:
                    again.append(number)
                    continue
                tried = self.tried.pop(number)
                found.append(tried[0] if len(tried) == 1 else self.reasoner.selected(tokens, tried))
                left.append(number)
                del self.puzzles[number]
            if again:
                self._begin(look + 1, again)
            if not looking:
                del self.looking[look]
        return left, Answers.joined(found)

    def drop(self, numbers: Container[int]) -> None:
        for look, looking in list(self.looking.items()):
            looking.drop(numbers)
            if not looking:
                del self.looking[look]
        for number in [number for number in self.tried if number in numbers]:
            del self.tried[number], self.puzzles[number]
