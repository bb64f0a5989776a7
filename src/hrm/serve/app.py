"""The HTTP side: requests in, records and streams of segments out, one clear line for whatever is wrong."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from importlib import resources
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException as AnyHttpException

from .. import __version__
from ..answers import Solution, Thought
from ..data import BUILTIN, load_split
from ..reasoner import Reasoner
from .worker import Busy, Event, Failed, Request, Worker

logger = logging.getLogger("hrm.serve")

LONGEST = 4096
"""Characters of a puzzle."""
MOST = 1000
"""Puzzles of one request."""
LARGEST_BODY = 8 << 20
EXPECTED = 'JSON is expected, such as {"puzzle": "..."}, with content-type: application/json'
STILL_THERE = 0.5
"""Seconds after which a waiting request looks whether its client is."""

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

    def __init__(self, worker: Worker):
        self.registry = CollectorRegistry()
        names = ["weights"]
        self.puzzles = Counter("hrm_puzzles", "Puzzles, by how they ended", [*names, "end"], registry=self.registry)
        self.seconds = Histogram(
            "hrm_seconds", "From the request to the answer of a puzzle", names, registry=self.registry
        )
        self.segments = Histogram(
            "hrm_segments",
            "Segments of all passes over a puzzle",
            names,
            buckets=[2**k for k in range(12)],
            registry=self.registry,
        )
        running = Gauge("hrm_running", "Puzzles in the running batch", registry=self.registry)
        waiting = Gauge("hrm_waiting", "Puzzles that wait for a place in it", registry=self.registry)
        running.set_function(lambda: len(worker.running))
        waiting.set_function(lambda: len(worker.waiting))

    def count(self, name: str, request: Request, solution: Solution) -> None:
        end = {True: "verified", False: "not solved", None: "answered"}[solution.verified]
        self.puzzles.labels(name, end).inc()
        self.seconds.labels(name).observe(time.perf_counter() - request.asked_at)
        self.segments.labels(name).observe(solution.segments)


class Inbox:
    """Where a handler waits for what the worker tells of its requests."""

    def __init__(self):
        self.loop, self.events = asyncio.get_running_loop(), asyncio.Queue()

    def tell(self, request: Request, event: Event) -> None:
        """Called in the worker's thread."""
        try:
            self.loop.call_soon_threadsafe(self.events.put_nowait, (request, event))
        except RuntimeError:  # the loop has ended, and with it whoever waited
            request.dropped = True

    async def next(self, client: HttpRequest, until: float) -> tuple[Request, Thought | Solution]:
        """Raises HTTPException where there is no answer: `until`, of the loop's clock, has come, the client is gone, or the
        worker has failed."""
        while (left := until - self.loop.time()) > 0:
            try:
                request, event = await asyncio.wait_for(self.events.get(), min(STILL_THERE, left))
            except TimeoutError:
                if await client.is_disconnected():
                    raise HTTPException(499, "the client is gone") from None
                continue
            if isinstance(event, Failed):
                raise HTTPException(500, str(event))
            return request, event
        raise HTTPException(504, "no answer in time; ask for fewer puzzles at once, or start with a larger --timeout")


