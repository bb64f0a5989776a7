"""Metrics of a model over a data set, each named by how it is counted (benchmarks/results.md, at its head)."""

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from .answers import Answers
from .checkpoint import Weights, write_synced
from .data import Split, load_split
from .reasoner import Reasoner
from .tasks import Task


def evaluate(reasoner: Reasoner, split: Split, limit: int | None = None, each: Path | None = None) -> dict[str, Any]:
    """Answer the first `limit` rows of a split whose answers are known (all by default) and count.

    exact@1: one deterministic pass, every labelled cell equals the label; with several passes the key is selected@k, or
    checked@k where the rules accept them. cell_accuracy: mean share of labelled cells right. verified: the answer
    passes the puzzle's own rules, where these are known; an answer that does not is an abstention; mazes call it
    valid_and_shortest as well. Intervals (…_ci95) are Wilson's, 95 %, with as many trials as there are
    distinct_solutions, since puzzles of one solution are not independent, or of text and small sizes distinct_questions.
    right_within_passes, of several passes that end with the first accepted, where a puzzle has one answer: the share that is
    right and took so many passes at most, a lower bound of selected@k for every smaller k. by_source, of a CSV file that
    names several sources: the rows of each and the share that is right. rows_without_answer: how many the split
    has. Every answer is written into the CSV file `each`, if given.
    """
    ignored = -1 if split.metadata.ignore_label_id is None else split.metadata.ignore_label_id
    known = (split.labels != ignored).any(1)
    rows = np.flatnonzero(known)[:limit]
    if not len(rows):
        raise ValueError("nothing to evaluate: the data set has no rows with a known answer")
    puzzles, labels = split.inputs[rows], split.labels[rows]
    started = time.perf_counter()
    answers = reasoner.run(puzzles, split.identifiers_per_row()[rows])
    seconds = time.perf_counter() - started
    labelled = labels != ignored
    right = (answers.tokens == labels) & labelled
    exact = (right | ~labelled).all(1)
    task = reasoner.task
    verified = task.verify_batch(task.decode(puzzles), task.decode(answers.tokens)) if task.sound else None
    if each:
        write_synced(each, table_of(task, puzzles, labels, answers, exact, verified).encode())
    distinct = distinct_of(task, puzzles, labels, labelled)
    counted = count_name(reasoner)
    report = {
        "rows": len(rows),
        **({} if known.all() else {"rows_without_answer": int((~known).sum())}),
        "counted": counted,
        counted: float(exact.mean()),
        f"{counted}_ci95": wilson(float(exact.mean()), distinct),
        "distinct_solutions" if task.apart_by == "answer" else "distinct_questions": distinct,
        "cell_accuracy": float((right.sum(1) / np.maximum(1, labelled.sum(1))).mean()),
        **({} if verified is None else dict.fromkeys(("verified", task.sound), float(verified.mean()))),
        **({} if verified is None else {f"{task.sound}_ci95": wilson(float(verified.mean()), distinct)}),
        "mean_segments": float(answers.segments.mean()),
        "max_segments": reasoner.max_segments,
        "mean_passes": float(answers.passes.mean()),
        "halt": reasoner.halt,
        "patience": reasoner.patience if reasoner.model.config.deduces else None,
        "accept": reasoner.accept,
        "q_halt": calibration(answers, exact) if reasoner.model.config.halting != "fixed" else None,
        "seconds": seconds,
        "data_hash": split.hash,
    }
    accepts = reasoner.check or reasoner.select == "confidence"
    if reasoner.passes > 1 and accepts and task.one_answer:
        within = [2**k for k in range(reasoner.passes.bit_length())]
        report["right_within_passes"] = {k: float((exact & (answers.passes <= k)).mean()) for k in within}
    sources = [] if split.sources is None else split.sources[rows]
    if len(names := np.unique(sources)) > 1:
        report["by_source"] = {
            str(name): {"rows": int((sources == name).sum()), counted: float(exact[sources == name].mean())}
            for name in names
        }
    return report


