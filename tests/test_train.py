"""Training: exact resume at any moment, time boxes, several processes, refusals, non-finite losses."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hrm import checkpoint as ckpt
from hrm.arc_data import build_arc
from hrm.building import build
from hrm.config import load_recipe, recipe_names
from hrm.data import load_split
from hrm.train import NonFinite, Ranks, Trainer, train

ARCH = {
    "hidden_size": 16,
    "num_heads": 2,
    "expansion": 2,
    "mlp_round_to": 8,
    "H_layers": 1,
    "L_layers": 1,
    "halt_max_steps": 3,
    "puzzle_emb_ndim": 16,
    "forward_dtype": "float32",
    "mixer": "attention",
    "pos_encodings": "rope",
}
SMALL = {
    "data_path": "sudoku-6x6-1k",
    "global_batch_size": 8,
    "epochs": "null",
    "steps": 24,
    "lr_warmup_steps": 4,
    "log_every": 5,
    "checkpoint_every": 4,
    "eval_every": 12,
    "eval_rows": 8,
    "test_at_end": "false",
    "device": "cpu",
    "run_name": "x",
    "project_name": "p",
}
KINDS = {
    "hrm": {},
    "trm": {"arch.levels": "shared", "arch.gradient": "last_cycle", "arch.halting": "halt_only", "ema": 0.9},
    "muon": {"optimizer": "muon", "ema": 0.9, "random_H_cycles": "[1,3]", "grad_clip": 1.0, "arch.halt_max_steps": 1},
    "candidates": {
        "arch.carry": "candidates",
        "arch.mixer": "groups",
        "arch.pos_encodings": "none",
        "arch.puzzle_emb_ndim": 0,
        "arch.halting": "halt_only",
        "arch.gradient": "segment",
        "loss_type": "softmax_cross_entropy",
        "augment": "false",
    },
    "both": {"arch.carry": "both", "arch.forward_dtype": "bfloat16"},
    "told": {
        "arch.feedback": "true",
        "arch.qk_norm": "true",
        "arch.unit_embedding": "true",
        "constraint_weight": 0.3,
        "loss_type": "softmax_cross_entropy",
        "depth_schedule": "[[0,1],[0.4,2]]",
    },
    "adamw": {
        "optimizer": "adamw",
        "arch.forward_dtype": "bfloat16",
        "lr_schedule": "linear_decay",
        "lr_min_ratio": 0.1,
    },
}


KINDS["both"] = KINDS["candidates"] | KINDS["both"]


def overrides(**changes) -> list[str]:
    values = {f"arch.{k}": v for k, v in ARCH.items()} | SMALL | changes
    return [f"{key}={value}" for key, value in values.items()]


def recipe(**changes):
    return load_recipe("hrm-sudoku-1k", overrides(**changes))


def metric_lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def fingerprint(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint: weights, mean, optimizer, carry."""
    index = ckpt.read_json(checkpoint / "index.json")["sha256"]
    groups = {name.rsplit("-", 1)[0] for name in index if name.endswith(".safetensors")}
    return {f"{g}/{k}": v for g in sorted(groups) for k, v in ckpt.read_group(checkpoint, g).items()}


def assert_same(one: Path, other: Path) -> None:
    a, b = fingerprint(one), fingerprint(other)
    assert a.keys() == b.keys() and any(key.startswith("optimizer/") for key in a)
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize("kind", KINDS)
def test_in_pieces_is_bit_for_bit_in_one_stretch(kind, tmp_path):
    whole = train(recipe(**KINDS[kind]), runs=tmp_path / "whole")
    pieces = [train(recipe(**KINDS[kind]), runs=tmp_path / "pieces", resume="auto", max_steps=n) for n in (7, 1, 9, 50)]
    assert [p.stopped for p in pieces] == ["steps", "steps", "steps", "finished"]
    assert_same(whole.folder / "step_24", pieces[-1].folder / "step_24")
    logs = [metric_lines(r.folder) for r in (whole, pieces[-1])]
    assert [line["step"] for line in logs[0] if "eval/exact_accuracy" in line] == [12, 24]
    evals = [
        [{k: v for k, v in line.items() if k.startswith("eval")} for line in log if "eval/rows" in line] for log in logs
    ]
    assert evals[0] == evals[1]


