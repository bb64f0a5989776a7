"""ARC: from answers under many augmentations to two attempts a test input, and how those are scored.

Every answer is turned back and recoloured, cropped, and votes with its confidence. Attempts are ranked by votes, then by
mean confidence, then by who came first, so that equal inputs give equal attempts.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from .data import Split
from .reasoner import Reasoner
from .tasks.arc import ArcTask, Pair, applied, cropped, tokens_of, undone

ATTEMPTS = 2


@dataclass
class Ballot:
    """The votes on one test input."""

    grids: dict[bytes, np.ndarray] = field(default_factory=dict)
    confidences: dict[bytes, list[float]] = field(default_factory=dict)

    def add(self, tokens: np.ndarray, row: np.ndarray, confidence: float) -> None:
        """The answer's tokens (900,), given under a row (11,) of the augmentation table. No grid is no vote."""
        grid = cropped(tokens)
        if not grid.size:
            return
        grid = undone(grid, row)
        key = bytes(grid.shape) + grid.tobytes()
        self.grids.setdefault(key, grid)
        self.confidences.setdefault(key, []).append(confidence)

    @property
    def cast(self) -> int:
        return sum(map(len, self.confidences.values()))

    def ranking(self) -> list[tuple[np.ndarray, int, float]]:
        """(grid, votes, mean confidence), the best first."""
        found = [(self.grids[key], len(said), float(np.mean(said))) for key, said in self.confidences.items()]
        return sorted(found, key=lambda entry: (-entry[1], -entry[2]))

    def decided(self, to_come: int) -> bool:
        """Whether `to_come` more votes can no longer change which grids are the attempts, or their order."""
        votes = sorted(map(len, self.confidences.values()), reverse=True) + [0] * (ATTEMPTS + 1)
        return all(votes[k] - votes[k + 1] > to_come for k in range(ATTEMPTS))

    def attempts(self) -> list[np.ndarray]:
        """At most ATTEMPTS grids."""
        return [grid for grid, _, _ in self.ranking()[:ATTEMPTS]]


def right_at(ballot: Ballot, answer: np.ndarray, k: int) -> bool:
    """Whether the answer is among the k best ranked grids."""
    return any(np.array_equal(grid, answer) for grid, _, _ in ballot.ranking()[:k])


def rights(task: ArcTask, ballots: dict[tuple[str, int], Ballot], k: int = ATTEMPTS) -> list[bool]:
    """Of each test input whose answer is known: whether it is right in one of k attempts."""
    return [
        (task.name, number) in ballots and right_at(ballots[task.name, number], pair.output, k)
        for number, pair in enumerate(task.tests)
        if pair.output is not None
    ]


def scores(tasks: Iterable[ArcTask], ballots: dict[tuple[str, int], Ballot], k: int = ATTEMPTS) -> dict[str, float]:
    """Every rule, over tasks with known answers; `ballots` is by (task's name, test number from 0).

    whole_task: share of tasks with every test input right in one of k attempts. share_of_test_inputs: of each task the
    share of its test inputs that are right in one of k attempts, averaged over tasks (TRM's evaluator).
    share_of_all_test_inputs: of the test inputs of all tasks together (Kaggle's).
    """
    answered = [right for task in tasks if (right := rights(task, ballots, k))]
    if not answered:
        raise ValueError("no task with a known answer to score")
    return {
        "tasks": len(answered),
        "whole_task": float(np.mean([all(right) for right in answered])),
        "share_of_test_inputs": float(np.mean([np.mean(right) for right in answered])),
        "share_of_all_test_inputs": float(np.concatenate(answered).mean()),
    }


def submission(tasks: Iterable[ArcTask], ballots: dict[tuple[str, int], Ballot]) -> dict[str, list[dict[str, Any]]]:
    """`submission.json` as Kaggle and the ARC Prize take it; an attempt that is missing repeats the first, or is [[0]]."""
    document: dict[str, list[dict[str, Any]]] = {}
    for task in tasks:
        entries = []
        for number in range(len(task.tests)):
            grids = ballots[task.name, number].attempts() if (task.name, number) in ballots else []
            grids = (grids or [np.zeros((1, 1), np.uint8)]) * ATTEMPTS  # too many for two, which are taken
            entries.append({f"attempt_{k + 1}": grids[k].tolist() for k in range(ATTEMPTS)})
        document[task.name] = entries
    return document


def in_rows(task: ArcTask, ballots: dict[tuple[str, int], Ballot]) -> list[list[tuple[str, np.ndarray]]]:
    """Rows of (words, grid) to be shown: each demonstration, then each test input with its attempts."""
    rows = [[(f"demonstration {k}", pair.input), ("gives", pair.output)] for k, pair in enumerate(task.demos, 1)]
    for number, pair in enumerate(task.tests):
        ballot = ballots[task.name, number]
        row = [(f"test {number + 1}", pair.input)]
        for k, (grid, cast, confidence) in enumerate(ballot.ranking()[:ATTEMPTS], 1):
            mark = "" if pair.output is None else (", wrong", ", right")[np.array_equal(grid, pair.output)]
            row.append((f"attempt {k}: {cast} of {ballot.cast} votes, {confidence:.2f}{mark}", grid))
        if not ballot.cast:
            row.append(("no attempt: no answer held a grid", np.zeros((0, 0), np.uint8)))
        rows.append(row)
    return rows


