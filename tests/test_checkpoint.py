"""Weights in and out: our folders, and the references' checkpoints both ways."""

import errno
import json
import pickle

import pytest
import torch
import yaml
from conftest import PARITY, TRM, batch_for, benchmark, tiny

import hrm
from hrm import checkpoint as ckpt
from hrm.model import HRM
from hrm.optim import RunningMean, SparseSignSGD


def reference_file(fixture, folder, prefix="_orig_mod.model.", with_yaml=True):
    """A checkpoint as the reference's pretrain.py writes it, from a fixture's recorded state dict."""
    tensors, metadata = ckpt.open_safetensors(fixture)
    config = json.loads(metadata["config"])
    state = {prefix + key.removeprefix("model/"): value for key, value in tensors.items() if key.startswith("model/")}
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "step_10")
    if with_yaml:
        data_shaped = ("batch_size", "seq_len", "vocab_size", "num_puzzle_identifiers", "causal")
        arch = {key: value for key, value in config.items() if key not in data_shaped}
        arch |= {"name": "x@Y", "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"}}
        (folder / "all_config.yaml").write_text(yaml.safe_dump({"arch": arch, "lr": 1e-4}))
    return folder / "step_10", config, tensors


@pytest.mark.parametrize("prefix", ["_orig_mod.model.", "model.", ""])
@pytest.mark.parametrize("fixture", PARITY, ids=lambda path: path.stem)
def test_a_references_checkpoint_loads_and_answers_as_recorded(fixture, prefix, tmp_path):
    path, config, tensors = reference_file(fixture, tmp_path / "run", prefix)
    known = config["seq_len"] == 81
    model = hrm.load(path, "cpu", forward_dtype="float32", **({} if known else {"seq_len": config["seq_len"]}))
    assert model.config.num_puzzle_identifiers == config["num_puzzle_identifiers"] or not config["puzzle_emb_ndim"]
    ids = tensors["batch/puzzle_identifiers"] if config["puzzle_emb_ndim"] else torch.zeros(4, dtype=torch.int32)
    with torch.no_grad():
        state, out = model(model.initial_state(4), tensors["batch/inputs"], model.puzzle_rows(ids))
    torch.testing.assert_close(out.logits, tensors["eval/segment1/logits"], rtol=0, atol=1e-4)
    torch.testing.assert_close(state[0], tensors["eval/segment1/z_H"], rtol=0, atol=1e-4)


def test_without_the_yaml_the_tensors_tell_all_but_the_cycles(tmp_path):
    path, _, _ = reference_file(PARITY[-1], tmp_path / "run", with_yaml=False)
    with pytest.raises(ValueError, match="puzzle_emb_len=four: a whole number"):
        ckpt.load_weights(path, "cpu", overrides={"puzzle_emb_len": "four"})
    found = ckpt.load_weights(path, "cpu", overrides={"puzzle_emb_len": 4, "num_heads": 2})
    assert found.task == "sudoku"
    ours = found.model.config
    assert (ours.levels, ours.mixer, ours.seq_len, ours.L_layers, ours.H_cycles, ours.L_cycles) == (
        "shared",
        "mlp",
        81,
        2,
        3,
        6,
    )


def test_an_unknown_vocabulary_needs_a_length(tmp_path):
    tensors, _ = ckpt.open_safetensors(PARITY[1])
    state = {key.removeprefix("model/"): value for key, value in tensors.items() if key.startswith("model/")}
    for name in ("inner.embed_tokens.embedding_weight", "inner.lm_head.weight"):
        state[name] = state[name][:7].clone()
    torch.save(state, tmp_path / "step_1")
    with pytest.raises(ValueError, match="vocabulary 7 .* give the sequence length"):
        hrm.load(tmp_path / "step_1")


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"model.inner.H_init": Evil()}, tmp_path / "step_1")
    (tmp_path / "step_2").write_bytes(pickle.dumps(Evil()))
    for name in ("step_1", "step_2"):
        with pytest.raises(ValueError, match="refused"):
            hrm.load(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not a readable"), (b"hello world", "refused|not a readable"), (b"PK\x03\x04 truncated", "not a readable")],
)
def test_files_that_are_no_checkpoint_get_one_line(content, words, tmp_path):
    (tmp_path / "step_1").write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        hrm.load(tmp_path / "step_1")
    assert "\n" not in str(caught.value)