def test_depth_follows_its_schedule_of_the_whole_run(tmp_path):
    changes = {"steps": 10, "depth_schedule": "[[0,1],[0.25,2],[0.9,4]]"}
    trainer = Trainer(recipe(**changes), tmp_path, Ranks(), lambda step, metrics: None)
    depths = []
    for trainer.step in range(1, 11):
        depths.append(trainer._depth(0))
    assert depths == [1] * 3 + [2] * 6 + [4]


def test_a_run_is_told_wrong_cells_at_random_and_says_how_far_its_rules_are_broken(tmp_path):
    found = [train(recipe(**KINDS["told"], feedback_noise=n), runs=tmp_path / str(n)).folder for n in (0, 0.3)]
    assert all("train/constraint_loss" in metric_lines(folder)[0] for folder in found)
    heard = [fingerprint(folder / "step_24")["weights/embed_answer.embedding_weight"] for folder in found]
    assert heard[0].any() and not torch.equal(*heard)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def start(runs: Path, *extra: str, launcher: tuple[str, ...] = (), **changes) -> subprocess.Popen:
    command = [sys.executable, *launcher, "-m", "hrm", "train", "hrm-sudoku-1k", *overrides(**changes)]
    command += ["--runs", str(runs), "--resume", "auto", *extra]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_at_random_moments_and_resumed_ends_with_the_same_weights(tmp_path):
    """SIGKILL falls anywhere: start-up, steps, while a checkpoint is written. benchmarks/kill_and_resume.py does more."""
    settings = dict(steps=300, checkpoint_every=2, eval_every=100, **{"arch.H_cycles": 1})
    whole = train(recipe(**settings), runs=tmp_path / "whole")
    moments = random.Random(0)
    run = tmp_path / "killed" / "p" / "x"
    kills = 0
    while kills < 6:
        process = start(tmp_path / "killed", **settings)
        deadline = time.monotonic() + 60
        before = (run / "last").read_text() if (run / "last").is_file() else ""
        # let it get going, or kill it at once now and then
        while kills % 3 and time.monotonic() < deadline and process.poll() is None:
            if (run / "last").is_file() and (run / "last").read_text() != before:
                break
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.4))
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        kills += 1
        if (run / "last").is_file():
            ckpt.read_group(ckpt.pointed(run, "last"), "weights")  # never half-written
    assert kills >= 3
    final = start(tmp_path / "killed", **settings)
    _, err = final.communicate(timeout=120)
    assert final.returncode == 0, err
    assert_same(whole.folder / "step_300", run / "step_300")
    assert not list(run.glob("*.partial"))
    steps = [line["step"] for line in metric_lines(run)]
    assert steps == sorted(steps)


