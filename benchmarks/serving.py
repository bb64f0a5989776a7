"""How `hrm serve` does when many ask at once: latency and puzzles per second over HTTP, as a ratio to the same service that
answers one puzzle after another (`--batch-size 1`), and to one call of `Reasoner.solve_many` without HTTP.

    python benchmarks/serving.py [WEIGHTS] [--puzzles 200] [--clients 1 8 32] [--rounds 3] [--backend eager]

Each of the clients is a thread of this process that asks its next puzzle when the last is answered; the service is a process
of its own. The puzzles are the first of the built-in test set of the weights' task and size; all ways get the same ones, turn by
turn, and the median over the rounds is told.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from hrm.checkpoint import load_weights
from hrm.cli import enough_passes, usual_data
from hrm.data import load_split
from hrm.reasoner import Reasoner


@contextmanager
def service(weights: str, *options: str) -> Iterator[int]:
    """A service of its own; yields its port."""
    command = [sys.executable, "-m", "hrm", "serve", f"x={weights}", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield int(process.stdout.readline().split("/ until")[0].rpartition(":")[2])
        finally:
            process.terminate()


def ask(port: int, puzzles: list[str], clients: int) -> tuple[float, list[float], int]:
    """Seconds for all, seconds of each, and how many obey the rules."""
    waiting = iter(puzzles)

    def client(_: int) -> list[tuple[float, bool]]:
        connection, took = http.client.HTTPConnection("127.0.0.1", port), []
        for puzzle in waiting:  # shared: each takes the next
            started = time.perf_counter()
            connection.request(
                "POST", "/v1/solve/x", json.dumps({"puzzle": puzzle}), {"Content-Type": "application/json"}
            )
            record = json.loads(connection.getresponse().read())
            took.append((time.perf_counter() - started, record["verified"] is True))
        connection.close()
        return took

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        parts = [part for own in pool.map(client, range(clients)) for part in own]
    return time.perf_counter() - started, [seconds for seconds, _ in parts], sum(right for _, right in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="?", default="sudoku")
    parser.add_argument("--puzzles", type=int, default=200)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", default="eager")
    asked = parser.parse_args()

    found = load_weights(asked.weights)
    how = enough_passes(found.task, None, False)
    alone = Reasoner(found.model, found.task, backend=asked.backend, **how)
    rows = load_split(usual_data(found), "test").inputs[: asked.puzzles]
    puzzles = [alone.task.format(alone.task.decode(row)) for row in rows]
    seconds: dict[str, list[float]] = {}
    latencies: dict[str, list[float]] = {}
    solved: dict[str, int] = {}

    def measured(way: str, took: float, each: list[float], right: int) -> None:
        seconds.setdefault(way, []).append(took)
        latencies.setdefault(way, []).extend(each)
        solved[way] = right

    def without_http() -> None:
        started = time.perf_counter()
        right = sum(solution.verified is True for solution in alone.solve_many(puzzles))
        measured("solve_many, no HTTP", time.perf_counter() - started, [], right)

    options = "--backend", asked.backend
    with service(asked.weights, *options) as port, service(asked.weights, *options, "--batch-size", "1") as single:
        for warm in (port, single):
            ask(warm, puzzles[:4], 1)
        alone.solve(puzzles[0])
        for _ in range(asked.rounds):
            for clients in asked.clients:
                way = f"{clients} client{'s' * (clients > 1)}"
                measured(way, *ask(port, puzzles, clients))
                measured(f"{way}, --batch-size 1", *ask(single, puzzles, clients))
            without_http()
    print(
        f"{len(puzzles)} puzzles of {usual_data(found)}, {asked.weights}, {asked.backend}, median of {asked.rounds} rounds\n"
    )
    print("| way | puzzles/s | against one after another | median latency, ms | 95th percentile, ms | verified |")
    print("| --- | --- | --- | --- | --- | --- |")
    for way, took in seconds.items():
        rate = len(puzzles) / statistics.median(took)
        other = seconds.get(f"{way}, --batch-size 1")
        ratio = f"{statistics.median(other) / statistics.median(took):.2f}" if other else "–"
        each = sorted(latencies[way])
        tails = [f"{1000 * each[int(share * len(each))]:.0f}" for share in (0.5, 0.95)] if each else ["–", "–"]
        print(f"| {way} | {rate:.1f} | {ratio} | {tails[0]} | {tails[1]} | {solved[way]} |")


if __name__ == "__main__":
    main()
