"""The service: what it answers and how it refuses, over a real connection; puzzles that come, wait, go and fail."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse

import numpy as np
import pytest
import uvicorn
from conftest import refusal, tiny
from fastapi import FastAPI, HTTPException

from hrm.answers import Thought
from hrm.cli import name_and_weights
from hrm.data import load_split
from hrm.model import HRM
from hrm.reasoner import Reasoner
from hrm.serve import app as http_side
from hrm.serve import listen, worker
from hrm.serve.app import create_app
from hrm.tasks.maze import Maze
from hrm.tasks.sudoku import Sudoku

EASY = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SOLVED = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
ENDLESS = "1" + "." * 79 + "2"
MAZE = "S #  ##  # G    "


def sudoku(**options) -> Reasoner:
    return Reasoner.load("sudoku", "cpu", forward_dtype="float32", **options)


def endless() -> Reasoner:
    """It accepts an answer to a puzzle of 20 clues and more; any other runs on until it is made to leave."""
    reasoner = sudoku(passes=10**9, check=True)
    reasoner._obey_rules = lambda tokens, answers: (tokens > 1).sum(1) >= 20
    return reasoner


class Client:
    """One that speaks to a service on this port."""

    def __init__(self, port: int):
        self.port, self.connections = port, []

    def ask(self, method: str, path: str, body: object = None) -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.connections.append(connection)
        sent = json.dumps(body).encode() if isinstance(body, dict | list) else body
        headers = {"Connection": "close"} | ({"Content-Type": "application/json"} if sent else {})
        connection.request(method, path, sent, headers)
        return connection

    def send(self, method: str, path: str, body: object = None) -> HTTPResponse:
        return self.ask(method, path, body).getresponse()

    def close(self) -> None:
        for connection in self.connections:
            connection.close()

    def get(self, path: str) -> tuple[int, str]:
        response = self.send("GET", path)
        return response.status, response.read().decode()

    def post(self, path: str, body: object) -> tuple[int, dict]:
        response = self.send("POST", path, body)
        return response.status, json.loads(response.read())

    def watch(self, name: str, puzzle: str) -> list[tuple[str, dict]]:
        response = self.send("POST", f"/v1/watch/{name}", {"puzzle": puzzle})
        assert response.status == 200 and response.headers["content-type"].startswith("text/event-stream")
        blocks = response.read().decode().removesuffix("\n\n").split("\n\n")
        lines = [block.split("\n") for block in blocks]
        return [(event.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for event, data in lines]

    def count(self, gauge: str) -> float:
        (value,) = (line.split()[-1] for line in self.get("/metrics")[1].splitlines() if line.startswith(gauge + " "))
        return float(value)

    def until(self, gauge: str, value: int) -> None:
        deadline = time.monotonic() + 30
        while self.count(gauge) != value:
            assert time.monotonic() < deadline, self.get("/metrics")[1]
            time.sleep(0.02)


@contextmanager
def serving(application):
    with listen("127.0.0.1", 0) as socket:
        server = uvicorn.Server(uvicorn.Config(application, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        client = Client(socket.getsockname()[1])
        try:
            yield client
        finally:
            client.close()
            server.should_exit = True
            thread.join()


def service(reasoners, **options):
    return serving(create_app(reasoners, **options))


@pytest.fixture(scope="module")
def client():
    maze = Reasoner.load("maze", "cpu", forward_dtype="float32", passes=32, check=True)
    with service({"sudoku": sudoku(), "maze": maze}) as client:
        yield client


def test_a_puzzle_is_answered_as_in_python(client):
    status, record = client.post("/v1/solve/sudoku", {"puzzle": EASY})
    seconds = record.pop("seconds")
    assert status == 200 and record == sudoku().solve(EASY).record() and 0 < seconds < 60
    assert record["answer"] == SOLVED and record["verified"] is True


def test_several_are_answered_in_their_order_and_one_that_is_none_is_told(client):
    status, found = client.post("/v1/solve/sudoku", {"puzzles": [EASY, "12", SOLVED, EASY]})
    answers = found["answers"]
    assert status == 200 and [answer.get("answer") for answer in answers] == [SOLVED, None, SOLVED, SOLVED]
    assert answers[1] == {"puzzle": "12", "verified": False, "error": "81 cells expected for 9x9, got 2"}


def test_mazes_of_any_size_side_by_side(client):
    larger = "S" + " " * 142 + "G"
    status, found = client.post("/v1/solve/maze", {"puzzles": [MAZE, larger, MAZE]})
    assert status == 200 and [answer["verified"] for answer in found["answers"]] == [True] * 3
    assert [len(answer["answer"]) for answer in found["answers"]] == [16, 144, 16]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"puzzle": "12"}, 422, "81 cells expected for 9x9, got 2"),
        ({"puzzle": "55" + "." * 79}, 422, "this has no answer: row 1 holds 5 twice"),
        ({"puzzle": ""}, 422, "puzzle: String should have at least 1 character"),
        ({"puzzle": "." * 9000}, 422, "puzzle: String should have at most 8192 characters"),
        ({"puzzle": 5}, 422, "puzzle: Input should be a valid string"),
        ({"puzle": EASY}, 422, "puzle: Extra inputs are not permitted"),
        ({}, 422, "give `puzzle` or `puzzles`"),
        ({"puzzle": EASY, "puzzles": [EASY]}, 422, "give `puzzle` or `puzzles`"),
        ({"puzzles": []}, 422, "puzzles: List should have at least 1 item"),
        ({"puzzles": [EASY] * 1001}, 422, "puzzles: List should have at most 1000 items"),
        ([EASY], 422, "body: JSON is expected"),
        (b'{"puzzle', 422, "this is no JSON"),
        (None, 422, "body: JSON is expected"),
        (b'{"puzzle": "\xff"}', 422, "body: JSON is expected"),
        ({"a\nb": 1}, 422, "a b: Extra inputs are not permitted"),
    ],
)
def test_a_body_that_is_wrong_is_told_in_one_line(client, body, status, words):
    got, said = client.post("/v1/solve/sudoku", body)
    assert got == status and list(said) == ["error"] and words in said["error"] and "\n" not in said["error"]
    if isinstance(body, dict) and set(body) == {"puzzle"}:
        assert client.post("/v1/watch/sudoku", body) == (got, said)


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/v1/solve/chess", 404, "no weights 'chess': here are sudoku, maze"),
        ("POST", "/v1/watch/chess", 404, "no weights 'chess'"),
        ("GET", "/v1/example/chess", 404, "no weights 'chess'"),
        ("GET", "/v1/solve/sudoku", 405, "Method Not Allowed"),
        ("GET", "/nowhere", 404, "Not Found"),
        ("HEAD", "/healthz", 200, ""),
    ],
)
def test_wrong_addresses_are_refused(client, method, path, status, words):
    response = client.send(method, path, {"puzzle": EASY} if method == "POST" else None)
    said = response.read()
    assert response.status == status and (words in json.loads(said)["error"] if words else not said)


def test_a_body_that_is_too_large_is_refused_however_it_comes(monkeypatch):
    monkeypatch.setattr(http_side, "LARGEST_BODY", 1000)
    with service({"sudoku": sudoku()}) as client:
        for body in ({"puzzle": "." * 2000}, iter([b'{"puzzle": "', b"." * 2000])):
            response = client.send("POST", "/v1/solve/sudoku", body)
            assert response.status == 413 and b"Content Too Large" in response.read()


def test_a_puzzle_is_watched_segment_by_segment(client):
    (first, puzzle), *between, (last, solution) = client.watch("sudoku", EASY.replace(".", "0"))
    assert (first, puzzle) == ("puzzle", {"puzzle": EASY}) and last == "solution"
    assert solution["answer"] == SOLVED and {name for name, _ in between} == {"segment"}
    assert [thought["segment"] for _, thought in between] == list(range(1, solution["segments"] + 1))
    final = between[-1][1]
    assert final["answer"] == SOLVED and final["marks"] == list(SOLVED) and final["halted"] and final["pass"] == 1
    assert len(final["certainty"]) == 81 and all(0 < c <= 1 for c in final["certainty"])
    assert between[0][1]["marks"][0] == "5" and "marks" not in client.watch("maze", MAZE)[1][1]


def test_examples_are_puzzles_and_the_rest_tells_what_is_here(client):
    for name, built_in, task in (("sudoku", "sudoku-hard-1k", Sudoku()), ("maze", "maze-30x30-hard-1k", Maze())):
        status, example = client.get(f"/v1/example/{name}")
        rows = load_split(built_in, "test").inputs
        assert status == 200 and json.loads(example)["puzzle"] in {task.format(task.decode(row)) for row in rows}
    weights = json.loads(client.get("/v1/weights")[1])
    assert (
        weights["sudoku"]["task"] == "sudoku"
        and weights["sudoku"]["cells"] == 81
        and list(weights) == ["sudoku", "maze"]
    )
    assert json.loads(client.get("/healthz")[1])["status"] == "ok"
    status, page = client.get("/")
    assert status == 200 and page.startswith("<!doctype html>") and "http://" not in page and "https://" not in page
    assert "/v1/solve/{name}" in json.loads(client.get("/openapi.json")[1])["paths"]


def test_what_is_answered_is_counted():
    with service({"sudoku": sudoku()}) as client:
        client.post("/v1/solve/sudoku", {"puzzles": [EASY, "1"]})
        client.watch("sudoku", EASY)
        assert client.count('hrm_puzzles_total{end="verified",weights="sudoku"}') == 2
        assert client.count('hrm_puzzles_total{end="refused",weights="sudoku"}') == 1
        assert (
            client.count('hrm_puzzle_seconds_count{weights="sudoku"}')
            == client.count('hrm_puzzle_segments_count{weights="sudoku"}')
            == 2
        )


def test_a_hard_puzzle_holds_up_nobody_and_leaves_with_its_client():
    with service({"sudoku": endless()}) as client:
        hard = client.send("POST", "/v1/watch/sudoku", {"puzzle": ENDLESS})
        client.until("hrm_running", 1)
        assert client.post("/v1/solve/sudoku", {"puzzle": EASY})[1]["verified"] is True
        assert client.count("hrm_running") == 1
        hard.close()
        client.until("hrm_running", 0)
        waiting = client.ask("POST", "/v1/solve/sudoku", {"puzzle": ENDLESS})  # and where it does not stream
        client.until("hrm_running", 1)
        waiting.close()
        client.until("hrm_running", 0)
        client.until('hrm_puzzles_total{end="gone",weights="sudoku"}', 2)


def test_too_many_are_sent_away_and_too_slow_ones_end():
    with service({"sudoku": endless()}, places=1, queue=1, timeout=8) as client:
        hard = client.send("POST", "/v1/watch/sudoku", {"puzzle": ENDLESS})
        client.until("hrm_running", 1)
        waiting = client.ask("POST", "/v1/watch/sudoku", {"puzzle": ENDLESS})
        client.until("hrm_waiting", 1)
        response = client.send("POST", "/v1/solve/sudoku", {"puzzle": EASY})
        assert response.status == 503 and response.headers["Retry-After"] == "1"
        assert "1 puzzles run and 1 wait, 1 and 1 may" in json.loads(response.read())["error"]
        waiting.close()
        client.until("hrm_waiting", 0)  # its place is free at once
        end = hard.read().decode().rstrip("\n").rpartition("event: ")[2]
        assert end.startswith('error\ndata: {"error": "no answer in time')
        client.until("hrm_running", 0)
        assert client.post("/v1/solve/sudoku", {"puzzle": EASY})[0] == 200
        ended = [
            client.count(f'hrm_puzzles_total{{end="{end}",weights="sudoku"}}')
            for end in ("sent away", "too slow", "gone")
        ]
        assert ended == [1, 1, 1]


def test_more_than_ever_find_place_are_refused():
    with service({"sudoku": sudoku()}, places=2, queue=3) as client:
        status, said = client.post("/v1/solve/sudoku", {"puzzles": [EASY] * 6})
        assert status == 422 and said["error"] == "6 puzzles at once: 5 at most are taken here"
        assert client.post("/v1/solve/sudoku", {"puzzles": [EASY] * 5})[0] == 200


def test_a_puzzle_that_has_a_place_and_has_not_begun_counts():
    reasoner, go_on = sudoku(), threading.Event()
    make = reasoner.running
    reasoner.running = lambda: go_on.wait(30) and make()
    with service({"sudoku": reasoner}, places=1, queue=1) as client:
        first = client.ask("POST", "/v1/solve/sudoku", {"puzzle": EASY})
        client.until("hrm_running", 1)
        second = client.ask("POST", "/v1/solve/sudoku", {"puzzle": EASY})
        client.until("hrm_waiting", 1)
        status, said = client.post("/v1/solve/sudoku", {"puzzle": EASY})
        go_on.set()
        assert status == 503 and "1 puzzles run and 1 wait" in said["error"]
        for asked in (first, second):
            assert json.loads(asked.getresponse().read())["answer"] == SOLVED


def test_a_batch_that_cannot_be_made_ends_its_puzzles_and_not_the_service():
    reasoner = sudoku()
    make, failures = reasoner.running, iter([MemoryError("no more")])

    def running():
        for failure in failures:
            raise failure
        return make()

    reasoner.running = running
    with service({"sudoku": reasoner}) as client:
        status, said = client.post("/v1/solve/sudoku", {"puzzle": EASY})
        assert status == 500 and said["error"] == "the model failed: no more"
        assert client.post("/v1/solve/sudoku", {"puzzle": EASY})[0] == 200


def test_a_request_without_an_answer_in_time_has_a_status_of_its_own():
    with service({"sudoku": endless()}, timeout=0.5) as client:
        status, said = client.post("/v1/solve/sudoku", {"puzzles": [ENDLESS, EASY]})
        assert status == 504 and "no answer in time" in said["error"]
        client.until("hrm_running", 0)


def test_reading_many_puzzles_holds_up_nobody_else():
    reasoner = sudoku()
    read, begun, go_on = reasoner.read, threading.Event(), threading.Event()

    def slow(puzzle):
        begun.set()
        go_on.wait(30)
        return read(puzzle)

    reasoner.read = slow
    with service({"sudoku": reasoner}) as client:
        asked = client.ask("POST", "/v1/solve/sudoku", {"puzzle": EASY})
        begun.wait(30)
        assert client.get("/healthz")[0] == 200
        go_on.set()
        assert json.loads(asked.getresponse().read())["answer"] == SOLVED


def test_reading_and_asyncios_own_threads_do_not_wait_for_each_other():
    go_on = threading.Event()

    async def tried():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        taken = loop.run_in_executor(None, go_on.wait, 30)
        service = http_side.Service(worker.Worker({"sudoku": sudoku()}), 60)
        (read,) = await service.read("sudoku", [EASY], http_side.Inbox(Here(), 60))
        assert isinstance(read, worker.Request) and not taken.done()
        service.worker.stop()
        with pytest.raises(HTTPException, match="the service is ending"):
            await service.read("sudoku", [EASY], http_side.Inbox(Here(), 60))
        go_on.set()

    asyncio.run(tried())


def test_mounted_in_another_application_it_answers_too():
    parent = FastAPI()
    parent.mount("/puzzles", create_app({"sudoku": sudoku()}))
    with serving(parent) as client:
        assert client.post("/puzzles/v1/solve/sudoku", {"puzzle": EASY})[1]["answer"] == SOLVED
        assert client.get("/puzzles/")[1].startswith("<!doctype html>")


def test_what_cannot_be_served_is_refused():
    with pytest.raises(ValueError, match="mine: ARC tasks are fitted and voted on"):
        create_app({"mine": Reasoner(HRM(tiny(seq_len=900, vocab_size=12)), "arc")})


class Here:
    """A client that is there."""

    async def is_disconnected(self):
        return False


def test_an_inbox_gives_what_has_come_even_late_and_drops_whoever_does_not_read(monkeypatch):
    monkeypatch.setattr(http_side, "UNREAD", 3)

    async def tried():
        inbox = http_side.Inbox(Here(), timeout=0.05)
        request = worker.Request(None, None, inbox.tell)
        inbox.tell(request, worker.Failed("first"))
        await asyncio.sleep(0.2)
        with pytest.raises(HTTPException, match="first"):
            await inbox.next()
        with pytest.raises(HTTPException, match="no answer in time"):
            await inbox.next()
        for number in range(6):
            assert request.dropped == (number > 4)
            inbox.tell(request, worker.Failed("more"))
            await asyncio.sleep(0)

    asyncio.run(tried())


def test_a_watcher_that_is_behind_when_the_time_is_over_is_told_the_end_and_nothing_before_it():
    async def tried():
        inbox = http_side.Inbox(Here(), timeout=30)
        request = worker.Request(None, None, inbox.tell)
        inbox._put(request, "a segment")
        assert await inbox.next() == (request, "a segment")
        inbox.until -= 60
        for end, words in ((None, "no answer in time"), (worker.Failed("the end"), "the end")):
            for event in ("a segment", "a segment", *([end] if end else [])):
                inbox._put(request, event)
            with pytest.raises(HTTPException, match=words):
                await inbox.next()

    asyncio.run(tried())


def test_what_json_has_no_number_for_is_told_as_nothing():
    thought = Thought(
        0, 1, np.full(81, 2, np.uint8), np.full(81, np.nan, np.float32), float("nan"), float("inf"), False
    )
    told = http_side.shown(sudoku(), thought)
    assert told["certainty"] == [None] * 81 and told["confidence"] is told["moved"] is None
    assert '"moved": null' in http_side.sent("segment", told)


def test_a_failure_ends_its_puzzles_and_not_the_service(caplog):
    reasoner = sudoku()
    engine, calls = reasoner.engine, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise RuntimeError("out of\nluck")
        return engine(*arguments)

    reasoner.engine = failing
    with service({"sudoku": reasoner}) as client:
        assert client.post("/v1/solve/sudoku", {"puzzle": EASY}) == (500, {"error": "the model failed: out of"})
        assert client.post("/v1/solve/sudoku", {"puzzle": EASY})[1]["answer"] == SOLVED
    assert "a segment failed" in caplog.text


def test_a_service_that_does_nothing_but_fail_is_not_well_until_it_answers():
    reasoner, broken = sudoku(), threading.Event()
    engine = reasoner.engine

    def failing(*arguments):
        if broken.is_set():
            raise RuntimeError("CUDA error")
        return engine(*arguments)

    reasoner.engine = failing
    broken.set()
    with service({"sudoku": reasoner}) as client:
        for health in (200, 200, 503):
            assert client.post("/v1/solve/sudoku", {"puzzle": EASY})[0] == 500 and client.get("/healthz")[0] == health
        broken.clear()
        assert client.post("/v1/solve/sudoku", {"puzzle": EASY})[0] == client.get("/healthz")[0] == 200


NO_ANSWER = "12345678." + "." * 35 + "9" + "." * 36  # the last cell of row 1 has none


def test_the_command_serves_until_it_is_told_to_end_and_then_tells_whoever_waits():
    options = "--port 0 --device cpu --passes 1000000 --check".split()
    command = [sys.executable, "-m", "hrm", "serve", "mine=maze", "sudoku", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line.startswith("hrm: mine, sudoku at http://127.0.0.1:") and line.endswith("/ until Ctrl-C\n")
        client = Client(int(line.split("/ until")[0].rpartition(":")[2]))
        assert client.post("/v1/solve/mine", {"puzzle": MAZE})[1]["verified"] is True
        watched = client.send("POST", "/v1/watch/sudoku", {"puzzle": NO_ANSWER})
        asked = client.ask("POST", "/v1/solve/sudoku", {"puzzle": NO_ANSWER})
        client.until("hrm_running", 2)
        process.send_signal(signal.SIGTERM)
        ending = {"error": "the service is ending"}
        response = asked.getresponse()
        assert response.status == 503 and json.loads(response.read()) == ending
        assert watched.read().decode().endswith(f"event: error\ndata: {json.dumps(ending)}\n\n")
        out, err = process.communicate(timeout=30)
        client.close()
    assert (process.returncode, out, err) == (-signal.SIGTERM, "", "")


def test_weights_are_served_under_a_name_that_can_be_asked_for(monkeypatch, tmp_path):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    assert name_and_weights("sudoku") == ("sudoku", "sudoku") and name_and_weights("a=b/c") == ("a", "b/c")
    assert name_and_weights("runs/x=1") == ("x=1", "runs/x=1") and name_and_weights(".") == ("run", ".")
    for given in ("a=", "=", "/"):
        with pytest.raises(ValueError, match="expected weights, or NAME=WEIGHTS"):
            name_and_weights(given)


def test_the_command_refuses_in_one_line(tmp_path, monkeypatch):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert (
            refusal("serve", "--port", port)
            == f"127.0.0.1:{port}: Address already in use; choose another --port or --host"
        )
    assert "two of these weights have the same name" in refusal("serve", "sudoku", "sudoku", "--port", 0)
    assert "--patience 2: only for a model that carries" in refusal("serve", "maze", "--patience", 2, "--port", 0)
    assert "maze: halt='full'" in refusal("serve", "maze", "--halt", "full", "--port", 0)
    assert refusal("serve", "--host", "a..b").startswith("a..b:8000: no address; choose another")
    assert "nowhere" in refusal("serve", "a=nowhere", "--port", 0)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert refusal("serve") == "hrm serve needs the extra: pip install 'hrm-torch[serve]'"