@pytest.mark.parametrize("launcher", [(), TORCHRUN], ids=["one process", "two processes"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_save_and_leave(number, launcher, tmp_path):
    """Between two log points too, for torchrun kills its processes 30 seconds after it was told to end."""
    process = start(tmp_path, launcher=launcher, steps=100_000, log_every=100_000)
    run = tmp_path / "p" / "x"
    while not (run / "last").is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert launcher or (process.returncode == 0 and "Traceback" not in err)
    saved = ckpt.read_json(ckpt.pointed(run, "last") / "trainer.json")["step"]
    assert f"left at step {saved} of" in out and "--resume auto goes on" in out and saved > 0


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_trains_and_resumes_at_a_small_size(name, tmp_path):
    """What each is of stays: levels, mixer, cycles, halting, loss, optimizer, schedule; width, batch and data shrink."""
    plain = load_recipe(name)
    data = {"sudoku": "sudoku-6x6-1k", "maze": "maze-15x15-1k", "arc": str(tmp_path / "arc")}
    data["text"] = str(tmp_path / "text")
    data = data[plain.task]
    if plain.task == "text":
        (tmp_path / "t.csv").write_text("question,answer\nab,ba\ncd,dc\nef,fe\ngh,hg\nij,ji\n")
        build("text", source=tmp_path / "t.csv", out=data)
    if plain.task == "arc":
        pair = {"input": [[1, 2], [3, 4]], "output": [[4, 3]]}
        for part in ("training", "evaluation"):
            (tmp_path / "source" / part).mkdir(parents=True)
            content = json.dumps({"train": [pair, pair | {"output": [[5]]}], "test": [pair]})
            (tmp_path / "source" / part / f"{part[:5]}.json").write_text(content)
        build_arc(source=str(tmp_path / "source"), out=data, num_aug=3, side=8)
    small = {
        "data_path": data,
        "global_batch_size": 4,
        "compile": "false",
        "eval_every": "null",
        "test_at_end": "false",
    }
    small |= {"epochs": "null", "steps": 3, "log_every": 1, "device": "cpu", "project_name": "p", "run_name": "x"}
    small |= {"arch.hidden_size": 16, "arch.num_heads": 2, "arch.mlp_round_to": 8}
    if plain.arch.puzzle_emb_ndim:
        small["arch.puzzle_emb_ndim"] = 16
    recipe = load_recipe(name, [f"{key}={value}" for key, value in small.items()])
    train(recipe, runs=tmp_path, max_steps=1)
    result = train(recipe, runs=tmp_path, resume="auto")
    losses = [line["train/lm_loss"] for line in metric_lines(result.folder)]
    assert result.step == 3 and len(losses) == 3 and all(map(math.isfinite, losses))


def test_two_processes_agree_with_one(tmp_path):
    """Same global batch, gradients summed over ranks, the rows of several puzzles gathered, some of them twice."""
    data, names = tmp_path / "data", 5
    build("sudoku", source="sudoku-6x6-1k", out=data, subsample=40, val=0)
    for split in ("train", "test"):
        told = ckpt.read_json(data / split / "dataset.json") | {"num_puzzle_identifiers": names + 1}
        (data / split / "dataset.json").write_text(json.dumps(told))
        path = data / split / "all__puzzle_identifiers.npy"
        np.save(path, (np.arange(len(np.load(path))) % names + 1).astype(np.int32))
    changes = {"data_path": data, "augment": "false", "arch.halt_max_steps": 1, "steps": 6, "eval_every": "null"}
    one = train(recipe(**changes), runs=tmp_path / "one")
    command = [sys.executable, *TORCHRUN, "-m", "hrm", "train"]
    command += ["hrm-sudoku-1k", *overrides(**changes), "--runs", str(tmp_path / "two")]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    a = ckpt.read_group(one.folder / "step_6", "weights")
    b = ckpt.read_group(tmp_path / "two" / "p" / "x" / "step_6", "weights")
    for name in a:
        # atan2 turns a rounding difference of a near-zero gradient into a step of up to lr: compare closely, not to the bit
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=2e-4, msg=name)
    assert a["puzzle_emb.weights"][1:].any(1).all() and not a["puzzle_emb.weights"][0].any()
    assert ran.stdout.count("finished 6 steps") == 1  # rank 0 speaks for all


def test_loss_falls_and_best_is_kept(tmp_path):
    result = train(recipe(steps=150, eval_every=50, lr=3e-3, checkpoint_every=50), runs=tmp_path)
    losses = [line["train/lm_loss"] for line in metric_lines(result.folder) if "train/lm_loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    assert ckpt.pointed(result.folder, "best").is_dir() and ckpt.pointed(result.folder, "last").name == "step_150"
    assert len(list(result.folder.glob("step_*"))) <= 3
    for name in ("config.yaml", "environment.json"):
        assert (result.folder / name).is_file()


def test_resuming_an_earlier_checkpoint_leaves_no_pointer_to_the_branch_given_up(tmp_path):
    settings = dict(steps=12, eval_every=12, keep_checkpoints=9)
    folder = train(recipe(**settings), runs=tmp_path).folder
    assert (folder / "best").read_text() == (folder / "last").read_text() == "step_12"
    train(recipe(**settings), runs=tmp_path, resume=str(folder / "step_4"), max_steps=1)
    assert (folder / "last").read_text() == "step_5" and not (folder / "best").exists()
    train(recipe(**settings), runs=tmp_path, resume="auto")
    assert (folder / "best").read_text() == (folder / "last").read_text() == "step_12"


def test_going_back_deletes_no_checkpoint_that_is_newer_than_the_branch(tmp_path):
    settings = dict(steps=12, checkpoint_every=4, eval_every="null")
    folder = train(recipe(**settings), runs=tmp_path).folder
    train(recipe(**settings), runs=tmp_path, resume=str(folder / "step_8"), max_steps=1)
    assert {p.name for p in folder.glob("step_*")} == {"step_8", "step_9", "step_12"}
    train(recipe(**settings), runs=tmp_path, resume="auto")
    assert {p.name for p in folder.glob("step_*")} == {"step_9", "step_12"}


def test_a_run_goes_on_where_its_data_were_moved_but_not_on_others(tmp_path):
    for name, seed in (("d", 0), ("other", 1)):
        build(source="sudoku-6x6-1k", out=tmp_path / name, subsample=20, val=5, seed=seed)
    asked = dict(steps=4, eval_every="null")
    train(recipe(data_path=tmp_path / "d", **asked), runs=tmp_path, max_steps=2)
    (tmp_path / "d").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="other data"):
        train(recipe(data_path=tmp_path / "other", **asked), runs=tmp_path, resume="auto")
    result = train(recipe(data_path=tmp_path / "moved", **asked), runs=tmp_path, resume="auto")
    assert result.step == 4 and str(tmp_path / "moved") in (result.folder / "config.yaml").read_text()


@pytest.mark.parametrize("moved", [False, True])
def test_a_kill_after_an_evaluation_loses_no_best_checkpoint(moved, tmp_path, monkeypatch):
    """Before `last` moves to it and after."""
    settings, point = dict(steps=12, eval_every=6), ckpt.point

    def killed(run: Path, pointer: str, checkpoint: Path) -> None:
        now = (pointer, checkpoint.name) == ("last", "step_6")
        if moved or not now:
            point(run, pointer, checkpoint)
        if now:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ckpt, "point", killed)
        train(recipe(**settings), runs=tmp_path)
    assert (tmp_path / "p" / "x" / "best").read_text() == "step_6"
    folder = train(recipe(**settings), runs=tmp_path, resume="auto").folder
    assert [line["step"] for line in metric_lines(folder) if "eval/rows" in line] == [6, 12]
    assert (folder / "best").read_text() in ("step_6", "step_12")


