"""The HTTP side: requests in, records and streams of segments out, one clear line for whatever is wrong."""

import asyncio
import json
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from importlib import resources
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Response
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException as AnyHttpException

from .. import __version__
from ..answers import Solution, Thought
from ..data import BUILTIN, load_split
from ..reasoner import Reasoner
from .worker import Busy, Ending, Event, Failed, Request, Worker

logger = logging.getLogger("hrm.serve")

LONGEST = 8192
"""Characters of a puzzle: the largest mazes that are generated, drawn, and some."""
MOST = 1000
"""Puzzles of one request."""
LARGEST_BODY = 8 << 20
EXPECTED = 'JSON is expected, such as {"puzzle": "..."}, with content-type: application/json'
TOO_SLOW = "no answer in time; ask for fewer puzzles at once, or serve with a larger --timeout"
STILL_THERE = 0.5
"""Seconds after which a waiting request looks whether its client is."""
UNREAD = 10_000
"""Segments that a watcher may be behind."""
ENDS = {422: "refused", 499: "gone", 500: "failed", 503: "sent away", 504: "too slow"}
"""How puzzles end that have no answer, in the metrics."""

Puzzle = Annotated[
    str, Field(min_length=1, max_length=LONGEST, description="as `hrm solve` takes it: a line, or drawn")
]


class Ask(BaseModel):
    """One puzzle, or several."""

    model_config = ConfigDict(extra="forbid")
    puzzle: Puzzle | None = None
    puzzles: Annotated[list[Puzzle], Field(min_length=1, max_length=MOST)] | None = None

    @model_validator(mode="after")
    def one_of_both(self) -> "Ask":
        if (self.puzzle is None) == (self.puzzles is None):
            raise ValueError("give `puzzle` or `puzzles`")
        return self


class AskOne(BaseModel):
    model_config = ConfigDict(extra="forbid")
    puzzle: Puzzle


class Metrics:
    """What Prometheus reads of one app."""

    def __init__(self, worker: Worker, timeout: float):
        self.registry = CollectorRegistry()
        self.puzzles = Counter("hrm_puzzles", "Puzzles, by how they ended", ["weights", "end"], registry=self.registry)
        steps = [0.005 * 2**k for k in range(20) if 0.005 * 2**k < timeout]
        self.seconds = Histogram(
            "hrm_puzzle_seconds",
            "From the request to the answer of a puzzle",
            ["weights"],
            buckets=[*steps, timeout],
            registry=self.registry,
        )
        self.segments = Histogram(
            "hrm_puzzle_segments",
            "Segments of all passes over a puzzle",
            ["weights"],
            buckets=[2**k for k in range(12)],
            registry=self.registry,
        )
        running = Gauge("hrm_running", "Puzzles that have a place in a running batch", registry=self.registry)
        waiting = Gauge("hrm_waiting", "Puzzles that wait for one", registry=self.registry)
        running.set_function(lambda: worker.running)
        waiting.set_function(lambda: sum(not request.dropped for request in list(worker.waiting)))
        for name in worker.reasoners:
            for end in ("verified", "not solved", "answered", *ENDS.values()):
                self.puzzles.labels(name, end)  # from 0, or a first one would be no increase

    def answered(self, name: str, solution: Solution, seconds: float) -> None:
        end = {True: "verified", False: "not solved", None: "answered"}[solution.verified]
        self.puzzles.labels(name, end).inc()
        self.seconds.labels(name).observe(seconds)
        self.segments.labels(name).observe(solution.segments)


class Inbox:
    """Where a handler waits, until `until` of the loop's clock, for what the worker tells of its requests."""

    def __init__(self, client: HttpRequest, timeout: float):
        self.loop, self.client = asyncio.get_running_loop(), client
        self.until = self.loop.time() + timeout
        self.looked = self.loop.time()
        self.events: deque[tuple[Request, Event | str]] = deque()
        self.arrived = asyncio.Event()

    def tell(self, request: Request, event: Event) -> None:
        """Called in the worker's thread. Thoughts, whose arrays are parts of those of the whole batch, come as what is sent."""
        told = sent("segment", shown(request.reasoner, event)) if isinstance(event, Thought) else event
        if len(self.events) > UNREAD:
            request.dropped = True
        try:
            self.loop.call_soon_threadsafe(self._put, request, told)
        except RuntimeError:  # the loop has ended, and with it whoever waited
            request.dropped = True

    def _put(self, request: Request, event: Event | str) -> None:
        self.events.append((request, event))
        self.arrived.set()

    async def next(self) -> tuple[Request, Solution | str]:
        """A solution, or what is sent of a thought. Raises HTTPException where there is no answer: the time is over, the client
        is gone, or the worker has failed or ends. Once the time is over, thoughts are passed over for an end that has come."""
        while True:
            if (now := self.loop.time()) > self.looked + STILL_THERE:
                self.looked = now
                if await self.client.is_disconnected():
                    raise HTTPException(499, "the client is gone")
            while self.events:
                request, event = self.events.popleft()
                if isinstance(event, Failed):
                    raise HTTPException(503 if isinstance(event, Ending) else 500, str(event))
                if not isinstance(event, str) or now <= self.until:
                    return request, event
            if now > self.until:
                raise HTTPException(504, TOO_SLOW)
            self.arrived.clear()
            try:
                await asyncio.wait_for(self.arrived.wait(), min(STILL_THERE, self.until - now) + 0.001)
            except TimeoutError:
                pass