def test_other_contents_get_one_line(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="no HRM or TRM checkpoint"):
        hrm.load(tmp_path / "other")
    torch.save({"a": [1, 2]}, tmp_path / "nested")
    with pytest.raises(ValueError, match="bare state dict"):
        hrm.load(tmp_path / "nested")
    path, _, _ = reference_file(PARITY[0], tmp_path / "run")
    for content in (b"arch: [1", b"arch: {name: \xff}"):
        path.with_name("all_config.yaml").write_bytes(content)
        with pytest.raises(ValueError, match=r"all_config\.yaml: expected YAML with an 'arch' block"):
            hrm.load(path)
    with pytest.raises(ValueError, match="neither a file or folder"):
        hrm.load(tmp_path / "nothing")
    with pytest.raises(ValueError, match="neither weights"):
        hrm.load(tmp_path)


@pytest.mark.parametrize(
    "changes", [{}, TRM, TRM | {"mixer": "mlp", "pos_encodings": "none"}, {"pos_encodings": "learned"}]
)
def test_our_weights_write_in_the_references_form_and_come_back(changes, tmp_path):
    model = HRM(tiny(vocab_size=11, seq_len=81, mlp_round_to=256, forward_dtype="bfloat16", **changes))
    ckpt.save_reference(model, tmp_path / "ref" / "step_5")
    state = torch.load(tmp_path / "ref" / "step_5", weights_only=True)
    assert set(state) == {f"_orig_mod.model.inner.{key}" for key in model.state_dict()}
    assert state["_orig_mod.model.inner.H_init"].dtype == torch.bfloat16
    back = hrm.load(tmp_path / "ref" / "step_5", "cpu", forward_dtype="bfloat16")
    assert back.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[key], value)


def test_a_configuration_beside_is_kept_or_the_folder_refused(tmp_path):
    shape = dict(vocab_size=11, seq_len=81, mlp_round_to=256, forward_dtype="bfloat16")
    beside = tmp_path / "all_config.yaml"
    ckpt.save_reference(HRM(tiny(**shape)), tmp_path / "step_1")
    beside.write_text(beside.read_text() + "lr: 1.0\n")
    before = beside.read_text()
    ckpt.save_reference(HRM(tiny(**shape)), tmp_path / "step_2")
    with pytest.raises(ValueError, match="describes another model"):
        ckpt.save_reference(HRM(tiny(**shape | {"L_cycles": 7})), tmp_path / "step_3")
    assert beside.read_text() == before and sorted(file.name for file in tmp_path.glob("step_*")) == [
        "step_1",
        "step_2",
    ]


def test_the_loss_that_weights_learned_by_travels_with_them(tmp_path):
    model = HRM(tiny(vocab_size=11, seq_len=81, mlp_round_to=256, forward_dtype="bfloat16"))
    for loss_type in ("stablemax_cross_entropy", "softmax_cross_entropy"):
        path = tmp_path / loss_type / "step_1"
        ckpt.save_reference(model, path, loss_type)
        assert ckpt.load_weights(path, "cpu").loss_type == loss_type
    beside = path.with_name("all_config.yaml")
    described = yaml.safe_load(beside.read_text())
    for loss in (None, "mine", {"name": "x@Y"}, {"loss_type": ["huber"]}):  # what is not known is as published
        described["arch"]["loss"] = loss
        beside.write_text(yaml.safe_dump(described))
        assert ckpt.load_weights(path, "cpu").loss_type == "stablemax_cross_entropy"


def test_a_kill_leaves_no_checkpoint_whose_settings_must_be_guessed(tmp_path, monkeypatch):
    write = ckpt.write_synced

    def killed(path, content):
        if path.name == "step_1":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(ckpt, "write_synced", killed)
    shape = dict(vocab_size=11, seq_len=81, mlp_round_to=256, forward_dtype="bfloat16")
    with pytest.raises(KeyboardInterrupt):
        ckpt.save_reference(HRM(tiny(**shape)), tmp_path / "step_1")
    assert [file.name for file in tmp_path.iterdir()] == ["all_config.yaml"]


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ckpt.os, "fsync", full)
    with pytest.raises(OSError) as caught:
        ckpt.write_synced(tmp_path / "file", b"new")
    assert str(caught.value) == f"[Errno {errno.ENOSPC}] No space left on device: {str(tmp_path / 'file')!r}"