def test_no_accuracy_is_told_of_a_window_in_which_no_row_halted(tmp_path):
    first, *others = metric_lines(train(recipe(steps=4, log_every=1, eval_every="null"), runs=tmp_path).folder)
    assert first["train/count"] == 0 and "train/lm_loss" in first and "train/exact_accuracy" not in first
    assert any("train/exact_accuracy" in line for line in others)


def test_the_test_split_is_read_once_at_the_end(tmp_path):
    result = train(recipe(steps=2, test_at_end="true", eval_every="null"), runs=tmp_path)
    assert result.metrics["test/rows"] == 1000
    assert (result.folder / "test.json").is_file()
    again = train(recipe(steps=2, test_at_end="true", eval_every="null"), runs=tmp_path, resume="auto")
    assert again.metrics == {**result.metrics, "step": 2}
    late = train(recipe(steps=3, test_at_end="true", eval_every="null"), runs=tmp_path, resume="auto", max_minutes=0)
    assert late.step == 3 and late.stopped == "time" and "test/rows" not in late.metrics
    longer = train(recipe(steps=3, test_at_end="true", eval_every="null"), runs=tmp_path, resume="auto")
    assert longer.metrics["step"] == 3  # measured anew, not read from the shorter run


def test_a_split_that_is_missing_is_missed_before_training(tmp_path):
    build(source="sudoku-6x6-1k", out=tmp_path / "d", subsample=20, val=5)
    asked = dict(data_path=tmp_path / "d", steps=1, eval_every=1, test_at_end="true")
    for split, cure in (("test", "test_at_end=false"), ("val", "eval_every=null")):
        shutil.rmtree(tmp_path / "d" / split)
        load_split.cache_clear()
        with pytest.raises(ValueError, match=f"has no split '{split}', only .*: {cure}"):
            train(recipe(**asked), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_run_without_a_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="less than one batch"):
        train(recipe(steps="null", epochs=1, global_batch_size=100000), runs=tmp_path)