class Stream(StreamingResponse):
    """Server-sent events, cut off `limit` seconds after they began: who does not read holds up a writer without end."""

    def __init__(self, events: AsyncIterator[str], limit: float):
        quiet = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=quiet)
        self.limit = limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            async with asyncio.timeout(self.limit):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            logger.warning("a stream that nobody reads is cut off")


class Service:
    """What the routes share."""

    def __init__(self, worker: Worker, timeout: float):
        self.worker, self.metrics = worker, Metrics(worker, timeout)
        # of its own: whoever stops the worker, in one of asyncio's threads, waits for no reading
        self.readers = ThreadPoolExecutor(thread_name_prefix="hrm-reader")

    def reasoner(self, name: str) -> Reasoner:
        if name not in self.worker.reasoners:
            raise HTTPException(404, f"no weights '{name}': here are {', '.join(self.worker.reasoners)}")
        return self.worker.reasoners[name]

    async def read(
        self, name: str, puzzles: list[str], inbox: Inbox, watched: bool = False
    ) -> list[Request | ValueError]:
        """What each is asked as, or what is wrong with it; in a thread, for a thousand large mazes take a while."""
        self.reasoner(name)

        def one(puzzle: str) -> Request | ValueError:
            if not self.worker.alive:
                raise HTTPException(503, "the service is ending")
            if inbox.loop.time() > inbox.until:
                raise HTTPException(504, TOO_SLOW)
            try:
                return self.worker.read(name, puzzle, inbox.tell, watched)
            except ValueError as error:
                return error

        try:
            found = await inbox.loop.run_in_executor(self.readers, lambda: [one(puzzle) for puzzle in puzzles])
        except HTTPException as error:
            self.metrics.puzzles.labels(name, ENDS[error.status_code]).inc(len(puzzles))
            raise
        self.metrics.puzzles.labels(name, ENDS[422]).inc(sum(isinstance(each, ValueError) for each in found))
        return found

    async def answers(
        self, name: str, requests: list[Request], inbox: Inbox
    ) -> AsyncIterator[tuple[Request, str | dict[str, Any]]]:
        """What is told of them until each has its record: segments, as they are sent, and the record."""
        left = set(requests)
        try:
            try:
                self.worker.ask(requests)
            except (Busy, Ending) as error:
                raise HTTPException(503, str(error), {"Retry-After": "1"}) from None
            except ValueError as error:
                raise HTTPException(422, str(error)) from None
            while left:
                request, event = await inbox.next()
                if isinstance(event, Solution):
                    left.remove(request)
                    seconds = time.perf_counter() - request.asked_at
                    self.metrics.answered(name, event, seconds)
                    yield request, event.record() | {"seconds": round(seconds, 4)}
                else:
                    yield request, event
        except HTTPException as error:
            self.metrics.puzzles.labels(name, ENDS[error.status_code]).inc(len(left))
            raise
        except (asyncio.CancelledError, GeneratorExit):  # its stream was closed
            self.metrics.puzzles.labels(name, ENDS[499]).inc(len(left))
            raise
        finally:
            for request in left:
                request.dropped = True


