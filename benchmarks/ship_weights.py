"""Turn a finished run into weights that ship: bfloat16, measured as shipped, with a model card.

    python benchmarks/ship_weights.py runs/sudoku/sudoku-cpu sudoku --trained-on "…" [--also FILE.csv.gz …|SET …]

The run's last checkpoint is taken (its running mean, if it has one), so no test row has a say in the choice. The card's
figures come from the test split of the run's own data and of every `--also`: a file, read where it lies, or a built-in
set. Figures of an earlier card are kept, with the commit that they were measured at, where all that they depend on besides
the code is the same. In a run's place a folder of weights that shipped may be given, which are measured anew; what their
card says of their training stays.
"""

import argparse
import json
import platform
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import torch
import yaml

from hrm import checkpoint as ckpt
from hrm.checkpoint import Weights
from hrm.config import INFERENCE, ModelConfig, Recipe, load_recipe, recipe_names
from hrm.data import BUILTIN, Split, load_rows, load_split
from hrm.evaluate import evaluate
from hrm.model import machine_dtype
from hrm.reasoner import DEDUCTION_PASSES, Reasoner
from hrm.tasks import task_for
from hrm.train import flat

NAMES = {
    "sudoku-hard-1k, test": "unseen puzzles of the same maker",
    "sudoku-hard-beyond, test": "unseen puzzles of the same maker",
    "sudoku_extreme_test_public.csv.gz": "official Sudoku-Extreme test rows, which are harder",
    "official_sudoku_bench_100.csv.gz": "the official easy rows",
    "maze-15x15-1k, test": "unseen 15x15 mazes of the same maker",
    "maze-30x30-hard-1k, test": "unseen hard 30x30 mazes of the same maker",
    "maze_hard_like_test_1k.csv.gz": "unseen hard 30x30 mazes",
}
"""What the summary calls a data set."""
MANY = {"passes": DEDUCTION_PASSES}
WAYS = {
    "one pass": {"passes": 1},
    f"up to {DEDUCTION_PASSES} passes": MANY,
    f"up to {DEDUCTION_PASSES} passes, checked by the rules": MANY | {"check": True},
}
"""How weights are measured: options by name."""
KEPT = "rows distinct_solutions distinct_questions cell_accuracy verified mean_segments mean_passes".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run, or a folder of weights that shipped, to be measured anew")
    parser.add_argument("name")
    parser.add_argument("--trained-on", help="in words; needed for a run")
    parser.add_argument("--also", type=Path, nargs="*", default=[])
    parser.add_argument("--rows", type=int, default=10_000, help="first rows of each --also file that are measured")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help=f"what inference is told otherwise than training, chosen on validation rows: {', '.join(INFERENCE)}",
    )
    parser.add_argument("--no-checked", action="store_true", help="leave out the way in which the rules accept answers")
    asked = parser.parse_args()
    keys = [change.partition("=")[0] for change in asked.set]
    if not set(keys) <= set(INFERENCE):
        parser.error(f"--set {' '.join(asked.set)}: only of {', '.join(INFERENCE)}")
    again = (asked.run / "model.json").is_file()
    if not again and not asked.trained_on:
        parser.error("--trained-on: say what the run was trained on")
    found, card = of_weights(asked.run) if again else of_run(asked.run)
    told = {key: yaml.safe_load(value) for key, _, value in (change.partition("=") for change in asked.set)}
    found.model.config = ModelConfig(**(found.model.config.model_dump() | told))
    sets = measured_sets(found.task, card["data"], asked.also, asked.rows)
    card |= {"trained_on": asked.trained_on} if asked.trained_on else {}
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    card["commit"] = head.stdout.strip()
    card["measured"] = {
        "sets": [(name, split.hash, rows) for name, split, rows in sets],
        "checked": not asked.no_checked,
        "dtype": machine_dtype("cpu"),
    }
    target = Path(__file__).parents[1] / "src" / "hrm" / "weights" / asked.name
    with tempfile.TemporaryDirectory() as folder:
        shipped = Path(folder) / asked.name
        ckpt.save_weights(shipped, found.model, found.task, card, torch.bfloat16)
        if (target / "model.json").is_file() and basis(target) == basis(shipped):
            before = ckpt.read_json(target / "model.json")["card"]
            card["results"], card["commit"] = before["results"], before["commit"]
        else:
            card["results"] = measure(shipped, sets, not asked.no_checked)
    card["summary"] = summary(card["results"])
    ckpt.save_weights(target, found.model, found.task, card, torch.bfloat16)
    page = model_card(asked.name, found.task, card)
    (target / "README.md").write_text(page)
    print(page)