def test_resume_refuses_another_recipe_and_init_from_takes_weights_only(tmp_path):
    first = train(recipe(steps=4), runs=tmp_path)
    with pytest.raises(ValueError, match="continue it with --resume auto"):
        train(recipe(steps=4), runs=tmp_path)
    with pytest.raises(ValueError, match=r"lr=0\.5 but .*: say lr=0\.0001, or .*/x/config\.yaml --resume"):
        train(recipe(steps=8, lr=0.5), runs=tmp_path, resume="auto")
    with pytest.raises(ValueError, match="neither a run folder"):
        train(recipe(), runs=tmp_path, resume=str(tmp_path / "nowhere"))
    longer = train(recipe(steps=8, **{"arch.halt_max_steps_eval": 9}), runs=tmp_path, resume="auto")
    assert longer.step == 8
    changed = ckpt.load_weights(longer.folder / "step_8", "cpu").model.config
    assert changed.max_segments == 9  # what inference alone asks for may change
    still, origin = {"lr": 1e-9, "weight_decay": 0, "puzzle_emb_lr": 0, "run_name": "y"}, str(first.folder / "step_8")
    train(recipe(steps=2, **still), runs=tmp_path, init_from=origin)
    fresh = train(recipe(steps=3, **still), runs=tmp_path, resume="auto")
    assert ckpt.read_json(fresh.folder / "environment.json")["init_from"] == origin  # the run goes on, its origin stays
    with pytest.raises(ValueError, match="set out from"):
        train(recipe(steps=3, **still), runs=tmp_path, resume="auto", init_from="sudoku")
    for pointer in ("last", "best"):
        (fresh.folder / pointer).unlink(missing_ok=True)
    for step in (2, 3):
        shutil.rmtree(fresh.folder / f"step_{step}")  # as if it had been stopped before its first checkpoint
    fresh = train(recipe(steps=3, **still), runs=tmp_path, resume="auto")
    assert ckpt.read_json(fresh.folder / "environment.json")["init_from"] == origin
    a, b = ckpt.read_group(first.folder / "step_8", "weights"), ckpt.read_group(fresh.folder / "step_3", "weights")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


