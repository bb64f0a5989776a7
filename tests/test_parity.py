"""Agreement with the references' recordings, and that nothing tampered with passes."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import PARITY
from safetensors.torch import save_file

from hrm import parity
from hrm.checkpoint import open_safetensors

SMALL = next(p for p in PARITY if p.name == "trm_attention.safetensors")


def test_there_are_fixtures_of_both_references():
    assert {path.name.split("_")[0] for path in PARITY} == {"hrm", "trm"} and len(PARITY) == 5


@pytest.mark.parametrize("path", PARITY, ids=lambda path: path.stem)
def test_our_model_agrees(path):
    report = parity.check(path)
    assert report.ok, report.line()
    assert report.compared >= 80
    assert all(value < 1e-4 for value in report.deviation.values()), report.deviation  # 0 on the recording machine


def tampered(path, out, change):
    tensors, metadata = open_safetensors(path)
    change(tensors, metadata)
    save_file(tensors, str(out), metadata)
    return parity.check(out)


def kinds_of_record():
    """One recorded tensor of every kind there is."""
    tensors, _ = open_safetensors(SMALL)
    seen = {}
    for key in tensors:
        if not key.startswith("batch/"):
            seen.setdefault((key.split("/")[0], key.split("/")[-1], parity.group_of(key)), key)
    return sorted(seen.values())


@pytest.mark.parametrize("key", kinds_of_record())
def test_a_change_of_one_entry_is_found(key, tmp_path):
    def change(tensors, _):
        changed = tensors[key].clone()
        flat = changed.view(-1)
        if key.endswith("puzzle_emb.weights"):
            flat = changed[tensors["batch/puzzle_identifiers"][0]]  # a row that is looked up
        if changed.dtype == torch.bool:
            flat[0] = ~flat[0]
        elif changed.is_floating_point():
            scale = changed.abs().max() if "/grad/" in key else 1.0
            flat[flat.abs().argmax()] += 1e-3 * scale if not key.startswith("model/") else 0.02
        else:
            flat[0] += 1
        tensors[key] = changed

    report = tampered(SMALL, tmp_path / "x.safetensors", change)
    assert not report.ok, f"{key} changed unnoticed: {report.line()}"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "key", ["eval/segment2/logits", "eval/segment3/z_H", "train/step1/loss", "train/step3/grad/inner.lm_head.weight"]
)
def test_not_a_number_is_found(key, value, tmp_path):
    def change(tensors, _):
        tensors[key] = tensors[key].clone()
        tensors[key].view(-1)[0] = value

    assert not tampered(SMALL, tmp_path / "x.safetensors", change).ok


@pytest.mark.parametrize(
    "change",
    [
        lambda t, m: t.pop("eval/segment4/logits"),
        lambda t, m: t.pop("train/step1/grad/inner.lm_head.weight"),
        lambda t, m: t.pop("model/inner.H_init"),
        lambda t, m: t.pop("batch/labels"),
        lambda t, m: t.update({"eval/segment5/logits": t["eval/segment4/logits"].clone()}),
        lambda t, m: t.update({"model/inner.extra": torch.zeros(2)}),
        lambda t, m: t.update({"eval/segment1/logits": t["eval/segment1/logits"][:, :-1].clone()}),
        lambda t, m: t.update({"batch/inputs": t["batch/inputs"] + 100}),
        lambda t, m: [t.pop(key) for key in list(t) if key.startswith(("eval/", "train/"))],
        lambda t, m: m.update(kind="hrm"),
        lambda t, m: m.update(config=json.dumps(json.loads(m["config"]) | {"H_cycles": 2})),
        lambda t, m: m.update(config=json.dumps(json.loads(m["config"]) | {"num_heads": 4})),
        lambda t, m: m.update(config=json.dumps(json.loads(m["config"]) | {"rope_theta": 9000.0})),
        lambda t, m: m.update(config=json.dumps(json.loads(m["config"]) | {"causal": True})),
        lambda t, m: m.update(config=json.dumps(json.loads(m["config"]) | {"batch_size": 5})),
        lambda t, m: m.update(config=json.dumps(json.loads(m["config"]) | {"surprise": 1})),
    ],
)
def test_missing_extra_and_misdescribed_parts_are_found(change, tmp_path):
    report = tampered(SMALL, tmp_path / "x.safetensors", change)
    assert not report.ok and report.faults[0]


def test_command_prints_a_line_a_file_and_exits_1_on_a_deviation(tmp_path):
    bad = tmp_path / "bad.safetensors"
    tampered(SMALL, bad, lambda t, m: t.update({"train/step2/loss": t["train/step2/loss"] + 0.01}))
    command = [sys.executable, "-m", "hrm", "parity"]
    good = subprocess.run([*command, str(SMALL)], capture_output=True, text=True)
    assert good.returncode == 0 and good.stdout.startswith("ok ") and good.stdout.count("\n") == 1
    for group in ("logits", "states", "loss", "gradients", "halting"):
        assert group in good.stdout
    both = subprocess.run([*command, str(SMALL), str(bad)], capture_output=True, text=True)
    assert both.returncode == 1 and "FAIL" in both.stdout and "train/step2/loss" in both.stdout
    none = subprocess.run([*command, str(tmp_path / "none.safetensors")], capture_output=True, text=True)
    assert none.returncode == 2 and none.stderr.count("\n") == 1 and "no such file" in none.stderr