def create_app(
    reasoners: Mapping[str, Reasoner], *, places: int = 64, queue: int = 1024, timeout: float = 60.0
) -> FastAPI:
    """The service over these Reasoners, each under its name. `places` puzzles run at once and `queue` more may wait;
    `timeout` is the seconds after which a request without an answer ends. `app.state.worker.stop()` ends the work itself."""
    worker = Worker(reasoners, places=places, queue=queue)
    service = Service(worker, timeout)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.readers.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(worker.stop)

    app = FastAPI(
        title="hrm",
        version=__version__,
        lifespan=lifespan,
        description="Puzzles answered by an HRM.",
        max_body_size=LARGEST_BODY,
    )
    app.state.worker = worker
    for kind in (RequestValidationError, AnyHttpException, Exception):
        app.add_exception_handler(kind, as_one_line)

    @app.post("/v1/solve/{name}")
    async def solve(name: str, ask: Ask, client: HttpRequest) -> dict[str, Any]:
        """Answer a puzzle, with a record as that of `hrm solve --format json`; or several, `{"answers": [...]}` in their
        order, of which one that is no puzzle has `error` in its record."""
        inbox, puzzles = Inbox(client, timeout), ask.puzzles or [ask.puzzle]
        read = await service.read(name, puzzles, inbox)
        if ask.puzzles is None and isinstance(read[0], ValueError):
            raise HTTPException(422, str(read[0]))
        records: dict[int, dict[str, Any]] = {
            place: {"puzzle": puzzle, "verified": False, "error": str(each)}
            for place, (puzzle, each) in enumerate(zip(puzzles, read, strict=True))
            if isinstance(each, ValueError)
        }
        places = {each: place for place, each in enumerate(read) if isinstance(each, Request)}
        async for request, record in service.answers(name, list(places), inbox):
            records[places[request]] = record
        return records[0] if ask.puzzles is None else {"answers": [records[place] for place in range(len(puzzles))]}

    @app.post("/v1/watch/{name}")
    async def watch(name: str, ask: AskOne, client: HttpRequest) -> StreamingResponse:
        """Answer a puzzle while it is watched, as server-sent events: `puzzle` as a line, a `segment` after each, then
        `solution` or `error`."""
        inbox = Inbox(client, timeout)
        (request,) = await service.read(name, [ask.puzzle], inbox, watched=True)
        if isinstance(request, ValueError):
            raise HTTPException(422, str(request))
        answers = service.answers(name, [request], inbox)
        first = await anext(answers)  # whoever is sent away hears it as a status

        async def events() -> AsyncIterator[str]:
            yield sent("puzzle", {"puzzle": request.reasoner.task.format(request.grid)})
            told = first
            try:
                while told:
                    yield told[1] if isinstance(told[1], str) else sent("solution", told[1])
                    told = await anext(answers, None)
            except HTTPException as error:
                yield sent("error", {"error": error.detail})
            finally:
                request.dropped = True

        return Stream(events(), 2 * timeout)

    @app.get("/v1/weights")
    async def weights() -> dict[str, Any]:
        """What answers here: its name, kind of puzzle and cells, and what its maker says of it."""
        return {name: about(reasoner) for name, reasoner in worker.reasoners.items()}

    @app.get("/v1/example/{name}")
    def example(name: str, response: Response) -> dict[str, str]:
        """A puzzle to try, drawn at random from the test rows of a built-in set."""
        task = service.reasoner(name).task
        sets = [own for own, (_, other) in BUILTIN.items() if (other.name, other.seq_len) == (task.name, task.seq_len)]
        if not sets:
            raise HTTPException(404, f"no examples of {task.name} of {task.seq_len} cells are built in")
        response.headers["Cache-Control"] = "no-store"
        rows = test_rows(sets[0])
        return {"puzzle": task.format(task.decode(rows[np.random.default_rng().integers(len(rows))]))}

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """200 while puzzles are answered; 503 where the last segments all failed, or the service ends."""
        health = worker.health
        return JSONResponse({"status": health, "version": __version__}, 200 if health == "ok" else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """For Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.head("/", include_in_schema=False)
    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return (resources.files("hrm.serve") / "page.html").read_text(encoding="utf-8")

    return app


@cache
def test_rows(built_in: str) -> np.ndarray:
    return load_split(built_in, "test").inputs


def about(reasoner: Reasoner) -> dict[str, Any]:
    told = {name: reasoner.card[name] for name in ("trained_on", "summary") if name in reasoner.card}
    parameters = sum(p.numel() for p in reasoner.model.parameters())
    return {"task": reasoner.task.name, "cells": reasoner.task.seq_len, "parameters": parameters, **told}


def shown(reasoner: Reasoner, thought: Thought) -> dict[str, Any]:
    """A thought in JSON: `certainty` of each cell of the `answer` so far, `marks` the values that still stand in each."""
    told = {
        "segment": thought.segment,
        "pass": thought.look + 1,
        "answer": reasoner.answer(thought),
        "certainty": [rounded(value, 3) for value in thought.certainty.tolist()],
        "confidence": rounded(thought.confidence, 4),
        "moved": rounded(thought.residual, 4),
        "halted": thought.halted,
    }
    if thought.candidates is not None:
        symbols = reasoner.task.symbols
        values = thought.candidates[:, -len(symbols) :]
        told["marks"] = ["".join(symbols[v] for v in np.flatnonzero(cell)) for cell in values]
    return told


def rounded(value: float, digits: int) -> float | None:
    """As JSON has it, which knows no infinity."""
    return round(value, digits) if math.isfinite(value) else None


def sent(event: str, data: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"event: {event}\ndata: {json.dumps(data, allow_nan=False)}\n\n"


async def as_one_line(client: HttpRequest, error: Exception) -> JSONResponse:
    """Whatever goes wrong, as `{"error": "one line"}`."""
    status, words, headers = 500, "this is a mistake of the service; its log tells more", None
    if isinstance(error, RequestValidationError):
        fault = error.errors()[0]
        status, words = 422, fault["msg"].removeprefix("Value error, ")
        where = ".".join(str(part) for part in fault["loc"] if part != "body")
        if fault["type"] == "json_invalid":
            where, words = "body", f"{EXPECTED}; this is no JSON: {fault['ctx']['error']}"
        elif fault["loc"] == ("body",) and fault["type"] != "value_error":
            where, words = "body", EXPECTED
        words = f"{where}: {words}" if where else words
    elif isinstance(error, AnyHttpException):
        status, words, headers = error.status_code, error.detail, error.headers
        if status == 400:  # no text, or deeper than a parser goes
            status, words = 422, f"body: {EXPECTED}"
    return JSONResponse({"error": " ".join(words.split())}, status, headers)
