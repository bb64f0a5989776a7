"""The thread that answers: every request's puzzles run in one batch, which they enter as they come and leave as they are done.

It knows puzzles and Reasoners, and nothing of HTTP. One thread does it all: torch's own threads share each segment's work
where that is large, and their number is set for the whole process.
"""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from ..answers import Solution, Thought
from ..reasoner import Reasoner
from ..running import Batch

logger = logging.getLogger("hrm.serve")


class Busy(Exception):
    """More puzzles wait than may."""


class Failed(Exception):
    """A puzzle without an answer, for no fault of its own."""


Event = Thought | Solution | Failed
Tell = Callable[["Request", Event], None]


@dataclass(eq=False)
class Request:
    """One puzzle on its way through. `tell` hears of it, in the worker's thread: thoughts, if `watched`, and the end."""

    puzzle: str
    grid: np.ndarray
    reasoner: Reasoner
    tell: Tell
    watched: bool = False
    asked_at: float = field(default_factory=time.perf_counter)
    dropped: bool = False
    """Nobody waits for it any more."""


class Worker:
    """Answers puzzles by several Reasoners, `places` at once; `queue` more may wait."""

    def __init__(self, reasoners: Mapping[str, Reasoner], *, places: int = 64, queue: int = 1024):
        self.reasoners, self.places, self.queue = dict(reasoners), places, queue
        self.waiting: deque[Request] = deque()
        self.running: dict[int, Request] = {}
        self.batches: dict[Reasoner, Batch] = {}
        self.changed, self.reading = threading.Condition(), threading.Lock()
        self.stopping, self.numbers = False, itertools.count()
        self.thread = threading.Thread(target=self._work, name="hrm-worker", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """End after the segment that runs; whoever still waits is told so."""
        with self.changed:
            self.stopping = True
            self.changed.notify()
        self.thread.join()

    @property
    def alive(self) -> bool:
        return self.thread.is_alive() and not self.stopping

    def read(self, name: str, puzzle: str, tell: Tell, watched: bool = False) -> Request:
        """A puzzle for the weights of that name. Raises KeyError for unknown ones, ValueError for what is no puzzle."""
        reasoner = self.reasoners[name]
        with self.reading:  # weights for another size are made at their first puzzle
            reasoner = reasoner.fitting(puzzle)
        return Request(puzzle, reasoner.read(puzzle), reasoner, tell, watched)

    def ask(self, requests: list[Request]) -> None:
        """All of them wait for their turn, or none does: then Busy is raised."""
        with self.changed:
            if not self.alive:
                raise Failed("the service is ending")
            if len(self.waiting) + len(requests) > self.queue:
                raise Busy(f"{len(self.waiting)} puzzles wait already, {self.queue} may; ask again later")
            self.waiting += requests
            self.changed.notify()

    def _work(self) -> None:
        with ExitStack() as casts:
            for reasoner in self.reasoners.values():
                casts.enter_context(reasoner.model.cast_once())
            while True:
                with self.changed:
                    self.changed.wait_for(lambda: self.waiting or self.running or self.stopping)
                    if self.stopping:
                        break
                    free = min(self.places - len(self.running), len(self.waiting))
                    coming = [self.waiting.popleft() for _ in range(free)]
                self._leave({number for number, request in self.running.items() if request.dropped})
                for request in coming:
                    self._enter(request)
                for reasoner in list(self.batches):
                    self._step(reasoner)
        for request in (*self.running.values(), *self.waiting):
            request.tell(request, Failed("the service is ending"))

    def _enter(self, request: Request) -> None:
        if request.dropped:
            return
        reasoner, number = request.reasoner, next(self.numbers)
        self.running[number] = request
        if reasoner not in self.batches:
            self.batches[reasoner] = reasoner.running()
        self.batches[reasoner].enter([number], reasoner.task.encode(request.grid)[None], np.zeros(1, np.int32))

    def _leave(self, numbers: set[int]) -> None:
        """Out of their batches, where they still are in one."""
        for number in numbers:
            del self.running[number]
        for reasoner, batch in list(self.batches.items()):
            batch.drop(numbers)
            if not len(batch):
                del self.batches[reasoner]

    def _step(self, reasoner: Reasoner) -> None:
        """A segment of every puzzle of one size and weights; an error ends these, and no others."""
        batch = self.batches[reasoner]
        mine = {number: request for number, request in self.running.items() if request.reasoner is reasoner}

        def show(thought: Thought) -> None:
            request = mine[thought.row]
            if request.watched:
                request.tell(request, thought)

        batch.watch = show if any(request.watched for request in mine.values()) else None
        try:
            left, answers = batch.step()
            for row, number in enumerate(left):
                request = mine[number]
                request.tell(request, reasoner.solution(request.grid, answers, row, []))
        except Exception as error:
            logger.exception("a segment failed")
            left = list(mine)
            words = str(error).splitlines() or [repr(error)]
            for request in mine.values():
                request.tell(request, Failed(f"the model failed: {words[0]}"))
        self._leave(set(left))
