"""Accuracy against compute at inference: longer passes, more patience, more passes, pin and retry, the rules.

    python benchmarks/thinking.py WEIGHTS [--data FILE.csv.gz | --data SET --split val] [--rows N] [--passes 16] [--plot OUT.png]

Right is what equals the label, and of mazes, which have many shortest paths, what is valid and shortest. Counted as in
benchmarks/results.md: one pass is deterministic; selected@k chooses among k by the model's own signals; checked counts
an answer only if a pass (or pin) passed the puzzle's rules; oracle@k, any of k right, is an upper bound and no result.
Compute is the mean number of segments a puzzle.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch

from hrm.answers import Answers, Thought
from hrm.data import Split, load_rows
from hrm.evaluate import distinct_of, wilson
from hrm.reasoner import Reasoner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--data", default="sudoku-hard-1k")
    parser.add_argument("--split", default="val")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--segments", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128])
    parser.add_argument("--passes", type=int, default=16)
    parser.add_argument("--patience", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="of a model that deduces")
    parser.add_argument("--pins", type=int, default=32)
    parser.add_argument(
        "--accept", type=float, nargs="*", default=[0.9, 0.98], help="of a latent carry, for so many --passes"
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    reasoner = Reasoner.load(asked.weights, batch_size=asked.batch_size)
    if not reasoner.task.sound:
        asked.passes, asked.pins = 1, 0  # without known symmetries there is but one look
    name = asked.data.rsplit("/", 1)[-1] if os.path.isfile(asked.data) else f"{asked.data}, {asked.split}"
    rows = first_rows(load_rows(asked.data, asked.split, lambda cells: reasoner.task), asked.rows)
    distinct = distinct_of(reasoner.task, rows.inputs, rows.labels, np.ones_like(rows.labels, np.bool_))
    title = f"{asked.weights} on the first {len(rows.inputs)} rows of {name}"
    print(f"{title} ({distinct} distinct {reasoner.task.apart_by}s), ", end="")
    one = reasoner.task.one_answer
    right_is, single = ("equal to the label", "exact@1") if one else (reasoner.task.sound, "one pass")
    print(f"{torch.get_num_threads()} threads\n")
    print(f"| way | counted as | {right_is} (95 % interval) | segments a puzzle | passes | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    drawn: dict[str, list[tuple[float, float]]] = {}

    def show(way: str, counted: str, curve: str, right: np.ndarray, answers: Answers, seconds: float) -> None:
        share, work = float(right.mean()), float(answers.segments.mean())
        low, high = wilson(share, distinct)
        print(
            f"| {way} | {counted} | {share:.1%} ({low:.1%}–{high:.1%}) | {work:.1f} | {answers.passes.mean():.2f} "
            f"| {seconds:.1f} |",
            flush=True,
        )
        drawn.setdefault(curve, []).append((work, share))

    def right(answers: Answers) -> np.ndarray:
        if one:
            return (answers.tokens == rows.labels).all(1)
        return reasoner.task.verify_batch(*map(reasoner.task.decode, (rows.inputs, answers.tokens)))

    def with_options(**options: object) -> Reasoner:
        how = {"batch_size": asked.batch_size, "backend": asked.backend}
        return Reasoner(reasoner.model, reasoner.task.name, **how, **options)

    if reasoner.model.config.deduces:
        for patience in asked.patience:
            started = time.perf_counter()
            found = with_options(passes=1, patience=patience).run(rows.inputs)
            curve = "one pass, more patience"
            show(f"one pass, patience {patience}", single, curve, right(found), found, time.perf_counter() - started)
        for check in (False, True):
            passes = 1 + check  # the rules choose among several
            while passes <= asked.passes:
                started = time.perf_counter()
                found = with_options(passes=passes, check=check).run(rows.inputs)
                counted = single if passes == 1 else f"{'checked' if check else 'selected'}@{passes}"
                way = f"up to {passes} passes" + (", rules" if check else "")
                curve = f"up to {asked.passes} passes, accepted by the {'rules' if check else 'model'}"
                show(way, counted, curve, right(found), found, time.perf_counter() - started)
                passes *= 2
        if asked.plot:
            plot(drawn, title, asked.plot)
        return
    for most in asked.segments:
        started = time.perf_counter()
        found = with_options(max_segments=most).run(rows.inputs)
        show(f"one pass of at most {most}", single, "one pass", right(found), found, time.perf_counter() - started)

    started = time.perf_counter()
    tried = each_look(with_options(passes=asked.passes, select="votes"), rows.inputs) if asked.passes > 1 else []
    seconds = time.perf_counter() - started
    k = 2
    while k <= asked.passes:
        started = time.perf_counter()
        found = with_options(passes=k).run(rows.inputs)  # an accepted look ends it; the other two run all
        took = time.perf_counter() - started
        show(f"up to {k} looks, confidence", f"selected@{k}", "confidence", right(found), found, took)
        for select in ("residual", "votes"):
            found = with_options(passes=k, select=select).chosen(tried[:k])
            show(f"{k} looks, {select}", f"selected@{k}", select, right(found), found, seconds * k / asked.passes)
        anyone = np.stack([right(answers) for answers in tried[:k]]).any(0)
        show(f"{k} looks, any", f"oracle@{k}", "oracle", anyone, found, seconds * k / asked.passes)
        k *= 2
    for accept in asked.accept if asked.passes > 1 else ():
        started = time.perf_counter()
        found = with_options(passes=asked.passes, accept=accept).run(rows.inputs)
        way = f"up to {asked.passes} looks, confidence above {accept:g}"
        show(way, f"selected@{asked.passes}", "more confidence", right(found), found, time.perf_counter() - started)
    for check in (False, True):
        pins = 4
        while pins <= asked.pins:
            started = time.perf_counter()
            found = with_options(pins=pins, check=check).run(rows.inputs)
            kind = "checked" if check else "selected"
            label = f"{kind}@{pins + 1}"
            way = f"one look, {pins} pins" + (", rules" if check else "")
            curve = f"pins, accepted by the {'rules' if check else 'model'}"
            show(way, label, curve, right(found), found, time.perf_counter() - started)
            pins *= 2
    if asked.plot:
        plot(drawn, title, asked.plot)


def each_look(reasoner: Reasoner, tokens: np.ndarray) -> list[Answers]:
    """What every look answers, by itself; for a Reasoner that takes them all (`select` is not confidence)."""
    tried = [Answers.empty(*tokens.shape) for _ in range(reasoner.passes)]

    def keep(thought: Thought) -> None:
        if thought.halted:
            for name in ("tokens", "confidence", "residual"):
                getattr(tried[thought.look], name)[thought.row] = getattr(thought, name)
            tried[thought.look].segments[thought.row] = thought.segment

    reasoner.run(tokens, watch=keep)
    return tried


def first_rows(split: Split, count: int) -> Split:
    import dataclasses

    return dataclasses.replace(split, inputs=split.inputs[:count], labels=split.labels[:count])


def plot(drawn: dict[str, list[tuple[float, float]]], title: str, target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, points in drawn.items():
        ahead = name == "oracle" or "rules" in name  # not the model's own doing; where it hides what is, both show
        axes.plot(*zip(*points, strict=True), "--" if ahead else "-", marker="o", ms=4, label=name)
    axes.set(xscale="log", xlabel="segments a puzzle, mean", ylabel="puzzles right", title=title)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    main()
