"""How the cost of thinking grows: with puzzles at once, cells, segments and width. Draws docs/scaling.png.

    python benchmarks/scaling.py [--out docs/scaling.png] [--longest 7]

Each line is one model, each point the fastest of three runs after a warm-up; from ten seconds on no run follows, and one that
is the first counts. A line ends at the first size that takes more than `--longest` seconds. The slope is that of a straight
line through the upper half of its points, both axes logarithmic: 1 is proportional, 2 quadratic. The share of attention
(scores and their use, not its projections) is counted in FLOPs.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hrm.bench import flop_counter, processor
from hrm.config import ModelConfig
from hrm.model import HRM, machine_dtype
from hrm.reasoner import Reasoner

PAPER = dict(hidden_size=512, num_heads=8, vocab_size=12, num_puzzle_identifiers=1, puzzle_emb_ndim=0)
LOCAL = dict(mixer="conv", halting="halt_only", pos_encodings="none", hidden_size=48, H_layers=1, L_layers=1)
LOCAL |= dict(expansion=2, mlp_round_to=32)


def segment(batch: int = 1, cells: int = 81, segments: int = 1, **changes) -> Callable[[], object]:
    """A run of some segments of a model with random weights, on random tokens."""
    config = ModelConfig(**(PAPER | {"forward_dtype": machine_dtype("cpu"), "seq_len": cells} | changes))
    torch.manual_seed(0)
    model = HRM(config).eval()
    grid = torch.randint(0, 12, (batch, cells), dtype=torch.int32)
    rows = model.puzzle_rows(torch.zeros(batch, dtype=torch.int32))

    @torch.inference_mode()
    def run() -> None:
        state = model.initial_state(batch)
        for _ in range(segments):
            state, _ = model(state, grid, rows)

    return run


def shipped(batch: int) -> Callable[[], object]:
    """One segment of the shipped Sudoku weights."""
    reasoner = Reasoner.load("sudoku")
    model = reasoner.model
    grid = reasoner.task.candidates(torch.ones(batch, 81, dtype=torch.int32))
    rows = model.puzzle_rows(torch.zeros(batch, dtype=torch.int32))

    @torch.inference_mode()
    def run() -> None:
        model(model.initial_state(batch), grid, rows)

    return run


CELLS = (16, 36, 81, 144, 256, 400, 625, 900)
POWERS = tuple(2**k for k in range(13))
Line = tuple[str, Callable[[int], Callable[[], object]], tuple[int, ...]]
PANELS: dict[str, list[Line]] = {
    "puzzles at once": [
        ("shipped sudoku", shipped, POWERS),
        ("paper's HRM, 27 M", lambda n: segment(batch=n), POWERS),
    ],
    "cells of a puzzle": [
        ("paper's HRM (attention)", lambda n: segment(cells=n), CELLS),
        ("conv, width 48", lambda n: segment(cells=n, **LOCAL), CELLS),
    ],
    "segments": [
        ("conv, width 48", lambda n: segment(segments=n, **LOCAL), POWERS[:11]),
        ("paper's HRM, 27 M", lambda n: segment(segments=n), POWERS[:11]),
    ],
    "width": [
        ("HRM of 4 + 4 layers, 81 cells", lambda n: segment(hidden_size=n), (64, 128, 256, 512, 1024, 2048)),
    ],
}


def measured(
    make: Callable[[int], Callable[[], object]], sizes: tuple[int, ...], longest: float
) -> list[tuple[int, float]]:
    points: list[tuple[int, float]] = []
    for size in sizes:
        if points and points[-1][1] > longest:
            break
        run, times = make(size), []
        while len(times) < 4 and sum(times) < 10:
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        points.append((size, min(times[1:] or times)))
    return points


def slope(points: list[tuple[int, float]]) -> float:
    upper = np.log(np.array(points[len(points) // 2 - (len(points) < 4) :]))
    return float(np.polyfit(upper[:, 0], upper[:, 1], 1)[0])


def attention_share(cells: int) -> float:
    run = segment(cells=cells)
    with flop_counter() as counter:
        run()
    counts = counter.get_flop_counts()["Global"]
    attention = sum(n for op, n in counts.items() if "attention" in str(op) or "bmm" in str(op))
    return attention / sum(counts.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/scaling.png"))
    parser.add_argument("--longest", type=float, default=7.0)
    asked = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {machine_dtype('cpu')}\n")
    print("| cost over | model | from | to | slope |\n| --- | --- | --- | --- | --- |")
    figure, axes = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    for (over, lines), axis in zip(PANELS.items(), axes.flat, strict=True):
        for name, make, sizes in lines:
            points = measured(make, sizes, asked.longest)
            steep = slope(points)
            (first, least), (last, most) = points[0], points[-1]
            span = f"{first:,}: {1e3 * least:.2f} ms | {last:,}: {1e3 * most:,.1f} ms"
            print(f"| {over} | {name} | {span} | {steep:.2f} |", flush=True)
            axis.loglog(*zip(*points, strict=True), "o-", label=f"{name}: slope {steep:.2f}")
        axis.set_xlabel(over)
        axis.set_ylabel("seconds of one segment" if over != "segments" else "seconds")
        axis.grid(True, which="major", alpha=0.3)
        axis.legend(frameon=False)
    figure.suptitle(f"Cost on {processor()}, {torch.get_num_threads()} threads")
    figure.savefig(asked.out, dpi=120)
    shares = ", ".join(f"{attention_share(cells):.0%} at {cells} cells" for cells in (81, 256, 900))
    print(f"\nFLOPs of attention itself in the paper's HRM: {shares}")


if __name__ == "__main__":
    main()