def of_weights(folder: Path) -> tuple[Weights, dict]:
    """Weights that shipped before and what their card says of their training."""
    found = ckpt.load_weights(folder, "cpu", forward_dtype="saved")
    return found, {key: value for key, value in found.card.items() if key not in ("results", "summary")}


def of_run(run: Path) -> tuple[Weights, dict]:
    """The weights of a run's last checkpoint and what their card says of their training."""
    last, recipe = ckpt.pointed(run, "last"), load_recipe(str(run / "config.yaml"))
    found = ckpt.load_weights(last, "cpu", forward_dtype=recipe.arch.forward_dtype)
    environment, trainer = ckpt.read_json(run / "environment.json"), ckpt.read_json(last / "trainer.json")
    data, built = source_of(recipe.data_path)
    return found, {
        "data": data,
        "data_hash": trainer["data_hash"],
        **({"built": built} if built else {}),
        "command": command_of(recipe) + (f" --init-from {came}" if (came := environment.get("init_from")) else ""),
        "seed": recipe.seed,
        "steps": trainer["step"],
        "training_seconds": round(training_seconds(run / "metrics.jsonl")),
        "hardware": f"{environment['device']}, {environment['cpu_capability']}, {trainer['world']} processes of "
        f"{environment['threads']} threads",
        "torch": environment["torch"],
        "parameters": sum(p.numel() for p in found.model.parameters()),
        "selection": "the last checkpoint of the run; no choice was made on test rows",
    }


def source_of(path: str) -> tuple[str, str]:
    """The built-in set, or else the folder, whose test split a run's data have; the command that built a folder and the sum
    of its output."""
    if path in BUILTIN:
        return path, ""
    made = ckpt.read_json(Path(path) / "hashes.json")
    source = made["built"]["source"]
    words = [f"--{name.replace('_', '-')} {value}" for name, value in made["built"].items() if value and name != "task"]
    built = f"hrm data build {made['built']['task']} {' '.join(words)}, sha256 {made['sha256']}"
    tested = source in BUILTIN and not made["built"].get("test_source")
    return source if tested else path, built


def command_of(recipe: Recipe) -> str:
    """The `hrm train` line that makes this recipe: the package's nearest, and what was laid over it."""

    def overrides(name: str) -> list[str]:
        known = flat(load_recipe(name).model_dump())
        found = {key: value for key, value in flat(recipe.model_dump(exclude={"about"})).items() if known[key] != value}
        return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in found.items()]

    name = min(recipe_names(), key=lambda name: len(overrides(name)))
    return " ".join(["hrm train", name, *overrides(name)])


def summary(results: list[dict]) -> str:
    """One sentence: each way of counting without the rules, on every data set."""
    told = {r["counted"]: r["way"] for r in results if not r["options"].get("check")}
    return "; ".join(
        f"right in {way} ({counted}): "
        + ", ".join(
            f"{r['share']:.1%} of {NAMES.get(r['data'], r['data'])} ({r['rows']:,} rows"
            + (f", {r['verified']:.1%} valid by the rules)" if r["verified"] != r["share"] else ")")
            for r in results
            if r["way"] == way
        )
        for counted, way in told.items()
    )


