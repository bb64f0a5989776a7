"""`hrm bench`: how fast weights answer on this machine, where the time goes, and whether it has become slower.

Times are medians of rounds taken turn by turn. To compare machines and days, each is also given as the FLOP/s reached and
as a share of what a large matrix product reaches here and now; a comparison with an earlier report goes by that share and
by the FLOPs, not by seconds. FLOPs, and where the time goes, are always those of an eager run: torch's counter does not
see what a compiled or exported program does, and rounding may send that another way, with other segments.
"""

import hashlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from .checkpoint import read_json
from .model import machine_dtype
from .reasoner import Reasoner

LOSS = 0.2
"""A later report that needs this share more FLOPs, or reaches this share less of the machine, is slower."""
ALIKE = ("puzzles", "puzzles_hash", "weights_hash", "passes", "max_segments", "patience", "accept", "device", "dtype")
"""What two reports that are compared must have in common, besides the name of the weights."""


@dataclass
class Timed:
    """One unit of work, measured."""

    name: str
    result: Any
    """What it returned when it was warmed up."""
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def row(self, flops: int, ceiling: float) -> dict[str, Any]:
        rate = flops / self.median
        return {
            "name": self.name,
            "median_s": self.median,
            "fastest_s": min(self.seconds),
            "slowest_s": max(self.seconds),
            "gflop": flops / 1e9,
            "gflop_per_s": rate / 1e9,
            "share_of_ceiling": rate / ceiling,
        }


def ceiling(device: str = "cpu", size: int | None = None) -> float:
    """FLOP/s of a large square product in the machine's fastest supported dtype."""
    size = size or (8192 if device.startswith("cuda") else 2048)  # which takes long beside asking for it
    a = torch.randn(size, size, device=device).to(getattr(torch, machine_dtype(device)))
    best = float("inf")
    for _ in range(7):
        settle(device)
        started = time.perf_counter()
        a @ a
        settle(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def settle(device: str) -> None:
    """Wait for what was asked of the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


@contextmanager
def flop_counter() -> Iterator[FlopCounterMode]:
    """Torch's counter, which alone does not know the CPU's attention, over uncompiled work: a compiled function called
    under it would never be used again."""
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    known = {forward: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    known |= {backward: lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)}
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False, custom_mapping=known) as counter:
        yield counter


def flops_of(unit: Callable[[], object]) -> int:
    """What one run of a unit of work takes, uncompiled."""
    with flop_counter() as counter:
        unit()
    return counter.get_total_flops()


def timed(work: list[tuple[str, Callable[[], object]]], rounds: int, device: str = "cpu") -> list[Timed]:
    """Each unit of work once to warm up, then `rounds` times, turn by turn."""
    found = [Timed(name, unit(), []) for name, unit in work]
    for _ in range(rounds):
        for (_, unit), one in zip(work, found, strict=True):
            settle(device)
            started = time.perf_counter()
            unit()
            settle(device)
            one.seconds.append(time.perf_counter() - started)
    return found


def bench(
    weights: str, tokens: np.ndarray, *, backends: list[str], rounds: int, device: str, cold: bool, **options: Any
) -> dict[str, Any]:
    """The report of weights over puzzles (N, S): one puzzle and all N by each backend, the time's parts, a cold start."""
    eager = Reasoner.load(weights, device, backend="eager", **options)
    batches = {"1 puzzle": tokens[:1], f"{len(tokens)} puzzles": tokens}
    flops = [flops_of(partial(eager.run, batch)) for batch in batches.values()]
    work = []
    for backend in backends:
        reasoner = Reasoner.load(weights, device, backend=backend, **options)
        work += [(f"{backend}, {name}", partial(reasoner.run, batch)) for name, batch in batches.items()]
    found, top = timed(work, rounds, device), ceiling(device)
    return {
        "weights": weights,
        "parameters": sum(p.numel() for p in eager.model.parameters()),
        "machine": f"{processor(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "device": device,
        "dtype": eager.model.config.forward_dtype,
        "puzzles": len(tokens),
        "puzzles_hash": hash_of(tokens),
        "weights_hash": weights_hash(eager),
        "passes": eager.passes,
        "max_segments": eager.max_segments,
        "patience": eager.patience,
        "accept": eager.accept,
        "rounds": rounds,
        "ceiling_gflop_per_s": top / 1e9,
        "ceiling_dtype": machine_dtype(device),
        "flops_and_parts_of": "eager",
        "work": [
            one.row(count, top) | {"segments": float(one.result.segments.mean())}
            for one, count in zip(found, flops * len(backends), strict=True)
        ],
        "parts": where_time_goes(eager, tokens),
        "cold_start_s": cold_start(weights, tokens[0], eager, device) if cold else None,
    }


def weights_hash(reasoner: Reasoner) -> str:
    return hash_of(*(tensor.float().cpu().numpy() for tensor in reasoner.model.state_dict().values()))


def hash_of(*arrays: np.ndarray) -> str:
    """Of their contents, in short."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def where_time_goes(reasoner: Reasoner, tokens: np.ndarray) -> dict[str, float]:
    """Share of an eager run's time by the level that computes, heads and input, and everything around the segments."""
    spent: dict[str, float] = {}
    model, device = reasoner.model, str(reasoner.model.H_init.device)

    def clocked(name: str, call: Callable) -> Callable:
        def run(*args: Any, **kwargs: Any) -> Any:
            settle(device)
            started = time.perf_counter()
            result = call(*args, **kwargs)
            settle(device)
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - started
            return result

        return run

    reasoner.run(tokens)
    levels = {"fast level": model.L_level}
    if model.config.levels == "separate":
        levels["slow level"] = model.H_level
    kept = {level: level.forward for level in levels.values()}
    segment, read, embed = reasoner.engine, model.read, model.embed
    try:
        for name, level in levels.items():
            level.forward = clocked(name, level.forward)
        model.read, model.embed = clocked("heads", read), clocked("input", embed)
        reasoner.engine = clocked("segments", segment)
        started = time.perf_counter()
        reasoner.run(tokens)
        whole = time.perf_counter() - started
    finally:
        for level, forward in kept.items():
            level.forward = forward
        del model.read, model.embed
        reasoner.engine = segment
    inside = spent.pop("segments")
    found = {name: seconds / whole for name, seconds in spent.items()}
    return found | {"rest of a segment": (inside - sum(spent.values())) / whole, "around segments": 1 - inside / whole}


def cold_start(weights: str, tokens: np.ndarray, reasoner: Reasoner, device: str) -> float:
    """Seconds from an empty shell to `hrm solve`'s answer, the best of three."""
    puzzle = reasoner.task.format(reasoner.task.decode(tokens))
    how = ["--weights", weights, "--device", device]
    command = [sys.executable, "-m", "hrm", "solve", reasoner.task.name, puzzle, *how]
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=False)
        best = min(best, time.perf_counter() - started)
    return best


