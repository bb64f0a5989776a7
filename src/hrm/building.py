"""Building data sets of Sudokus and mazes: which rows are trained on, validated and tested, and what is made from them.

Everything a build writes is a function of its source and seed, byte for byte. ARC has its own in arc_data.py.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np

from .data import (
    BUILTIN,
    SPLITS,
    Report,
    Row,
    built_in_rows,
    checked_grids,
    read_csv,
    refuse_to_replace,
    split_from_rows,
    split_of_grids,
    write_dataset,
)
from .sampling import AUGMENTATION, BEYOND, HARDER, VARIANTS, stream_seed
from .tasks import Progress, Task, known_task, untold
from .tasks.sudoku import Sudoku
from .tasks.text import Text

Groups = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Puzzles and answers (N, S), and how many of them, one after the other, are drawn from as one puzzle."""
HUB_SETS = {"sudoku": "sapientinc/sudoku-extreme", "maze": "sapientinc/maze-30x30-hard-1k"}
HUB_FILES = ("train.csv", "test.csv")
TOO_MANY = 2000
"""Generated puzzles in a row below a wanted rating, or known, after which others are taken to be out of reach."""


def build(
    task: str = "sudoku",
    *,
    source: str,
    out: str | Path,
    subsample: int | None = None,
    seed: int = 0,
    val: int | None = None,
    test_source: str | None = None,
    val_source: str | None = None,
    num_aug: int = 0,
    variants: int = 0,
    drift: bool = False,
    beyond: int = 0,
    harden: int = 0,
    min_rating: int | None = None,
    size: int | None = None,
    min_path: int | None = None,
    overwrite: bool = False,
    progress: Progress = untold,
) -> Report:
    """Build a data set of a task in the reference's layout.

    source: a CSV, "hf" (sapientinc/sudoku-extreme or maze-30x30-hard-1k from the Hugging Face hub), a built-in set, or
    "generate" (puzzles of side `size` from `seed`, mazes with paths of `min_path` cells and more: `subsample` for
    training, 1,000 by default, as many for the test). The subsample is drawn
    by `seed`. Validation puzzles (`val`; default a tenth of what is trained on, at most 256, if so many are left over, or
    all of `val_source`) come from `val_source` or from the rows that the subsample leaves over, asked for by number and
    without a subsample from the rows themselves; the test split from `test_source`, from the hub's or the built-in's own
    test file, or from the rest left over. No solution grid, up to symmetry (of text, and of sizes that have few grids: no
    question), is in two splits, but that a test file given as such is
    left whole and may share grids with training, as the report and hashes.json then say. With `variants` a training puzzle is
    a group of itself and up to so many puzzles of the same solution and kind (tasks/variants.py), with `drift` of other
    solutions too, apart from those of the other splits; and `beyond` so many puzzles that no single assumption solves join
    the training rows, made from their solution grids; with `harden` then join beside each the most open puzzles of its
    solution, four at most, met in a walk of so many steps: more than the source's rows, settings to be named beside every
    result. All take minutes; `progress` is told of them. hashes.json keeps what was asked for.
    """
    built = deciding(locals())
    refuse_to_replace(Path(out), overwrite)
    kind = known_task(task)
    if kind is Text and (size or num_aug or not Path(source).is_file()):
        wrong = "--size" if size else "--num-aug" if num_aug else f"--source {source}"
        raise ValueError(f"{wrong}: text comes from a file, --source FILE.csv, as long and as many as its lines are")
    task = kind.for_cells(size**2 if size else kind.usual_cells)
    if min_path is not None and (task.name != "maze" or source != "generate"):
        raise ValueError(f"--min-path {min_path}: only for mazes by --source generate")
    if variants and (task.name != "sudoku" or num_aug):
        raise ValueError(f"--variants {variants}: " + ("not together with --num-aug" if num_aug else "only for Sudoku"))
    if drift and not variants:
        raise ValueError("--drift: say how many puzzles to make of each with --variants N")
    for option, asked in (("beyond", beyond), ("harden", harden)):
        if asked and task.name != "sudoku":
            raise ValueError(f"--{option} {asked}: only for Sudoku")
    like = {"min_rating": min_rating} | ({} if min_path is None else {"min_path": min_path})
    rng = np.random.Generator(np.random.Philox(seed))
    pools = source_pools(source, task, rng, subsample, val, test_source, like, progress)
    if val_source:
        pools = dataclasses.replace(pools, val=read_csv(val_source))
    task = pools.task
    if kind is Text:
        task = text_for([*pools.train, *pools.val, *pools.test])
    if size and task.seq_len != size**2:
        raise ValueError(f"--size {size}: {source} has puzzles of {task.seq_len} cells")
    train = pools.train
    if min_rating is not None:
        train = [row for row in train if row.rating >= min_rating]
        if not train:
            raise ValueError(f"--min-rating {min_rating}: no row is that hard")
    order = rng.permutation(len(train))
    if subsample is not None and subsample > len(train):
        raise ValueError(
            f"--subsample {subsample}: the source has only {len(train)} rows"
            + (" of that rating" if min_rating else "")
        )
    in_test = orbit_keys(task, pools.test, progress)
    if val is None or pools.val or subsample:
        chosen, left_over = np.sort(order[: subsample or len(train)]), order[subsample or len(train) :]
    else:  # validation rows are asked for, and to be had from these alone
        chosen, left_over = kept_back(task, train, order, val, {*in_test})
    spare = [train[k] for k in left_over]
    picked = [train[k] for k in chosen]

    wanted = val if val is not None else len(pools.val) if val_source else min(256, len(picked) // 10)
    in_train = {*orbit_keys(task, picked)}
    left, shared = apart(task, spare, in_train), 0
    if pools.test:  # given whole; validation keeps clear of it
        test = pools.test
        val_rows = list(islice(apart(task, pools.val or spare, in_train.union(in_test)), wanted))
        shared = sum(key in in_train for key in in_test)
    else:  # cut from what is left over
        val_rows = list(islice(apart(task, pools.val, in_train) if val_source else left, wanted))
        test = list(apart(task, left, {*orbit_keys(task, val_rows)}))
    if val is not None and len(val_rows) < val:
        raise ValueError(
            f"--val {val}: only {len(val_rows)} rows are left over whose {task.apart_by}s are not in train or test"
            + (f"; lower --subsample {subsample}, or leave it out" if subsample else "")
        )

    puzzles, answers = checked_grids(picked, task)
    kept_out, few = set(), task.apart_by == "question"  # then what is made from a row may be one of another split
    if beyond or drift or few:
        kept_out = {*orbit_keys(task, val_rows), *(in_test or orbit_keys(task, test))}
    if beyond:
        make = numba_task(f"--beyond {beyond}").beyond
        more = make(task, answers, beyond, stream_seed(seed, BEYOND, 0), progress)
        puzzles, answers = with_more(task, puzzles, answers, *more, kept_out)
    if harden:
        more = harder(task, puzzles, answers, harden, seed, progress)
        puzzles, answers = with_more(task, puzzles, answers, *more, kept_out if few else set())
    if variants:
        made = varied(task, puzzles, answers, variants, drift, seed, progress)
    else:
        made = augmented(task, puzzles, answers, num_aug, seed)
    if kept_out and (drift or few):
        made = groups_without(task, *made, kept_out)
    splits = {"train": split_of_grids(task, *made)}
    for name, rows in (("val", val_rows), ("test", test)):
        if rows:
            splits[name] = split_from_rows(rows, task)
    counts = {"train": len(puzzles), "val": len(val_rows), "test": len(test)}
    audit = {"test_also_trained_on": shared} if shared else None
    report = write_dataset(Path(out), splits, counts, overwrite, built, audit=audit)
    like_that = ", up to symmetry" * (task.apart_by == "answer")
    return dataclasses.replace(
        report, note=f"{shared:,} of the test's {task.apart_by}s are trained on as well{like_that}" if shared else ""
    )


def text_for(rows: list[Row]) -> Text:
    """The task whose lines are as long as the longest of these. Raises ValueError naming that row where it is too long."""
    longest = max(rows, key=lambda row: max(len(side.rstrip(" ")) for side in (row.question, row.answer)))
    try:
        return Text.for_lines((longest.question, longest.answer))
    except ValueError as error:
        raise ValueError(f"{longest.where}: {error}") from None


@dataclass(frozen=True)
class Pools:
    """Rows to draw from; val and test are empty where the source has none of its own."""

    task: Task
    train: list[Row]
    val: list[Row]
    test: list[Row]


def source_pools(
    source: str,
    task: Task,
    rng: np.random.Generator,
    subsample: int | None,
    val: int | None,
    test_source: str | None,
    made: dict[str, int | None],
    progress: Progress,
) -> Pools:
    given_test = read_csv(test_source) if test_source else []
    if source == "generate":
        count = subsample or 1000
        spare = val if val is not None else min(256, count // 10)
        rows = distinct_puzzles(task, rng, count + spare + (0 if given_test else count), progress, **made)
        return Pools(task, rows[:count], rows[count : count + spare], given_test or rows[count + spare :])
    if source == "hf":
        train, test = (given_test if k and given_test else read_csv(from_hub(task, f)) for k, f in enumerate(HUB_FILES))
        return Pools(task, train, [], test)
    if source in BUILTIN and not Path(source).exists():
        builtin_task = BUILTIN[source][1]
        if builtin_task.name != task.name:
            raise ValueError(f"--source {source}: a set of {builtin_task.name}, not {task.name}")
        train, own_val, test = (built_in_rows(source, split) for split in SPLITS)
        return Pools(builtin_task, train, own_val, given_test or test)
    if not Path(source).is_file():
        raise ValueError(
            f"--source {source}: no such file; else 'hf', 'generate' or a built-in set ({', '.join(BUILTIN)})"
        )
    rows = read_csv(source)
    with suppress(ValueError):  # else the first row is refused, by its line
        task = type(task).for_cells(len(rows[0].question))
    return Pools(task, rows, [], given_test)


def distinct_puzzles(
    task: Task,
    rng: np.random.Generator,
    count: int,
    progress: Progress = untold,
    *,
    min_rating: int | None = None,
    **made: int,
) -> list[Row]:
    """Puzzles generated as `made` says, no two of which may not be in two splits.

    Raises ValueError where TOO_MANY of them in a row are rated below `min_rating`, or are there already.
    """
    seen: set[int] = set()
    rows: list[Row] = []
    puzzles = task.generate_many(rng, **made)
    easy = known = 0
    while len(rows) < count:
        puzzle, solution = next(puzzles)
        key, rating = key_of(task, {"question": puzzle, "answer": solution}[task.apart_by]), task.rate(puzzle)
        if min_rating is not None and rating < min_rating:
            easy += 1
            if easy == TOO_MANY:
                raise ValueError(f"--min-rating {min_rating}: {TOO_MANY:,} puzzles in a row were made that are easier")
            continue
        easy = 0
        known = (known + 1) * (key in seen)
        if known == TOO_MANY:
            raise ValueError(f"only {len(rows):,} puzzles of this size were found that differ: lower --subsample")
        if known:
            continue
        seen.add(key)
        rows.append(Row("hrm-generated", task.format(puzzle), task.format(solution), rating))
        progress("puzzles made", len(rows), count)
    return rows


def from_hub(task: Task, file: str) -> str:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise ValueError(
            "--source hf needs the extra: pip install 'hrm-torch[hub]'; or give --source FILE.csv"
        ) from None
    try:
        return hf_hub_download(HUB_SETS[task.name], file, repo_type="dataset")
    except Exception as error:  # the hub's client raises many kinds; the user needs the way around
        raise ValueError(
            f"--source hf: {file} cannot be had ({type(error).__name__}); give --source FILE.csv"
        ) from None


def orbit_keys(task: Task, rows: list[Row], progress: Progress = untold) -> list[int]:
    keys = []
    for number, row in enumerate(rows, 1):
        keys.append(row_key(task, row))
        progress("rows to keep clear of", number, len(rows))
    return keys


def kept_back(
    task: Task, rows: list[Row], order: np.ndarray, count: int, in_test: set[int]
) -> tuple[np.ndarray, list[int]]:
    """Rows to train on, in their order, and one row each of `count` keys that neither those nor the test hold."""
    keys = [row_key(task, row) for row in rows]
    held: dict[int, int] = {}
    for k in order[::-1]:
        if len(held) < count and keys[k] not in in_test:
            held.setdefault(keys[k], k)
    chosen = np.array([k for k in range(len(rows)) if keys[k] not in held], int)
    if not len(chosen):
        raise ValueError(f"--val {count}: leaves none of {len(rows)} rows to train on")
    return chosen, list(held.values())


def row_key(task: Task, row: Row) -> int:
    """Equal for rows that may not be in two splits."""
    return key_of(task, row.grid(task, task.apart_by))


def key_of(task: Task, grid: np.ndarray) -> int:
    """Of the side (S,) by which the task's rows are kept apart."""
    return task.same_orbit_key(grid) if task.apart_by == "answer" else hash(grid.tobytes())


def apart(task: Task, rows: Iterable[Row], taken: set[int]) -> Iterator[Row]:
    """Rows whose key is not among `taken`. One by one, as they are asked for: millions may be left over of which a few hundred
    are wanted."""
    return (row for row in rows if row_key(task, row) not in taken)


def augmented(task: Task, puzzles: np.ndarray, answers: np.ndarray, num_aug: int, seed: int) -> Groups:
    """Each puzzle as a group of itself and `num_aug` random symmetries of it, as the reference writes them."""
    width = num_aug + 1
    if num_aug:
        import torch

        generator = torch.Generator().manual_seed(stream_seed(seed, AUGMENTATION))
        copies = [(puzzles, answers)]
        tokens = [torch.from_numpy(task.encode(grids)) for grids in (puzzles, answers)]
        for _ in range(num_aug):
            turned = task.augment(*tokens, generator)
            copies.append(tuple(task.decode(t.numpy()) for t in turned))
        puzzles, answers = (np.stack([copy[side] for copy in copies], 1).reshape(-1, task.seq_len) for side in (0, 1))
    return puzzles, answers, np.full(len(puzzles) // width, width)


def harder(
    task: Sudoku, puzzles: np.ndarray, answers: np.ndarray, steps: int, seed: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Of each puzzle the harder ones of the same solution that its walk met."""
    seeds = [stream_seed(seed, HARDER, row) for row in range(len(puzzles))]
    found = numba_task(f"--harden {steps}").harder(task, puzzles, answers, steps, seeds, progress)
    return np.concatenate((puzzles[:0], *found)), np.repeat(answers, [*map(len, found)], 0)


def varied(
    task: Sudoku, puzzles: np.ndarray, answers: np.ndarray, wanted: int, drift: bool, seed: int, progress: Progress
) -> Groups:
    """Each puzzle as a group of itself and up to `wanted` variants."""
    seeds = [stream_seed(seed, VARIANTS, row) for row in range(len(puzzles))]
    groups = numba_task(f"--variants {wanted}").variants(task, puzzles, answers, wanted, seeds, progress, drift=drift)
    made, solved = (np.concatenate(side) for side in zip(*groups, strict=True))
    return made, solved, np.array([len(group) for group, _ in groups])


def with_more(
    task: Task, puzzles: np.ndarray, answers: np.ndarray, more: np.ndarray, solved: np.ndarray, kept_out: set[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Puzzles and answers, and after them those made that have no key in `kept_out`."""
    clear = clear_of(task, more, solved, kept_out)
    return np.concatenate((puzzles, more[clear])), np.concatenate((answers, solved[clear]))


def groups_without(
    task: Task, puzzles: np.ndarray, answers: np.ndarray, widths: np.ndarray, kept_out: set[int]
) -> Groups:
    """Groups whose first is a row of the source, but for what of the rest has a key in `kept_out`."""
    starts = np.cumsum(widths) - widths
    kept = clear_of(task, puzzles, answers, kept_out)
    kept[starts] = True
    return puzzles[kept], answers[kept], np.add.reduceat(kept.astype(int), starts)


def clear_of(task: Task, puzzles: np.ndarray, answers: np.ndarray, kept_out: set[int]) -> np.ndarray:
    """Which of the rows (N, S) have no key in `kept_out`: (N,) bool."""
    if not kept_out or not len(puzzles):
        return np.ones(len(puzzles), bool)
    distinct, which = np.unique({"question": puzzles, "answer": answers}[task.apart_by], axis=0, return_inverse=True)
    return np.array([key_of(task, grid) not in kept_out for grid in distinct])[which]


def numba_task(asked: str) -> ModuleType:
    """tasks/variants.py, which needs an extra."""
    try:
        from .tasks import variants
    except ImportError:
        raise ValueError(f"{asked} needs the extra: pip install 'hrm-torch[variants]'") from None
    return variants


def deciding(arguments: dict) -> dict:
    """Of a builder's arguments those that decide what it writes, for the record."""
    kept = {name: value for name, value in arguments.items() if name not in ("out", "overwrite", "progress")}
    return {name: str(value) if isinstance(value, Path) else value for name, value in kept.items()}
