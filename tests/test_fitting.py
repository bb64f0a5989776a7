"""Fitting a model to one ARC task before its tests are asked."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import refusal, tiny
from typer.testing import CliRunner

from hrm.arc_data import build_arc
from hrm.checkpoint import Weights, save_weights
from hrm.cli import app, main, trained_identifiers
from hrm.data import load_split
from hrm.fitting import fit
from hrm.model import HRM
from hrm.reasoner import Reasoner
from hrm.tasks.arc import ArcTask, Pair
from hrm.voting import Asked, right_at, vote


def swapped(*cells: str) -> Pair:
    """Colours 1 and 2 change places."""
    grid = np.array([[int(c) for c in row] for row in cells], np.uint8)
    return Pair(grid, np.array([0, 2, 1], np.uint8)[grid])


TASK = ArcTask("swap", (swapped("112", "021"), swapped("20", "01", "11"), swapped("1222")), (swapped("1121", "2002"),))


def model() -> HRM:
    torch.manual_seed(0)
    shape = dict(seq_len=25, vocab_size=12, puzzle_emb_ndim=32, num_puzzle_identifiers=5, hidden_size=32)
    return HRM(tiny(**shape, pos_encodings="rope2d", halting="halt_only", halt_max_steps=2))


def test_the_embedding_alone_is_fitted_and_the_model_given_stays_as_it_was():
    given = model()
    given.puzzle_emb.weights[1:].normal_()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    fitted = fit(given, TASK, seconds=60, most_steps=5, augmentations=7)
    assert fitted.steps == 5 and len(fitted.table) == 8 and np.isfinite(fitted.loss)
    for name, tensor in fitted.model.state_dict().items():
        if name == "puzzle_emb.weights":
            start = before[name][1:].mean(0)
            assert tensor.shape == (9, 32) and torch.equal(tensor[0], before[name][0])
            assert ((tensor[1:] - start).abs() <= 5 * 1e-2 + 1e-6).all() and not (tensor[1:] == start).all()
        else:
            assert torch.equal(tensor, before[name]), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.state_dict().items())


def test_the_answer_of_a_test_changes_nothing():
    one, other = np.array([[1]], np.uint8), np.array([[1, 2], [3, 4]], np.uint8)
    tables = [
        fit(model(), ArcTask("a", (Pair(one, one),), (Pair(one, answer),)), seconds=60, most_steps=1).table
        for answer in (None, other, np.zeros((9, 9), np.uint8))
    ]
    assert all(np.array_equal(tables[0], table) for table in tables[1:])


def test_a_small_task_is_learned_from_its_demonstrations_alone():
    fitted = fit(model(), TASK, seconds=60, most_steps=400, augmentations=3, everything=True)
    assert fitted.loss < 0.1
    (ballot,) = vote([Reasoner(fitted.model, "arc")], [Asked(TASK, fitted.table, 1)]).values()
    assert right_at(ballot, TASK.tests[0].output, 2)


def test_grids_larger_than_the_canvas_and_models_without_embedding_are_refused():
    with pytest.raises(ValueError, match="swap: grids of up to 6 cells a side, these weights see 5x5"):
        fit(model(), ArcTask("swap", (swapped("112010"),), TASK.tests))
    bare = HRM(tiny(seq_len=25, vocab_size=12, puzzle_emb_ndim=0, num_puzzle_identifiers=1))
    with pytest.raises(ValueError, match="no puzzle embedding"):
        fit(bare, TASK)


def written(folder: Path, *tasks: ArcTask) -> Path:
    folder.mkdir(parents=True)
    for task in tasks:
        pairs = {"train": task.demos, "test": task.tests}
        listed = {s: [{"input": p.input.tolist(), "output": p.output.tolist()} for p in ps] for s, ps in pairs.items()}
        (folder / f"{task.name}.json").write_text(json.dumps(listed))
    return folder


def test_a_task_of_the_weights_own_data_set_is_known_if_it_was_trained_on(tmp_path):
    held = ArcTask("held", (swapped("12"), swapped("11")), (swapped("21"),))
    written(tmp_path / "s" / "training", held)
    written(tmp_path / "s" / "evaluation", TASK)
    how = dict(source=tmp_path / "s", num_aug=1, side=5, policy="training")
    build_arc(out=tmp_path / "d", **how)
    found = Weights(model(), "arc", {"data_hash": load_split(str(tmp_path / "d"), "train").hash})
    table, first = trained_identifiers(found, tmp_path / "d", held)
    assert (len(table), first) == (2, 1)
    other = replace(held, demos=(swapped("22"), *held.demos))
    for task in (TASK, replace(held, name="nowhere"), other):  # only asked, unknown, another of the same name
        assert trained_identifiers(found, tmp_path / "d", task) is None
    save_weights(tmp_path / "weights", found.model, "arc", found.card)
    file = tmp_path / "s" / "training" / "held.json"
    asked = ("solve", "arc", file, "--weights", tmp_path / "weights", "--data", tmp_path / "d")
    assert "held was trained on" in CliRunner().invoke(app, list(map(str, asked))).output
    assert refusal(*asked, "--fit-everything").startswith("--fit-everything: held was trained on, and is not fitted")
    build_arc(out=tmp_path / "r", layout="reference", **how)
    with pytest.raises(ValueError, match="r: not the data set that"):
        trained_identifiers(found, tmp_path / "r", held)
    with pytest.raises(ValueError, match="no augmentation table: build one with --layout table"):
        trained_identifiers(replace(found, card={}), tmp_path / "r", held)


def test_the_shell_shows_demonstrations_attempts_and_how_they_came(tmp_path, capsys, monkeypatch):
    save_weights(tmp_path / "weights", model(), "arc", {})
    task = written(tmp_path / "tasks", TASK) / "swap.json"
    asked = ["solve", "arc", str(task), "--weights", str(tmp_path / "weights"), "--fit-seconds", "0.5"]
    picture = tmp_path / "out.png"
    ran = CliRunner().invoke(app, [*asked, "--png", str(picture)])
    assert ran.exit_code in (0, 1), ran.output
    assert "fitted to its 3 demonstrations" in " ".join(ran.output.split())
    assert "demonstration 3" in ran.output and "test 1" in ran.output and "attempt" in ran.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    ran = CliRunner().invoke(app, [*asked, "--format", "json"])
    document = json.loads(ran.stdout)
    assert set(document["swap"][0]) == {"attempt_1", "attempt_2"}
    monkeypatch.setattr("sys.argv", ["hrm", "solve", "arc", str(tmp_path / "none.json"), *asked[3:]])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2 and "no such file" in capsys.readouterr().err