def test_what_is_written_over_a_link_goes_where_it_points(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    ckpt.write_synced(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"


def test_what_the_reference_cannot_hold_is_refused_by_name(tmp_path):
    for changes, word in (
        ({"levels": "single"}, "single"),
        ({"pos_encodings": "rope2d"}, "rope2d|pos_encodings"),
        ({}, "mlp_round_to"),
    ):
        with pytest.raises(ValueError, match=word):
            ckpt.save_reference(HRM(tiny(**changes)), tmp_path / "step_1")
        assert not list(tmp_path.iterdir())


def test_our_folder_round_trip_is_exact_and_says_what_it_is(tmp_path):
    model = HRM(tiny())
    ckpt.save_weights(tmp_path / "w", model, "sudoku", {"trained_on": "nothing"})
    found = ckpt.load_weights(tmp_path / "w", "cpu", forward_dtype="float32")
    assert found.model.config == model.config and found.card == {"trained_on": "nothing"}
    batch = batch_for(model.config)
    ours = model(model.initial_state(4), batch["inputs"], model.puzzle_rows(batch["puzzle_identifiers"]))[1]
    theirs = found.model(
        found.model.initial_state(4), batch["inputs"], found.model.puzzle_rows(batch["puzzle_identifiers"])
    )[1]
    assert torch.equal(ours.logits, theirs.logits)


def test_figures_of_shipped_weights_are_of_the_same_weights_configuration_and_rows(tmp_path):
    basis, model, measured = benchmark("ship_weights").basis, HRM(tiny()), {"sets": [["a", "0f", 10]]}

    def written(name: str, model: HRM = model, **card):
        ckpt.save_weights(tmp_path / name, model, "sudoku", card, torch.bfloat16)
        return basis(tmp_path / name)

    first = written("first", measured=measured, commit="1")
    assert written("same", measured=measured, commit="2") == first
    assert written("other rows", measured={"sets": [["a", "0f", 20]]}) != first != written("a card of before")
    longer, other = HRM(tiny(halt_max_steps_eval=9)), HRM(tiny())
    longer.load_state_dict(model.state_dict())
    assert written("longer", longer, measured=measured) != first != written("other", other, measured=measured)


def test_a_damaged_folder_is_refused(tmp_path):
    ckpt.save_weights(tmp_path / "w", HRM(tiny()), "sudoku", {})
    shard = tmp_path / "w" / "weights-0.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ValueError, match="damaged"):
        hrm.load(tmp_path / "w")
    shard.write_bytes(good)
    (tmp_path / "w" / "model.json").write_text("{")
    with pytest.raises(ValueError, match="damaged JSON"):
        hrm.load(tmp_path / "w")


def test_a_table_of_a_million_rows_costs_what_its_touched_rows_cost(tmp_path):
    shape = dict(seq_len=4, vocab_size=12, puzzle_emb_ndim=32, num_puzzle_identifiers=1_000_001, hidden_size=32)
    model = HRM(tiny(**shape))
    table = model.puzzle_emb.weights
    mean = RunningMean(model, 0.9)
    assert mean.module.puzzle_emb.weights.data_ptr() == table.data_ptr()
    ids = torch.tensor([7, 1_000_000, 7, 123_456], dtype=torch.int32)
    rows = model.puzzle_rows(ids).requires_grad_()
    assert rows.shape == (4, 32)  # what has a gradient is as long as the batch
    SparseSignSGD(table, lr=0.1, weight_decay=0.0).step_rows(ids, torch.ones(4, 32))
    mean.update_parameters(model)
    ckpt.save_weights(tmp_path / "w", model, "arc", {})
    assert sum(file.stat().st_size for file in (tmp_path / "w").iterdir()) < 300_000
    found = ckpt.load_weights(tmp_path / "w", "cpu").model
    assert torch.equal(found.puzzle_emb.weights, table)
    assert table.any(1).nonzero()[:, 0].tolist() == [7, 123_456, 1_000_000]
    table += 1  # and a full one is cut into shards
    ckpt.save_weights(tmp_path / "full", model, "arc", {})
    sizes = [file.stat().st_size for file in (tmp_path / "full").iterdir()]
    assert len(sizes) > 8 and max(sizes) < 15_100_000
    assert torch.equal(ckpt.load_weights(tmp_path / "full", "cpu").model.puzzle_emb.weights, table)