def processor(device: str = "cpu") -> str:
    """What computes: the GPU's name, or the processor's, as far as the system tells it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    if os.path.isfile("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def table(report: dict[str, Any]) -> str:
    """A report in Markdown."""
    lines = [
        f"{report['machine']}, {report['ceiling_dtype']} matrix products {report['ceiling_gflop_per_s']:.0f} GFLOP/s",
        f"{report['weights']}: {report['parameters']:,} parameters, run in {report['dtype']}",
        "",
        "| work | segments a puzzle | median | fastest to slowest | GFLOP, eager run | GFLOP/s | share of ceiling |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in report["work"]:
        spread = f"{1e3 * row['fastest_s']:.1f}–{1e3 * row['slowest_s']:.1f} ms"
        rate = f"{row['gflop']:.2f} | {row['gflop_per_s']:.0f} | {row['share_of_ceiling']:.1%}"
        median = f"{row['segments']:.1f} | {1e3 * row['median_s']:.1f} ms"
        lines.append(f"| {row['name']} | {median} | {spread} | {rate} |")
    shares = ", ".join(f"{name} {share:.0%}" for name, share in report["parts"].items())
    lines += ["", f"Where the time of {report['puzzles']} puzzles goes, run eagerly: {shares}"]
    if report["cold_start_s"] is not None:
        lines.append(f"From a cold shell to the first answer: {report['cold_start_s']:.2f} s")
    return "\n".join(lines)


def read_report(path: Path, weights: str) -> dict[str, Any]:
    """An earlier report of these weights. Raises ValueError for any other file."""
    report = read_json(path)
    rows, kinds = report.get("work"), {"name": str, "gflop": (int, float), "share_of_ceiling": (int, float)}
    good = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    if not good or not all(isinstance(row.get(key), kind) for row in rows for key, kind in kinds.items()):
        raise ValueError(f"{path}: no report that `hrm bench --json` wrote")
    if report.get("weights") != weights:
        raise ValueError(f"{path}: a report of {report.get('weights')}, not of {weights}")
    return report


def slower(report: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """What has become slower than an earlier report of the same weights and puzzles says. Raises ValueError for others."""
    for key in ALIKE:
        if report[key] != before.get(key):
            raise ValueError(
                f"the earlier report is of {key}={before.get(key)}, this one of {report[key]}: measure alike"
            )
    old = {row["name"]: row for row in before["work"]}
    if not any(row["name"] in old for row in report["work"]):
        raise ValueError(f"the earlier report is of {', '.join(old) or 'nothing'}: measure the same --backends")
    found = []
    for row in report["work"]:
        if row["name"] not in old:
            continue
        was = old[row["name"]]
        if row["gflop"] > was["gflop"] * (1 + LOSS):
            found.append(f"{row['name']}: {row['gflop']:.2f} GFLOP, {was['gflop']:.2f} before")
        if row["share_of_ceiling"] < was["share_of_ceiling"] * (1 - LOSS):
            found.append(
                f"{row['name']}: {row['share_of_ceiling']:.1%} of the machine, {was['share_of_ceiling']:.1%} before"
            )
    return found