def test_damaged_checkpoints_are_refused_in_one_line(tmp_path):
    folder = train(recipe(steps=4), runs=tmp_path).folder
    shard = next((folder / "step_4").glob("optimizer-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ValueError, match="missing or damaged"):
        train(recipe(steps=8), runs=tmp_path, resume="auto")
    (folder / "step_4" / "trainer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"trainer\.json: missing or damaged"):
        train(recipe(steps=8), runs=tmp_path, resume="auto")


def poison(monkeypatch, at: set[int]) -> None:
    """Make the gradient of the given steps not a number (once each)."""
    original = Trainer._sum_gradients

    def poisoned(self, params):
        original(self, params)
        if self.step in at:
            at.remove(self.step)
            params[0].grad.view(-1)[0] = float("nan")

    monkeypatch.setattr(Trainer, "_sum_gradients", poisoned)


def test_a_non_finite_gradient_stops_the_run_and_names_step_checkpoint_and_cure(tmp_path, monkeypatch):
    poison(monkeypatch, {7})
    with pytest.raises(NonFinite, match=r"step 7; last good checkpoint: .*step_4; try"):
        train(recipe(), runs=tmp_path)
    assert ckpt.pointed(tmp_path / "p" / "x", "last").name == "step_4"
    for tensor in fingerprint(tmp_path / "p" / "x" / "step_4").values():
        assert not tensor.is_floating_point() or torch.isfinite(tensor).all()


def test_rollback_returns_to_the_last_checkpoint_and_goes_on_with_other_batches(tmp_path, monkeypatch):
    poison(monkeypatch, {7})
    result = train(recipe(non_finite="rollback"), runs=tmp_path)
    assert result.stopped == "finished" and result.step == 24
    assert sum("rollback" in line for line in metric_lines(result.folder)) == 1
    assert ckpt.read_json(result.folder / "step_24" / "trainer.json")["rollbacks"] == 1


@pytest.mark.parametrize("kind", ("hrm", "trm", "both", "told"))
def test_nothing_is_read_that_a_cuda_graph_has_overwritten(kind, tmp_path, monkeypatch):
    """Stands in for CUDA: at the mark, all that the levels gave back in the step before becomes no number."""
    with pytest.raises(ValueError, match=r"^cuda_graphs=true replays .* give device=cuda"):
        Trainer(recipe(cuda_graphs="true"), tmp_path, Ranks(), lambda step, metrics: None)

    def weights_after(steps: int, **changes) -> dict[str, torch.Tensor]:
        trainer = Trainer(recipe(**KINDS[kind]), tmp_path, Ranks(), lambda step, metrics: None)
        trainer.recipe = trainer.recipe.model_copy(update=changes)
        given, marks = [], []
        for name, level in trainer.model.named_modules():
            if name.endswith("_level"):
                level.register_forward_hook(lambda level, inputs, output: given.append(output.detach()))

        def overwrite():
            marks.append([tensor.fill_(torch.nan) for tensor in given])
            given.clear()

        monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", overwrite)
        for _ in range(steps):
            trainer.train_step()
        assert len(marks) == (steps if changes else 0) and all(marks[1:])
        return trainer.model.state_dict()

    plain, replayed = weights_after(8), weights_after(8, cuda_graphs=True)
    assert all(torch.equal(tensor, replayed[name]) for name, tensor in plain.items())


@pytest.mark.parametrize("kind", ("hrm", "candidates"))
def test_without_a_running_mean_what_is_evaluated_is_what_is_trained(kind, tmp_path):
    trainer = Trainer(recipe(**KINDS[kind]), tmp_path, Ranks(), lambda step, metrics: None)
    trainer.train_step()
    assert trainer.evaluated is not trainer.model
    for name, tensor in trainer.model.state_dict().items():
        assert trainer.evaluated.state_dict()[name].data_ptr() == tensor.data_ptr(), name


def test_tensorboard_is_a_switch(tmp_path):
    result = train(recipe(steps=5, tensorboard="true", eval_every="null"), runs=tmp_path)
    assert list((result.folder / "tensorboard").glob("events*"))


def test_shards_stay_under_their_limit_and_come_back_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(ckpt, "SHARD_BYTES", 1000)
    tensors = {"a": torch.randn(7, 300), "b": torch.randn(3), "c": torch.arange(400), "d": torch.tensor(1.5)}
    ckpt.write_folder(tmp_path / "f", {"weights": tensors}, {"x.json": {"k": 1}})
    files = list((tmp_path / "f").glob("weights-*.safetensors"))
    assert len(files) > 8 and all(file.stat().st_size < 1000 + 400 for file in files)
    back = ckpt.read_group(tmp_path / "f", "weights")
    assert back.keys() == tensors.keys() and all(torch.equal(back[k], tensors[k]) for k in tensors)
