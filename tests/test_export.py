"""Exported segments and the engines that run them agree with torch, for every kind of model and any number of puzzles."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TRM, tiny
from typer.testing import CliRunner

from hrm.backends import in_float32
from hrm.cli import app
from hrm.data import load_split
from hrm.export import SegmentStep, write_segment
from hrm.model import HRM
from hrm.reasoner import Reasoner

SPLIT = load_split("sudoku-6x6-1k", "test")
SHAPE = dict(seq_len=36, vocab_size=8, num_puzzle_identifiers=1, halt_max_steps=6)
LATTICE = dict(mixer="groups", pos_encodings="none", box=(2, 3), puzzle_emb_ndim=0)
KINDS = {
    "hrm": {},
    "trm": TRM | dict(H_cycles=2),
    "mixer": dict(mixer="mlp", pos_encodings="learned", puzzle_emb_ndim=0),
    "told": dict(feedback=True, qk_norm=True, unit_embedding=True, box=(2, 3)),
    "candidates": LATTICE | dict(carry="candidates", halting="halt_only", rule_out_below=0.1),
    "both": LATTICE | dict(carry="both", halting="halt_only", rule_out_below=0.1),
    "standing": LATTICE | dict(carry="both", halting="halt_only", rule_out_below=0.1, lattice="standing"),
}


def model(kind: str, **changes) -> HRM:
    torch.manual_seed(3)
    found = HRM(tiny(**SHAPE | KINDS[kind] | changes)).eval()
    torch.nn.init.normal_(found.q_head.weight)
    if found.config.feedback:
        torch.nn.init.normal_(found.embed_answer.embedding_weight, std=0.1)
    return found


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HRM_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_engine_gives_torchs_answers(kind):
    net = model(kind)
    options = dict(max_segments=5, halt={"candidates": "auto", "hrm": "q"}.get(kind, "never"), passes=2, batch_size=4)
    plain = Reasoner(net, **options).run(SPLIT.inputs[:7])
    for backend in ("onnx", "openvino"):
        answers = Reasoner(net, backend=backend, **options).run(SPLIT.inputs[:7])
        assert (answers.tokens == plain.tokens).all() and (answers.segments == plain.segments).all(), backend
        np.testing.assert_allclose(answers.confidence, plain.confidence, atol=1e-4)
    assert len(list(Path(os.environ["HRM_CACHE"]).rglob("*.onnx"))) == 1  # exported once for both
    assert not list(Path(os.environ["HRM_CACHE"]).rglob("*.partial*"))


@pytest.mark.parametrize("kind", ["hrm", "standing"])
def test_compiled_updates_give_torchs_answers_for_any_weights_and_any_number_of_puzzles(kind, caplog, monkeypatch):
    for seed in (0, 1):
        net = model(kind, H_cycles=1, L_cycles=1)
        torch.manual_seed(seed)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)
        compiled = Reasoner(net, halt="never", backend="compiled")
        assert net.ahead is None  # a Reasoner leaves its model as it was
        for rows in (5, 1):
            plain = Reasoner(net, halt="never").run(SPLIT.inputs[:rows])
            with monkeypatch.context() as without:
                without.delattr(HRM, "updated")  # the program runs, not the layers
                answers = compiled.run(SPLIT.inputs[:rows])
            assert (answers.tokens == plain.tokens).all()
            np.testing.assert_allclose(answers.confidence, plain.confidence, atol=1e-4)
    kept = [path for path in Path(os.environ["HRM_CACHE"]).rglob("*") if path.is_file()]
    (program,) = kept  # compiled once for both, and nothing left aside
    assert caplog.text.count("compiling for this machine, once") == 1
    program.write_bytes(b"not a program")
    with pytest.raises(ValueError, match=r"updates\.pt2: cannot be loaded; delete it"):
        Reasoner(net, backend="compiled")


def test_compiled_levels_give_torchs_answers():
    net = model("standing", levels="shared", H_layers=0)
    plain = Reasoner(net, halt="never").run(SPLIT.inputs[:5])
    net.compile_levels(dynamic=None)
    answers = Reasoner(net, halt="never").run(SPLIT.inputs[:5])
    assert (answers.tokens == plain.tokens).all()
    np.testing.assert_allclose(answers.confidence, plain.confidence, atol=1e-4)


@pytest.mark.parametrize("kind", ["hrm", "candidates"])
def test_a_torch_program_runs_any_number_of_puzzles(kind, tmp_path):
    net = model(kind)
    program = torch.export.load(write_segment(net, "sudoku", tmp_path / "out", "torch")).module()
    step = SegmentStep(net)
    for rows in (1, 2, 5):
        given = step.example(rows)
        with torch.no_grad():
            for ours, theirs in zip(step(*given), program(*given), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_model_in_bfloat16_is_exported_in_float32():
    net = model("candidates", forward_dtype="bfloat16")
    twin = in_float32(net)
    assert twin.config.forward_dtype == "float32" and twin.H_init.dtype == torch.float32
    assert all(
        torch.equal(a.float(), b) for a, b in zip(net.state_dict().values(), twin.state_dict().values(), strict=True)
    )


def test_folders_are_replaced_only_where_they_hold_an_export(tmp_path):
    net = model("candidates")
    folder = tmp_path / "out"
    write_segment(net, "sudoku", folder, "torch")
    (folder / "initial.npz").write_bytes(b"of an older one")
    write_segment(net, "sudoku", folder, "torch")
    assert sorted(p.name for p in folder.iterdir()) == ["segment.json", "segment.pt2"]
    assert json.loads((folder / "segment.json").read_text())["inputs"] == ["candidates"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]  # nothing is left aside
    (folder / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="out: holds other things"):
        write_segment(net, "sudoku", folder, "torch")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="holds other things"):
        write_segment(net, "sudoku", tmp_path / "mine", "torch")
    with pytest.raises(ValueError, match="choose one of onnx, torch"):
        write_segment(net, "sudoku", folder, "exe")
    with pytest.raises(ValueError, match="choose one of auto, eager, compiled"):
        Reasoner(net, backend="abacus")


def test_a_program_that_another_process_put_there_meanwhile_is_kept(tmp_path, monkeypatch):
    def exported(net):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "segment.pt2").write_bytes(b"the other's")
        return torch.export.export(torch.nn.Linear(1, 1), (torch.zeros(1, 1),))

    monkeypatch.setattr("hrm.export.exported", exported)
    program = write_segment(model("candidates"), "sudoku", tmp_path / "out", "torch")
    assert program.read_bytes() == b"the other's" and [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("content", [b"", b"not a program"])
def test_a_damaged_program_is_named_with_its_cure(backend, content, tmp_path, monkeypatch):
    program = tmp_path / "segment.onnx"
    program.write_bytes(content)
    monkeypatch.setattr("hrm.backends.cached_program", lambda model, task: program)
    with pytest.raises(ValueError, match=r"segment\.onnx: cannot be loaded; delete it") as caught:
        Reasoner(model("hrm"), backend=backend)
    assert "\n" not in str(caught.value)


def test_an_export_through_a_link_replaces_what_it_points_to(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "out", target_is_directory=True)
    for kind in ("candidates", "both"):
        write_segment(model(kind), "sudoku", tmp_path / "link", "torch")
        assert f'"carry": "{kind}"' in (tmp_path / "out" / "segment.json").read_text()


def test_weights_for_any_size_are_exported_for_the_one_that_is_asked(tmp_path):
    ran = CliRunner().invoke(app, ["export", "maze", str(tmp_path / "out"), "--format", "torch", "--size", "9"])
    assert ran.exit_code == 0, ran.output
    assert json.loads((tmp_path / "out" / "segment.json").read_text())["cells"] == 81
    ran = CliRunner().invoke(app, ["export", "sudoku", str(tmp_path / "x"), "--size", "4"])
    assert str(ran.exception) == "--size 4: sudoku serves 81 cells only"


def example(folder: Path, puzzle: str, *without: str) -> subprocess.CompletedProcess:
    """examples/solve_exported.py where neither this package nor those named can be imported."""
    arguments = ["x", str(folder), puzzle]
    script = f"import sys; sys.modules.update(dict.fromkeys({['hrm', *without]})); sys.argv = {arguments!r}\n"
    script += (Path(__file__).parents[1] / "examples" / "solve_exported.py").read_text()
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


@pytest.mark.parametrize(("kind", "without"), [("onnx", "torch"), ("torch", "onnxruntime")])
def test_the_example_solves_without_the_package(kind, without, tmp_path):
    ran = CliRunner().invoke(app, ["export", "sudoku", str(tmp_path / "out"), "--format", kind])
    assert not ran.exit_code, ran.output
    grid = load_split("sudoku-hard-1k", "test").labels[0] - 1
    answer = "".join(map(str, grid))
    ran = example(tmp_path / "out", answer[:-4] + "....", without)
    assert ran.stdout.strip() == answer, ran.stderr


@pytest.mark.parametrize(("kind", "without"), [("onnx", "torch"), ("torch", "onnxruntime")])
def test_the_example_runs_the_papers_model_and_refuses_other_puzzles(kind, without, tmp_path):
    net, puzzle = model("hrm", seq_len=81, vocab_size=11), "." * 81
    write_segment(net, "sudoku", tmp_path / "out", kind)
    given = Reasoner(net, halt="settled").solve(puzzle)
    ran = example(tmp_path / "out", puzzle, without)
    assert ran.stderr.startswith(f"{given.segments} segments, confidence {given.confidence:.3f}"), ran.stderr
    about = tmp_path / "out" / "segment.json"
    about.write_text(about.read_text().replace('"sudoku"', '"maze"'))
    assert "maze; this example runs an exported Sudoku" in example(tmp_path / "out", puzzle).stderr
