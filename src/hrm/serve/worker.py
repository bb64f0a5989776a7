"""The thread that answers: puzzles of all requests run together, which enter as they come and leave as they are done.

It knows puzzles and Reasoners, and nothing of HTTP. One thread does it all, a segment of each batch in turn: torch's own threads
share a segment's work where that is large, and their number is set for the whole process.
"""

import contextvars
import itertools
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from ..answers import Solution, Thought
from ..reasoner import Reasoner
from ..running import Batch

logger = logging.getLogger("hrm.serve")

FAILING = 3
"""Failed segments in a row from which on the worker is not well."""


class Busy(Exception):
    """More puzzles wait than may."""


class Failed(Exception):
    """A puzzle without an answer, for no fault of its own."""


class Ending(Failed):
    """The worker is told to end."""


Event = Thought | Solution | Failed
Tell = Callable[["Request", Event], None]


@dataclass(eq=False)
class Request:
    """One puzzle on its way through. `tell` hears of it, in the worker's thread: thoughts, if `watched`, and the end."""

    grid: np.ndarray
    reasoner: Reasoner
    tell: Tell
    watched: bool = False
    asked_at: float = field(default_factory=time.perf_counter)
    dropped: bool = False
    """Nobody waits for it any more."""


@dataclass
class Group:
    """The puzzles of one Reasoner that have a place, by their numbers in its batch, which its first turn makes."""

    inside: dict[int, Request] = field(default_factory=dict)
    batch: Batch | None = None

    def show(self, thought: Thought) -> None:
        request = self.inside[thought.row]
        if request.watched:
            request.tell(request, thought)


class Worker:
    """Answers puzzles by several Reasoners: `places` at once, and `queue` more may wait. Begins with the first puzzle.

    Raises ValueError for a Reasoner of ARC tasks.
    """

    def __init__(self, reasoners: Mapping[str, Reasoner], *, places: int = 64, queue: int = 1024):
        for name, reasoner in reasoners.items():
            if reasoner.task.name == "arc":
                raise ValueError(
                    f"{name}: ARC tasks are fitted and voted on, which takes minutes: `hrm solve arc TASK.json`"
                )
        self.reasoners, self.places, self.queue = dict(reasoners), places, queue
        self.waiting: deque[Request] = deque()
        self.groups: dict[Reasoner, Group] = {}
        self.changed, self.reading = threading.Condition(), threading.Lock()
        self.thread: threading.Thread | None = None
        self.ending, self.numbers = False, itertools.count()
        self.failures = 0  # in a row
        self.context = contextvars.copy_context()  # in which torch keeps what a compiled model was compiled with

    def stop(self) -> None:
        """End after the segment that runs; whoever still waits is told so."""
        with self.changed:
            self.ending = True
            self.changed.notify()
        if self.thread:
            self.thread.join()

    @property
    def alive(self) -> bool:
        return not self.ending and (self.thread is None or self.thread.is_alive())

    @property
    def health(self) -> str:
        """ok, failing or ending."""
        if not self.alive:
            return "ending"
        return "failing" if self.failures >= FAILING else "ok"

    @property
    def running(self) -> int:
        """Puzzles that have a place, whether they have begun or not."""
        return sum(len(group.inside) for group in list(self.groups.values()))

    def read(self, name: str, puzzle: str, tell: Tell, watched: bool = False) -> Request:
        """A puzzle for the weights of that name. Raises KeyError for unknown ones, ValueError for what is no puzzle."""
        reasoner = self.reasoners[name]
        cells = reasoner.task.cells_of(puzzle)
        if reasoner.backend not in ("auto", "eager") and cells not in (None, reasoner.task.seq_len):
            raise ValueError(
                f"{cells} cells: with --backend {reasoner.backend} there are {reasoner.task.seq_len}, no others"
            )
        with self.reading:  # weights for another size are made at their first puzzle
            reasoner = reasoner.fitting(puzzle)
        return Request(reasoner.read(puzzle), reasoner, tell, watched)

    def ask(self, requests: list[Request]) -> None:
        """All of them wait for their turn, or none does: Busy or Ending is raised, or ValueError for more than ever find room."""
        with self.changed:
            if not self.alive:
                raise Ending("the service is ending")
            self.waiting = deque(request for request in self.waiting if not request.dropped)
            if len(requests) > self.queue + self.places:
                raise ValueError(f"{len(requests)} puzzles at once: {self.queue + self.places} at most are taken here")
            if len(self.waiting) + len(requests) > self.queue + self.places - self.running:
                raise Busy(
                    f"{self.running} puzzles run and {len(self.waiting)} wait, {self.places} and {self.queue} may; "
                    "ask for fewer, or again later"
                )
            self.waiting += requests
            if not self.thread:
                self.thread = threading.Thread(
                    target=self.context.run, args=(self._work,), name="hrm-worker", daemon=True
                )
                self.thread.start()
            self.changed.notify()

    def _work(self) -> None:
        try:
            with ExitStack() as casts:
                while (entering := self._wait()) is not None:
                    self._round(entering, casts)
        finally:
            with self.changed:
                self.ending = True
            for request in (*self._inside(), *self.waiting):
                request.tell(request, Ending("the service is ending"))

    def _wait(self) -> dict[Reasoner, dict[int, Request]] | None:
        """Until there is something to do; who enters now and has a place from here on, or None where there is no more."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.running or self.ending)
            if self.ending:
                return None
            entering: dict[Reasoner, dict[int, Request]] = defaultdict(dict)
            for _ in range(min(self.places - self.running, len(self.waiting))):
                request = self.waiting.popleft()
                if not request.dropped:
                    entering[request.reasoner][next(self.numbers)] = request
            for reasoner, requests in entering.items():
                self.groups.setdefault(reasoner, Group()).inside.update(requests)
            return entering

    def _round(self, entering: dict[Reasoner, dict[int, Request]], casts: ExitStack) -> None:
        """A turn for every batch; an error ends the puzzles of that one, and no others."""
        for reasoner, group in list(self.groups.items()):
            try:
                if group.batch is None:
                    group.batch = reasoner.running()
                    casts.enter_context(reasoner.model.cast_once())
                self._turn(reasoner, group, entering[reasoner])
            except Exception as error:
                logger.exception("a segment failed")
                self.failures += 1
                words = str(error).splitlines() or [repr(error)]
                for request in group.inside.values():
                    request.tell(request, Failed(f"the model failed: {words[0]}"))
                del self.groups[reasoner]  # the next puzzle makes it anew

    def _turn(self, reasoner: Reasoner, group: Group, entering: dict[int, Request]) -> None:
        """Who is not waited for leaves, who comes enters, and all of them run a segment."""
        gone = {number for number, request in group.inside.items() if request.dropped} - entering.keys()
        if gone:
            group.batch.drop(gone)
            for number in gone:
                del group.inside[number]
        if entering:
            tokens = np.stack([reasoner.task.encode(request.grid) for request in entering.values()])
            group.batch.enter(list(entering), tokens, np.zeros(len(entering), np.int32))
        if group.inside:
            left, answers = group.batch.step(group.show if any(r.watched for r in group.inside.values()) else None)
            ended = [reasoner.solution(group.inside[number].grid, answers, row, []) for row, number in enumerate(left)]
            self.failures = 0
            for number, solution in zip(left, ended, strict=True):
                request = group.inside.pop(number)  # from here on it cannot fail
                request.tell(request, solution)

    def _inside(self) -> list[Request]:
        return [request for group in self.groups.values() for request in group.inside.values()]