def create_app(
    reasoners: Mapping[str, Reasoner], *, places: int = 64, queue: int = 1024, timeout: float = 60.0
) -> FastAPI:
    """The service over these Reasoners, each under its name. `places` puzzles run at once and `queue` more may wait;
    `timeout` is the seconds after which a request without an answer ends."""
    worker = Worker(reasoners, places=places, queue=queue)
    metrics = Metrics(worker)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    app = FastAPI(title="hrm", version=__version__, lifespan=lifespan, description="Puzzles answered by an HRM.")
    app.add_middleware(BodyLimit)
    for kind in (RequestValidationError, AnyHttpException, Exception):
        app.add_exception_handler(kind, as_one_line)

    def known(name: str) -> Reasoner:
        if name not in worker.reasoners:
            raise HTTPException(404, f"no weights '{name}': here are {', '.join(worker.reasoners)}")
        return worker.reasoners[name]

    def read(name: str, puzzle: str, inbox: Inbox, watched: bool = False) -> Request:
        known(name)
        try:
            return worker.read(name, puzzle, inbox.tell, watched)
        except ValueError:
            metrics.puzzles.labels(name, "refused").inc()
            raise

    def begin(requests: list[Request]) -> float:
        """They are asked; until when an answer is waited for."""
        try:
            worker.ask(requests)
        except (Busy, Failed) as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from None
        return asyncio.get_running_loop().time() + timeout

    def record(name: str, request: Request, solution: Solution) -> dict[str, Any]:
        metrics.count(name, request, solution)
        return solution.record() | {"seconds": round(time.perf_counter() - request.asked_at, 4)}

    @app.post("/v1/solve/{name}")
    async def solve(name: str, ask: Ask, client: HttpRequest) -> dict[str, Any]:
        """Answer a puzzle, with a record as that of `hrm solve --format json`; or several, `{"answers": [...]}` in their
        order, of which one that is no puzzle has `error` in its record."""
        inbox, answers, requests = Inbox(), {}, {}
        for place, puzzle in enumerate([ask.puzzle] if ask.puzzles is None else ask.puzzles):
            try:
                requests[read(name, puzzle, inbox)] = place
            except ValueError as error:
                if ask.puzzles is None:
                    raise HTTPException(422, str(error)) from None
                answers[place] = {"puzzle": puzzle, "verified": False, "error": str(error)}
        until = begin(list(requests))
        try:
            for _ in requests:
                request, event = await inbox.next(client, until)
                answers[requests[request]] = record(name, request, event)
        finally:
            for request in requests:
                request.dropped = True
        return answers[0] if ask.puzzles is None else {"answers": [answers[place] for place in sorted(answers)]}

    @app.post("/v1/watch/{name}")
    async def watch(name: str, ask: AskOne, client: HttpRequest) -> StreamingResponse:
        """Answer a puzzle while it is watched, as server-sent events: `puzzle` as a line, a `segment` after each, then
        `solution` or `error`."""
        inbox = Inbox()
        try:
            request = read(name, ask.puzzle, inbox, watched=True)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        until = begin([request])

        async def events() -> AsyncIterator[str]:
            event: Event | None = None
            yield sent("puzzle", {"puzzle": request.reasoner.task.format(request.grid)})
            try:
                while not isinstance(event, Solution):
                    _, event = await inbox.next(client, until)
                    if isinstance(event, Thought):
                        yield sent("segment", shown(request.reasoner, event))
                yield sent("solution", record(name, request, event))
            except HTTPException as error:
                yield sent("error", {"error": error.detail})
            finally:
                request.dropped = True

        quiet = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events(), media_type="text/event-stream", headers=quiet)

    @app.get("/v1/weights")
    async def weights() -> dict[str, Any]:
        """What answers here: its name, kind of puzzle and cells, and what its maker says of it."""
        return {name: about(reasoner) for name, reasoner in worker.reasoners.items()}

    @app.get("/v1/example/{name}")
    def example(name: str) -> dict[str, str]:
        """A puzzle to try, drawn at random from the test rows of a built-in set."""
        task = known(name).task
        sets = [own for own, (_, other) in BUILTIN.items() if (other.name, other.seq_len) == (task.name, task.seq_len)]
        if not sets:
            raise HTTPException(404, f"no examples of {task.name} of {task.seq_len} cells are built in")
        rows = test_rows(sets[0])
        return {"puzzle": task.format(task.decode(rows[np.random.default_rng().integers(len(rows))]))}

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """200 while puzzles are answered."""
        alive = worker.alive
        return JSONResponse({"status": "ok" if alive else "ending", "version": __version__}, 200 if alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> str:
        """For Prometheus."""
        return generate_latest(metrics.registry).decode()

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return (resources.files("hrm.serve") / "page.html").read_text()

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
        "certainty": thought.certainty.round(3).astype(float).round(3).tolist(),
        "confidence": round(thought.confidence, 4),
        "moved": round(thought.residual, 4),
        "halted": thought.halted,
    }
    if thought.candidates is not None:
        symbols = reasoner.task.symbols
        values = thought.candidates[:, -len(symbols) :]
        told["marks"] = ["".join(symbols[v] for v in np.flatnonzero(cell)) for cell in values]
    return told


def sent(event: str, data: dict[str, Any]) -> str:
    """A server-sent event."""
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"


async def as_one_line(client: HttpRequest, error: Exception) -> JSONResponse:
    """Whatever goes wrong, as `{"error": "one line"}`."""
    if isinstance(error, RequestValidationError):
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"] if part != "body")
        words = fault["msg"].removeprefix("Value error, ")
        no_json = fault["type"] == "json_invalid"
        if no_json or (fault["loc"] == ("body",) and fault["type"] != "value_error"):
            where, words = "body", f"{EXPECTED}; this is no JSON: {fault['ctx']['error']}" if no_json else EXPECTED
        return JSONResponse({"error": f"{where}: {words}" if where else words}, 422)
    if isinstance(error, AnyHttpException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    logger.error("%s failed", client.url.path, exc_info=error)
    return JSONResponse({"error": "this is a mistake of the service; its log tells more"}, 500)


class BodyLimit:
    """Refuses bodies larger than LARGEST_BODY with status 413, however they come."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > LARGEST_BODY:
            refusal = JSONResponse({"error": f"a body of {int(length):,} bytes; at most {LARGEST_BODY:,}"}, 413)
            return await refusal(scope, receive, send)
        taken = 0

        async def counted() -> dict:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > LARGEST_BODY:
                while message.get("more_body"):  # who still sends reads no answer
                    message = await receive()
                raise HTTPException(413, f"a body of more than {LARGEST_BODY:,} bytes")
            return message

        return await self.app(scope, counted, send)
