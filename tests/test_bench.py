"""The user's benchmark: what its report holds, and what it calls slower."""

import ast
import copy
import importlib
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from hrm.bench import ALIKE, LOSS, bench, ceiling, flops_of, hash_of, read_report, slower, timed, weights_hash
from hrm.cli import app
from hrm.data import load_split
from hrm.reasoner import Reasoner


def test_flops_are_counted_and_every_round_is_timed():
    a = torch.randn(20, 30)
    flops = flops_of(lambda: a @ a.T)
    assert flops == 2 * 20 * 30 * 20 and flops_of(lambda: (a @ a.T) @ a) == flops * 2
    first, second = timed([("one", lambda: a @ a.T), ("two", lambda: 2)], 3)
    assert len(first.seconds) == 3 and 0 < min(first.seconds) <= first.median and second.result == 2
    row = first.row(flops, 1e9)
    assert row["share_of_ceiling"] == pytest.approx(flops / first.median / 1e9)
    assert ceiling(size=64) > 0


def test_counting_leaves_compiled_work_compiled_and_sees_the_attention_of_a_cpu():
    ran = []

    def backend(graph, _):
        return lambda *arguments: ran.append(graph) or graph.forward(*arguments)

    attend = torch.compile(lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x), backend=backend)
    x = torch.randn(1, 2, 8, 4)
    attend(x)
    assert flops_of(lambda: attend(x)) == 2 * (2 * 2 * 8 * 8 * 4)  # two products over two heads
    grown = x.clone().requires_grad_()
    step = flops_of(lambda: torch.nn.functional.scaled_dot_product_attention(grown, grown, grown).sum().backward())
    assert step == (2 + 5) * (2 * 2 * 8 * 8 * 4)  # back: the scores again, and two gradients of each product
    timed([("attention", lambda: attend(x))], 3)
    assert len(ran) == 1 + 1 + 3  # before, to warm up, and timed


def test_flops_and_parts_are_of_an_eager_run_and_segments_of_each_backends_own(monkeypatch):
    load = Reasoner.load

    def other(*where, backend, **options):
        return load(*where, **options | ({} if backend == "eager" else {"max_segments": 1}))

    monkeypatch.setattr(Reasoner, "load", other)
    asked = dict(rounds=1, device="cpu", cold=False, passes=1, max_segments=3)
    report = bench("sudoku", load_split("sudoku-hard-1k", "test").inputs[:2], backends=["onnx", "eager"], **asked)
    theirs, ours = report["work"][::2], report["work"][1::2]
    assert [row["name"] for row in report["work"]][::2] == ["onnx, 1 puzzle", "eager, 1 puzzle"]
    assert [row["segments"] for row in report["work"]] == [1, 1, 3, 3]
    assert theirs[0]["gflop"] == theirs[1]["gflop"] > 0 and ours[0]["gflop"] == ours[1]["gflop"]
    assert report["parts"]["fast level"] > report["parts"]["input"]


def test_the_shipped_weights_need_no_fifth_more_flops_than_the_regression_file_says():
    before = read_report(Path(__file__).parents[1] / "benchmarks" / "bench-sudoku.json", "sudoku")
    reasoner = Reasoner.load("sudoku", "cpu", forward_dtype=before["dtype"])
    tokens = load_split("sudoku-hard-1k", "test").inputs[: before["puzzles"]]
    assert (hash_of(tokens), weights_hash(reasoner)) == (before["puzzles_hash"], before["weights_hash"])
    first = before["work"][0]  # that of one puzzle; to count those of all takes long
    assert first["name"] == "eager, 1 puzzle"
    assert flops_of(lambda: reasoner.run(tokens[:1])) / 1e9 < (1 + LOSS) * first["gflop"]


REPORT = {
    "weights": "w",
    "puzzles": 2,
    "puzzles_hash": "p",
    "weights_hash": "h",
    "passes": 32,
    "max_segments": 64,
    "patience": 4,
    "accept": None,
    "device": "cpu",
    "dtype": "float32",
    "work": [{"name": "eager, 1 puzzle", "gflop": 1.0, "share_of_ceiling": 0.1}],
}


@pytest.mark.parametrize(
    ("gflop", "share", "lost"), [(1.0, 0.1, 0), (1.19, 0.081, 0), (1.21, 0.1, 1), (1.0, 0.079, 1), (2.0, 0.05, 2)]
)
def test_a_fifth_more_work_or_a_fifth_less_of_the_machine_is_slower(gflop, share, lost):
    assert LOSS == 0.2
    later = copy.deepcopy(REPORT)
    later["work"] = [{"name": "eager, 1 puzzle", "gflop": gflop, "share_of_ceiling": share}, {"name": "new"}]
    assert len(slower(later, REPORT)) == lost


def test_reports_of_other_things_are_not_compared():
    for key in ALIKE:
        with pytest.raises(ValueError, match=f"the earlier report is of {key}={REPORT[key]}, this one of another"):
            slower(REPORT | {key: "another"}, REPORT)
    with pytest.raises(ValueError, match="the earlier report is of puzzles=2, this one of 3"):
        slower(REPORT | {"puzzles": 3}, REPORT)
    with pytest.raises(ValueError, match="of weights_hash=h, this one of other"):
        slower(REPORT | {"weights_hash": "other"}, REPORT)
    with pytest.raises(ValueError, match="is of eager, 1 puzzle: measure the same --backends"):
        slower(REPORT | {"work": [{"name": "onnx, 1 puzzle"}]}, REPORT)


def test_the_shell_measures_the_shipped_weights_and_compares_with_a_report(tmp_path):
    asked = ["bench", "sudoku", "--puzzles", "2", "--rounds", "1", "--passes", "1", "--max-segments", "3", "--no-cold"]
    ran = CliRunner().invoke(app, [*asked, "--json", str(tmp_path / "now.json")])
    assert ran.exit_code == 0, ran.output
    assert "| eager, 1 puzzle |" in ran.output and "Where the time of 2 puzzles goes, run eagerly: " in ran.output
    report = json.loads((tmp_path / "now.json").read_text())
    assert sum(report["parts"].values()) == pytest.approx(1)
    one, both = report["work"]
    assert 1.5 < both["gflop"] / one["gflop"] < 2.5  # twice as many puzzles, not alike in how many values stand
    for row in report["work"]:
        row["gflop"] /= 2
    (tmp_path / "before.json").write_text(json.dumps(report))
    ran = CliRunner().invoke(app, [*asked, "--compare", str(tmp_path / "before.json")])
    assert ran.exit_code == 1 and "slower: eager, 1 puzzle" in ran.output + ran.stderr


@pytest.mark.parametrize("file", sorted(Path(__file__).parents[1].glob("benchmarks/*.py")), ids=lambda file: file.stem)
def test_benchmarks_import_what_the_package_has(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "hrm":
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name) or importlib.import_module(f"{node.module}.{name.name}"), name.name