# --- a model's votes --------------------------------------------------------------------------------------------------

ROUND = 16
"""Augmentations asked before it is looked whether a vote is decided."""
RANKS = (1, 2, 5, 10, 100, 1000)


@dataclass(frozen=True)
class Asked:
    """A task under the identifiers `first`, `first` + 1, …, one for each row of its augmentation table."""

    task: ArcTask
    table: np.ndarray
    first: int


def tables_in(split: Split) -> dict[int, np.ndarray]:
    """The augmentation table of every task of a split, by the task's first identifier."""
    if split.table is None:
        raise ValueError("this data set has no augmentation table: build one with --layout table, and train on it")
    starts = split.table_indices
    tables = (split.table[start:stop] for start, stop in pairwise(starts))
    return dict(zip(split.puzzle_identifiers.tolist(), tables, strict=True))


def asked_in(split: Split, identifiers: list[str]) -> list[Asked]:
    """The tasks of a test split in the layout "table", without demonstrations; `identifiers` as in identifiers.json."""
    found = []
    for (number, table), rows in zip(tables_in(split).items(), pairwise(split.puzzle_indices), strict=True):
        grids = [(cropped(split.inputs[row]), cropped(split.labels[row])) for row in range(*rows)]
        tests = tuple(Pair(given, answer if answer.size else None) for given, answer in grids)
        found.append(Asked(ArcTask(identifiers[number], (), tests), table, number))
    return found


def vote(reasoners: Sequence[Reasoner], tasks: list[Asked], votes: int | None = None) -> dict[tuple[str, int], Ballot]:
    """Ask every test input under its task's identifiers, at most `votes` of them, until each vote is decided.

    One reasoner as a rule; of several, an ensemble, each is asked in turn and all vote together.
    """
    ballots = {(one.task.name, number): Ballot() for one in tasks for number in range(len(one.task.tests))}
    side = reasoners[0].task.side
    most = max(len(one.table) for one in tasks)
    most = min(most, votes or most)
    for start in range(0, most, ROUND):
        asked: list[tuple[tuple[str, int], np.ndarray]] = []
        tokens, numbers = [], []
        for one in tasks:
            rows = one.table[:most]
            for number, pair in enumerate(one.task.tests):
                if ballots[one.task.name, number].decided((len(rows) - start) * len(reasoners)):
                    continue
                for k, row in enumerate(rows[start : start + ROUND], start):
                    asked.append(((one.task.name, number), row))
                    tokens.append(tokens_of(applied(pair.input, row), side=side))
                    numbers.append(one.first + k)
        if not asked:
            break
        for reasoner in reasoners:
            answers = reasoner.run(np.stack(tokens), np.array(numbers, np.int32))
            for (key, row), said, confidence in zip(asked, answers.tokens, answers.confidence, strict=True):
                ballots[key].add(said, row, float(confidence))
    return ballots


def evaluate_arc(
    reasoners: Sequence[Reasoner],
    split: Split,
    identifiers: list[str],
    trained: np.ndarray,
    votes: int | None = None,
    limit: int | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every score at two attempts, the tasks wholly right, the share of test inputs right among the first k grids, and the
    submission.

    A vote stops once the two attempts are decided, so those shares for larger k are of the grids seen until then.
    The scores are of those test inputs whose answers are known, and left out where none is; the submission is of all.
    `reasoners`: one, or an ensemble that votes together. `trained`: the identifiers of the tasks trained on, from the
    training split; the report counts the asked ones that are not among them. `votes`: most augmentations asked a test
    input; `limit`: only so many tasks, the first.
    """
    started = time.perf_counter()
    asked = asked_in(split, identifiers)[:limit]
    tasks, ballots = [one.task for one in asked], vote(reasoners, asked, votes)
    report: dict[str, Any] = {"checkpoints": len(reasoners), "tasks": len(tasks), "test_inputs": len(ballots)}
    report["untrained_tasks"] = sum(one.first not in trained for one in asked)
    if any(pair.output is not None for task in tasks for pair in task.tests):
        scored = scores(tasks, ballots)
        report |= {"scored_tasks": scored.pop("tasks")} | scored
        report["right_tasks"] = [t.name for t in tasks if (right := rights(t, ballots)) and all(right)]
        report["pass_at"] = {k: scores(tasks, ballots, k)["share_of_test_inputs"] for k in RANKS}
    report["votes"] = sum(ballot.cast for ballot in ballots.values())
    most = max(len(one.table) for one in asked)
    report["most_votes"] = min(most, votes or most)
    report |= {"halt": reasoners[0].halt, "max_segments": reasoners[0].max_segments}
    report["seconds"] = time.perf_counter() - started
    report["data_hash"] = split.hash
    return report, submission(tasks, ballots)