def basis(folder: Path) -> list:
    """All that the results of a folder of weights depend on besides the code, whose commit stands beside them."""
    sums, document = ckpt.read_json(folder / "index.json")["sha256"], ckpt.read_json(folder / "model.json")
    weights = {name: value for name, value in sums.items() if name.endswith(".safetensors")}
    config = ModelConfig(**document["config"]).model_dump()  # with what keys that came later mean there
    return [weights, document["task"], config, document["card"].get("measured")]


def measured_sets(task: str, data: str, also: list[Path], rows: int) -> list[tuple[str, Split, int | None]]:
    """Name, split and how many of its first rows are measured (None: all) of each data set."""
    sets = [(f"{data}, test", load_split(data, "test"), None)]
    for path in also:
        if str(path) in BUILTIN:
            sets.append((f"{path}, test", load_split(str(path), "test"), None))
        else:
            sets.append((path.name, load_rows(str(path), "test", partial(task_for, task)), rows))
    return sets


def measure(weights: Path, sets: list[tuple[str, Split, int | None]], checked: bool) -> list[dict]:
    """Every data set in every way of answering."""
    results = []
    for way, options in WAYS.items():
        if options.get("check") and not checked:
            continue
        for name, split, rows in sets:
            fitting = {"seq_len": split.metadata.seq_len, "batch_size": 256, "backend": "compiled"}
            reasoner = Reasoner.load(weights, "cpu", **fitting, **options)
            report = evaluate(reasoner, split, rows)
            counted, q = report["counted"], report["q_halt"] or {}
            results.append(
                {
                    "data": name,
                    "way": way,
                    "counted": counted,
                    "share": report[counted],
                    "ci95": report[f"{counted}_ci95"],
                    "q_halt_accuracy": q.get("accuracy"),
                    "calibration_error": q.get("expected_calibration_error"),
                    "options": options,
                }
                | {key: report[key] for key in KEPT if key in report}
            )
            print(json.dumps(results[-1]), flush=True)
    return sorted(results, key=lambda r: r["data"] != sets[0][0])


def training_seconds(metrics: Path) -> float:
    """Time spent in training steps, from the speeds logged (evaluations and restarts left out)."""
    seconds, before = 0.0, 0
    for line in map(json.loads, metrics.read_text().splitlines()):
        if "steps_per_second" in line:
            seconds += (line["step"] - before) / line["steps_per_second"]
            before = line["step"]
    return seconds


def model_card(name: str, task: str, card: dict) -> str:
    head = "| data | rows | way | counted as | share (95 % interval) | verified by the rules | cells right | segments | passes |"
    head += " Q_halt right |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    lines = [
        f"| {r['data']} | {r['rows']:,} | {r['way']} | {r['counted']} "
        f"| {r['share']:.2%} ({r['ci95'][0]:.1%}–{r['ci95'][1]:.1%}) | {r['verified']:.2%} "
        f"| {r['cell_accuracy']:.2%} | {r['mean_segments']:.2f} | {r['mean_passes']:.2f} "
        f"| {'–' if r['q_halt_accuracy'] is None else format(r['q_halt_accuracy'], '.2%')} |"
        for r in card["results"]
    ]
    stated = "trained_on data_hash built command commit seed steps training_seconds hardware torch parameters selection"
    names = {"commit": "measured at commit"}
    facts = "\n".join(
        f"- {names.get(key, key.replace('_', ' '))}: {card[key]}" for key in stated.split() if key in card
    )
    return (
        f"---\nlibrary_name: hrm-torch\nlicense: apache-2.0\ntags: [hierarchical-reasoning-model, {task}]\n---\n"
        f"# {name}\n\n{card['summary']}.\n\n{facts}\n- written by: benchmarks/ship_weights.py on {platform.machine()}\n\n"
        f"exact@1 is one deterministic pass, equal to the label; selected@k is up to k passes, the answer chosen by the "
        f"model's own signals; checked@k is up to k passes, the answer accepted by the puzzle's rules. Verified: the answer "
        f"passes the rules (of a maze: valid and shortest); any other counts as none.\n\n{head}"
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    main()