def distinct_of(task: Task, puzzles: np.ndarray, labels: np.ndarray, labelled: np.ndarray) -> int:
    """How many of the rows (N, S) are trials of their own: distinct questions or answers, by what the task's splits are kept
    apart by (answers that no symmetry makes one another; of those with unlabelled cells, that are not equal)."""
    if task.apart_by == "question":
        return len(np.unique(puzzles, axis=0))
    if labelled.all():
        return len({task.same_orbit_key(solution) for solution in task.decode(labels)})
    return len(np.unique(labels, axis=0))


def table_of(
    task: Task,
    puzzles: np.ndarray,
    labels: np.ndarray,
    answers: Answers,
    right: np.ndarray,
    verified: np.ndarray | None,
) -> str:
    """CSV of one line a row, as `hrm solve` and `hrm eval` read it: the puzzle, its label, the answer and how it came about."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow("question answer given right verified segments passes confidence".split())
    grids = (map(task.format, task.decode(tokens)) for tokens in (puzzles, labels, answers.tokens))
    checked = [""] * len(right) if verified is None else verified.astype(int).tolist()
    columns = answers.segments, answers.passes, answers.confidence.astype(float).round(4)
    columns = right.astype(int).tolist(), checked, *(column.tolist() for column in columns)
    writer.writerows(zip(*grids, *columns, strict=True))
    return text.getvalue()


def suited(found: Weights, split: Split, data: str) -> Weights:
    """The weights for puzzles as large as those of a split, which is of `data` (a folder or built-in set).

    Raises ValueError where they cannot answer them: of another task or size, or known to them by other identifiers.
    """
    held, own, resized = split.metadata, found.model.config, found.resized(split.metadata.seq_len)
    if (resized.model.config.seq_len, own.vocab_size) != (held.seq_len, held.vocab_size):
        raise ValueError(
            f"{data} has puzzles of {held.seq_len} cells and {held.vocab_size} tokens, {found.where} solves {found.task} "
            f"of {own.seq_len} cells and {own.vocab_size} tokens: choose data or weights that fit"
        )
    check_identifiers(found, split, data)
    return resized


def check_identifiers(found: Weights, split: Split, data: str) -> None:
    """Raise ValueError where the puzzle identifiers of `data` are known to mean other puzzles than the weights learned.

    Their number must agree, and, where there is more than the blank one, the training split must be the one whose hash is
    on the weights' card. A card without a hash, as of a reference's converted checkpoint, does not tell: it is let pass.
    """
    held, known = split.metadata.num_puzzle_identifiers, found.model.config.num_puzzle_identifiers
    if held != known:
        raise ValueError(
            f"{found.where}: trained with {known:,} puzzle identifiers, {data} has {held:,}: an identifier means nothing "
            "outside the identifiers.json it was trained with; use that dataset build"
        )
    trained = found.card.get("data_hash")
    if known > 1 and trained and trained != load_split(data, "train").hash:
        raise ValueError(
            f"{data}: not the data set that {found.where} was trained on (another source, seed, option or --layout): its "
            "identifiers may mean other puzzles"
        )


def count_name(reasoner: Reasoner) -> str:
    """How the answers of this reasoner are counted against labels (benchmarks/results.md, at its head)."""
    most = reasoner.passes + reasoner.pins
    if most == 1:
        return "exact@1"
    return f"checked@{most}" if reasoner.check else f"selected@{most}"


def calibration(answers: Answers, exact: np.ndarray, bins: int = 10) -> dict[str, Any]:
    """How far sigmoid(Q_halt) can be taken for the probability of being right."""
    confidence = answers.confidence
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    table, error = [], 0.0
    for b in range(bins):
        inside = place == b
        if inside.any():
            said, was = float(confidence[inside].mean()), float(exact[inside].mean())
            table.append({"rows": int(inside.sum()), "said": said, "was": was})
            error += abs(said - was) * inside.mean()
    return {
        "accuracy": float(((confidence >= 0.5) == exact).mean()),
        "expected_calibration_error": float(error),
        "bins": table,
    }


def wilson(share: float, trials: int, z: float = 1.96) -> list[float]:
    """Wilson's interval for a share seen in `trials` independent trials."""
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return [max(0.0, middle - half), min(1.0, middle + half)]
