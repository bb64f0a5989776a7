"""The training loop: one process or several under torchrun, exact resume, time boxes.

Every random number is a function of (seed, step, rank): batches, augmentation, exploration and depth can be made again
for any step, so a checkpoint needs no generator state and a resumed run repeats the uninterrupted one bit for bit.
Metrics stay on the device and are read every `log_every` steps.
"""

import json
import os
import platform
import signal
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from . import checkpoint as ckpt
from .config import INFERENCE, ModelConfig, Recipe, load_recipe, validated
from .data import Metadata, Split, load_split
from .evaluate import check_identifiers, evaluate
from .halting import Carry, empty_carry
from .losses import Constraints
from .model import HRM, machine_device, machine_dtype
from .optim import SHARED, RunningMean, SparseSignSGD, build_optimizers, lr_scale
from .reasoner import Reasoner
from .sampling import DeviceSampler, stream_seed
from .supervision import supervised_deduction, supervised_segment
from .tasks import task_for

EXPLORATION, DEPTH, ROLLBACK = 11, 12, 13  # streams of random numbers apart from the sampler's
MAY_CHANGE = """
data_path steps epochs log_every checkpoint_every keep_checkpoints eval_every eval_rows tensorboard wandb device compile
cuda_graphs non_finite test_at_end about project_name run_name
""".split()
MAY_CHANGE += [f"arch.{key}" for key in INFERENCE]
"""Keys of a recipe that a resumed run may set anew; the others decide what is learned. (Where the data are, a folder may
move: that they are the same, their hash tells.)"""
LARGEST_ROLLBACKS = 3


class NonFinite(RuntimeError):
    """The loss or a gradient became infinite or not a number."""


@dataclass(frozen=True)
class Ranks:
    """Which process of how many this is."""

    rank: int = 0
    world: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """True in every process if it is in one."""
        if self.world == 1:
            return flag
        vote = torch.tensor(int(flag))
        dist.all_reduce(vote, dist.ReduceOp.MAX)
        return bool(vote)


@dataclass(frozen=True)
class Result:
    """How a call of `train` ended."""

    folder: Path
    step: int
    total: int
    stopped: str
    """"finished", or why it left early: "time", "steps" or "signal"."""
    metrics: dict[str, Any]
    """The last evaluation: of the test split where the run finished and the recipe asks for it."""


Report = Callable[[int, dict[str, Any]], None]
"""Called on rank 0 with (step, metrics) whenever metrics are written."""


def model_config(recipe: Recipe, meta: Metadata, **changes: Any) -> ModelConfig:
    """The network of a recipe for a data set; `changes` over its keys. Raises ValueError where they do not go together."""
    shape = {key: getattr(meta, key) for key in ("vocab_size", "seq_len", "num_puzzle_identifiers")}
    if recipe.arch.needs_box:
        shape["box"] = task_for(recipe.task, meta.seq_len).box
    return validated(ModelConfig, recipe.arch.model_dump() | shape | changes, "arch")


def augmentation(
    recipe: Recipe, task: Any
) -> Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]] | None:
    """What a recipe makes of the inputs and labels (B, S) that are drawn; None where they stay."""
    if not (recipe.augment or recipe.reclue or recipe.relabel):
        return None

    def augment(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if recipe.relabel:
            inputs, labels = task.relabel(inputs, labels, generator, recipe.relabel)
        if recipe.augment:
            inputs, labels = task.augment(inputs, labels, generator)
        if recipe.reclue:
            how = {"share": recipe.reclue, "hints": recipe.reclue_hints, "drop": recipe.reclue_drop}
            inputs = task.reclue(inputs, labels, generator, **how)
        return inputs, labels

    return augment


def same_weights(model: HRM) -> HRM:
    """A second model over the same tensors, to be compiled in another way."""
    return deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


class Trainer:
    """A run: its model, optimizers and carry, and how to write them down."""

    def __init__(self, recipe: Recipe, folder: Path, ranks: Ranks, report: Report):
        if recipe.global_batch_size % ranks.world:
            raise ValueError(
                f"global_batch_size={recipe.global_batch_size} does not divide among {ranks.world} processes"
            )
        self.recipe, self.folder, self.ranks, self.report = recipe, folder, ranks, report
        self.device = torch.device(machine_device(recipe.device))
        self.split = load_split(recipe.data_path, "train")
        meta = self.split.metadata
        self.task = task_for(recipe.task, meta.seq_len)
        if self.task.vocab_size != meta.vocab_size:
            raise ValueError(
                f"task={recipe.task} has {self.task.vocab_size} tokens, {recipe.data_path} {meta.vocab_size}: name its task"
            )
        config = model_config(recipe, meta)
        torch.manual_seed(recipe.seed)
        self.model = HRM(config).to(
            self.device
        )  # built on the CPU, so that every rank and device starts from one model
        compiled = recipe.compile is True or (recipe.compile == "auto" and self.device.type == "cuda")
        if recipe.cuda_graphs and not (compiled and self.device.type == "cuda"):
            raise ValueError(
                "cuda_graphs=true replays what is compiled for CUDA: give device=cuda, and compile not false"
            )
        self.optimizers = build_optimizers(self.model, recipe, compiled)
        self.sparse = None
        if config.puzzle_emb_ndim:
            self.sparse = SparseSignSGD(
                self.model.puzzle_emb.weights, recipe.puzzle_emb_lr, recipe.puzzle_emb_weight_decay
            )
        self.mean = RunningMean(self.model, recipe.ema, recipe.ema_warmup) if recipe.ema is not None else None
        self.sampler = DeviceSampler(
            self.split,
            batch_size=recipe.global_batch_size // ranks.world,
            seed=recipe.seed,
            rank=ranks.rank,
            world_size=ranks.world,
            device=str(self.device),
            augment=augmentation(recipe, self.task),
        )
        self.total = recipe.total_steps(meta.total_groups * meta.mean_puzzle_examples)
        if self.total < 1:
            raise ValueError(
                f"epochs={recipe.epochs} of {recipe.data_path} are less than one batch of "
                f"global_batch_size={recipe.global_batch_size}: give more epochs or steps, or a smaller batch"
            )
        self.carry: Carry = empty_carry(self.model, self.sampler.batch(0))
        self.step = 0
        self.rollbacks = 0
        self.best = -1.0
        self.evaluated = self.mean.module if self.mean else same_weights(self.model)
        if compiled:
            self.model.compile_levels(graphs=recipe.cuda_graphs)
            self.evaluated.compile_levels(dynamic=None)  # rows leave the batch
        self._clear_window()
        if self.device.type == "cpu":
            keep_freed_memory()

    # --- one step

    def train_step(self) -> None:
        """One segment for every row of the batch, and one update of the weights."""
        recipe, seed = self.recipe, self.recipe.seed
        self.step += 1
        if recipe.cuda_graphs:  # what compiled levels gave back in the last step is overwritten from here on
            torch.compiler.cudagraph_mark_step_begin()
        salt = stream_seed(seed, ROLLBACK, self.rollbacks) if self.rollbacks else seed
        generator = torch.Generator(self.device).manual_seed(stream_seed(salt, EXPLORATION, self.step, self.ranks.rank))
        batch = self.sampler.batch(self.step - 1 + self.rollbacks * self.total)
        graded = {"q_loss_weight": recipe.q_loss_weight, "H_cycles": self._depth(salt)}
        if recipe.constraint_weight:
            graded["constraints"] = Constraints(recipe.constraint_weight, self.task.box)
        asked = (self.model.train(), self.carry, batch, generator)
        if recipe.arch.deduces:
            starts = {"hints": recipe.start_hints, "wrong": recipe.start_wrong}
            done = supervised_deduction(*asked, self.task, **starts, **graded)
        else:
            noise = recipe.feedback_noise
            done = supervised_segment(*asked, loss_type=recipe.loss_type, feedback_noise=noise, **graded)
        (done.loss / recipe.global_batch_size).backward()
        params = list(self.model.parameters())
        for p in params:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        self._sum_gradients(params)
        grads = [p.grad for p in params]
        norm = nn.utils.get_total_norm(grads)
        if recipe.grad_clip is not None:
            nn.utils.clip_grads_with_norm_(params, recipe.grad_clip, norm)
        scale = lr_scale(
            self.step,
            total=self.total,
            warmup=recipe.lr_warmup_steps,
            schedule=recipe.lr_schedule,
            min_ratio=recipe.lr_min_ratio,
            decay_share=recipe.lr_decay_share,
        )
        for optimizer, base in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = base * scale
            optimizer.step()
            optimizer.zero_grad()
        if self.sparse:
            self.sparse.param_groups[0]["lr"] = recipe.puzzle_emb_lr * scale
            ids, rows = done.carry.data["puzzle_identifiers"], done.puzzle_rows.grad
            self.sparse.step_rows(*(self._gathered(t) for t in (ids, rows)))
        if self.mean:
            self.mean.update_parameters(self.model)
        self.carry = done.carry
        if recipe.cuda_graphs:
            self.carry = replace(done.carry, state=tuple(part.clone() for part in done.carry.state))
        self._watch(done.loss, norm, done.sums)

    def _depth(self, salt: int) -> int | None:
        if self.recipe.depth_schedule:
            done = (self.step - 1) / self.total
            return [depth for start, depth in self.recipe.depth_schedule if start <= done][-1]
        if self.recipe.random_H_cycles is None:
            return None
        low, high = self.recipe.random_H_cycles
        return low + stream_seed(salt, DEPTH, self.step) % (high - low + 1)

    def _sum_gradients(self, params: list[nn.Parameter]) -> None:
        # summed, not averaged: the loss is already divided by the global batch (reference: pretrain.py)
        if self.ranks.world > 1:
            flat = torch.cat([p.grad.flatten() for p in params])
            dist.all_reduce(flat)
            for p, piece in zip(params, flat.split([p.numel() for p in params]), strict=True):
                p.grad.copy_(piece.view_as(p))

    def _gathered(self, tensor: Tensor) -> Tensor:
        if self.ranks.world == 1:
            return tensor
        pieces = [torch.empty_like(tensor) for _ in range(self.ranks.world)]
        dist.all_gather(pieces, tensor.contiguous())
        return torch.cat(pieces)

    # --- metrics, kept on the device

    def _clear_window(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._bad_step = torch.zeros((), dtype=torch.int64, device=self.device)
        self._window = 0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave what happened since the last reading out of the measured speed."""
        self._window_start = time.perf_counter()

    def _watch(self, loss: Tensor, norm: Tensor, sums: dict[str, Tensor]) -> None:
        self._window += 1
        for name, value in {**sums, "grad_norm": norm}.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().float()
        bad = ~torch.isfinite(loss.detach() + norm.detach()) & (self._bad_step == 0)
        self._bad_step = torch.where(bad, self.step, self._bad_step)

    def read_metrics(self) -> dict[str, float]:
        """Means since the last reading, under the reference's names. Raises NonFinite with the first bad step."""
        if not self._window:
            return {}
        names = sorted(self._sums)
        values = torch.stack([*(self._sums[name] for name in names), self._bad_step.float()])
        if self.ranks.world > 1:
            bad = values[-1:].clone()
            dist.all_reduce(values)
            dist.all_reduce(bad, dist.ReduceOp.MAX)
            values[-1:] = bad
        *values, bad_step = values.tolist()  # the device has done all steps by then
        seconds = time.perf_counter() - self._window_start
        window, found = self._window, dict(zip(names, values, strict=True))
        self._clear_window()
        if bad_step:
            raise NonFinite(f"loss or gradient not finite at step {int(bad_step)}")
        count, rows = found.pop("count"), window * self.recipe.global_batch_size
        grad_norm = found.pop("grad_norm") / (window * self.ranks.world)
        metrics = {f"train/{k}": v / rows for k, v in found.items() if k.endswith("loss")}
        if count:  # else no row has halted, and nothing is known of them
            metrics |= {f"train/{k}": v / count for k, v in found.items() if not k.endswith("loss")}
        metrics |= {"train/count": count, "train/grad_norm": grad_norm}
        metrics["train/lr"] = self.optimizers[-1][0].param_groups[0]["lr"]
        metrics["steps_per_second"] = window / seconds
        return metrics

    def log(self, metrics: dict[str, Any]) -> None:
        if self.ranks.main and metrics:
            line = {"step": self.step, **metrics}
            with open(self.folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
            self.report(self.step, metrics)

    # --- evaluation and checkpoints

    def reasoner(self) -> Reasoner:
        """The model as evaluation sees it: the running mean where there is one; fixed depth, the paper's protocol."""
        return Reasoner(self.evaluated, self.recipe.task, halt="never", passes=1, batch_size=256)

    def evaluate(self, split: Split, rows: int | None, prefix: str) -> dict[str, Any]:
        """Metrics of `split` under `prefix`, on rank 0."""
        found = evaluate(self.reasoner(), split, rows)
        metrics = {f"{prefix}/exact_accuracy": found["exact@1"], f"{prefix}/accuracy": found["cell_accuracy"]}
        metrics |= {f"{prefix}/rows": found["rows"], f"{prefix}/segments": found["mean_segments"]}
        if found["q_halt"]:
            metrics[f"{prefix}/q_halt_accuracy"] = found["q_halt"]["accuracy"]
        return metrics

    def save(self, best: bool = False) -> Path:
        """Write the whole state as `step_N` and point `last` at it, and `best`."""
        target = self.folder / f"step_{self.step}"
        aside = target.with_name(target.name + ".partial")
        carry = {f"state.{k}": part for k, part in enumerate(self.carry.state)}
        carry |= {"steps": self.carry.steps, "halted": self.carry.halted}
        carry |= {f"data.{k}": v for k, v in self.carry.data.items()}
        if self.ranks.main:
            ckpt.begin_folder(aside)
            groups = {"weights": self.model.state_dict()}
            groups["optimizer"] = ckpt.optimizer_tensors([optimizer for optimizer, _ in self.optimizers])
            if self.mean:
                groups["ema"] = self.mean.module.state_dict()
                groups["ema"].pop(SHARED, None)
            ckpt.add_to_folder(aside, groups)
            trainer = {"step": self.step, "rollbacks": self.rollbacks, "best": self.best, "world": self.ranks.world}
            trainer |= {"ema_updates": int(self.mean.n_averaged) if self.mean else 0, "data_hash": self.split.hash}
            card = {
                "data": self.recipe.data_path,
                "data_hash": self.split.hash,
                "step": self.step,
                "seed": self.recipe.seed,
                "loss_type": self.recipe.loss_type,
            }
            document = ckpt.model_document(self.model, self.recipe.task, card)
            for name, content in {"trainer.json": trainer, "model.json": document}.items():
                ckpt.write_synced(aside / name, json.dumps(content, indent=1).encode())
        self._barrier()
        ckpt.add_to_folder(aside, {f"carry{self.ranks.rank}": carry})
        self._barrier()
        if self.ranks.main:
            ckpt.finish_folder(aside, target)
            if best:  # first: a run that is killed before `last` moves evaluates this step again
                ckpt.point(self.folder, "best", target)
            ckpt.point(self.folder, "last", target)
            ckpt.prune(self.folder, self.recipe.keep_checkpoints)
        self._barrier()
        return target

    def restore(self, source: Path) -> None:
        """Take up the state that `save` wrote. Raises ValueError where it does not belong to this run."""
        ckpt.check_sum(source / "trainer.json", ckpt.sums_of(source))
        trainer = ckpt.read_json(source / "trainer.json")
        if trainer["world"] != self.ranks.world:
            raise ValueError(
                f"{source}: saved by {trainer['world']} processes, now {self.ranks.world}: resume with as many"
            )
        if trainer["data_hash"] != self.split.hash:
            raise ValueError(f"{source}: was trained on other data (hash {trainer['data_hash'][:12]}): check data_path")
        weights = ckpt.read_group(source, "weights")
        ckpt.load_exactly(self.model, weights, str(source))
        ckpt.restore_optimizers([optimizer for optimizer, _ in self.optimizers], ckpt.read_group(source, "optimizer"))
        if self.mean:
            ckpt.load_exactly(self.mean.module, weights | ckpt.read_group(source, "ema"), str(source))
            self.mean.n_averaged.fill_(trainer["ema_updates"])
        carry = {k: v.to(self.device) for k, v in ckpt.read_group(source, f"carry{self.ranks.rank}").items()}
        data = {key.removeprefix("data."): value for key, value in carry.items() if key.startswith("data.")}
        state = tuple(carry[f"state.{k}"] for k in range(len(self.carry.state)))
        self.carry = Carry(state, carry["steps"], carry["halted"], data)
        self.step, self.rollbacks, self.best = trainer["step"], trainer["rollbacks"], trainer["best"]
        self._clear_window()

    def _barrier(self) -> None:
        if self.ranks.world > 1:
            dist.barrier()


def train(
    recipe: Recipe,
    *,
    runs: Path = Path("runs"),
    resume: str | None = None,
    init_from: str | None = None,
    max_minutes: float | None = None,
    max_steps: int | None = None,
    report: Report = lambda step, metrics: None,
    started: Callable[[Trainer], None] = lambda trainer: None,
) -> Result:
    """Train by `recipe` in `runs/<project>/<run>/`; returns when done, out of time, or told to leave by a signal.

    resume: "auto" continues the run if it exists, a path continues that run or checkpoint. init_from: weights to start
    from (step 0, fresh optimizers). max_minutes, max_steps: leave, resumable, after this much of this call; the
    schedule does not change. Raises ValueError for what a user can mend, NonFinite where training broke down.
    """
    clock = time.monotonic()
    ranks = start_ranks(recipe.device)
    try:
        folder, source = run_folder(recipe, runs, resume)
        recipe = settle(recipe, folder, source)
        trainer, held_out = Trainer(recipe, folder, ranks, report), held_out_splits(recipe)
        begun = recorded_origin(folder) if resume else None
        if source:
            if init_from and init_from != begun:
                raise ValueError(
                    f"--init-from {init_from}: {folder} set out from {begun or 'new weights'}: leave one of it and --resume out"
                )
            trainer.restore(source)
            init_from = begun
        elif init_from := init_from or begun:  # the latter of a run that was stopped before it wrote a checkpoint
            load_initial(trainer, init_from)
        if ranks.main:
            describe_run(trainer, init_from)
            forget_after(folder, trainer.step)
        sinks = open_sinks(recipe, folder) if ranks.main else []

        def tell_all(step: int, metrics: dict[str, Any]) -> None:
            for sink in (*sinks, report):
                sink(step, metrics)

        trainer.report = tell_all
        started(trainer)
        return loop(trainer, *held_out, clock, max_minutes, max_steps)
    finally:
        stop_ranks(ranks)


def held_out_splits(recipe: Recipe) -> tuple[Split | None, Split | None]:
    """The validation and test splits that the recipe asks for. Raises ValueError before anything is trained in vain."""
    validation = ("val", recipe.eval_every, "without validation: eval_every=null")
    test = ("test", recipe.test_at_end, "without a test: test_at_end=false")
    found = []
    for name, asked, cure in (validation, test):
        try:
            found.append(load_split(recipe.data_path, name) if asked else None)
        except ValueError as error:
            raise ValueError(f"{error}; for training {cure}") from None
    return tuple(found)


def loop(
    trainer: Trainer,
    validation: Split | None,
    test: Split | None,
    clock: float,
    max_minutes: float | None,
    max_steps: int | None,
) -> Result:
    """Steps, logs, evaluations and checkpoints until the run ends or must leave."""
    recipe, ranks = trainer.recipe, trainer.ranks
    first, stopped, latest = trainer.step, "finished", {}

    def late() -> bool:
        return max_minutes is not None and time.monotonic() - clock > 60 * max_minutes

    with Signals() as signals:
        while trainer.step < trainer.total:
            trainer.train_step()
            step = trainer.step
            last = step == trainer.total
            over = late()
            spent = max_steps is not None and step - first >= max_steps
            # asked at every step, not at log points: torchrun kills its processes 30 seconds after its own signal
            leave = ranks.any(spent or over or bool(signals.received))
            saves = last or leave or step % recipe.checkpoint_every == 0
            evaluates = validation is not None and (last or step % recipe.eval_every == 0)
            try:
                if saves or evaluates or step % recipe.log_every == 0:
                    trainer.log(trainer.read_metrics())
            except NonFinite as failure:
                roll_back(trainer, failure)
                continue
            improved = False
            if evaluates and ranks.main:
                latest = trainer.evaluate(validation, recipe.eval_rows, "eval")
                trainer.log(latest)
                improved = latest["eval/exact_accuracy"] >= trainer.best
                trainer.best = max(trainer.best, latest["eval/exact_accuracy"])
            if saves or (evaluates and ranks.any(improved)):
                trainer.save(best=improved)
            if evaluates or saves:
                trainer.restart_clock()
            if leave and not last:
                stopped = "signal" if signals.received else "time" if over else "steps"
                break
    if stopped == "finished" and test is not None:  # which may take long, and is made up for on resume
        stopped = "signal" if signals.received else "time" if late() else stopped
    if stopped == "finished" and test is not None and ranks.main:
        tested = trainer.folder / "test.json"
        if not tested.is_file() or ckpt.read_json(tested).get("step") != trainer.step:
            latest = trainer.evaluate(test, None, "test")
            trainer.log(latest)
            ckpt.write_synced(tested, json.dumps({"step": trainer.step, **latest}, indent=1).encode())
        latest = ckpt.read_json(tested)
    return Result(trainer.folder, trainer.step, trainer.total, stopped, latest)


def roll_back(trainer: Trainer, failure: NonFinite) -> None:
    """Return to the last checkpoint and draw other batches from there, or give up with a hint."""
    has_last = (trainer.folder / "last").is_file()
    good = ckpt.pointed(trainer.folder, "last") if has_last else None
    where = f"last good checkpoint: {good}" if good else "no checkpoint was written yet"
    hint = "try a lower lr, a longer lr_warmup_steps" + (
        ", grad_clip=1.0, or non_finite=rollback" if trainer.recipe.non_finite == "stop" else " or grad_clip=1.0"
    )
    if trainer.recipe.non_finite == "stop" or good is None or trainer.rollbacks >= LARGEST_ROLLBACKS:
        raise NonFinite(f"{failure}; {where}; {hint}") from None
    rollbacks = trainer.rollbacks + 1
    trainer.restore(good)
    trainer.rollbacks = rollbacks
    if trainer.ranks.main:
        forget_after(trainer.folder, trainer.step)
    trainer.log({"rollback": rollbacks, "reason": str(failure)})


# --- run folders ------------------------------------------------------------------------------------------------------


def run_folder(recipe: Recipe, runs: Path, resume: str | None) -> tuple[Path, Path | None]:
    """Where the run lives and the checkpoint to continue from, if any."""
    if resume not in (None, "auto"):
        path = Path(resume)
        if (path / "trainer.json").is_file():
            return path.resolve().parent, path
        if not (path / "last").is_file():
            raise ValueError(f"--resume {resume}: neither a run folder with checkpoints nor a checkpoint (step_N)")
        return path, ckpt.pointed(path, "last")
    folder = runs / recipe.project_name / (recipe.run_name or "run")
    if resume == "auto" and (folder / "last").is_file():
        return folder, ckpt.pointed(folder, "last")
    if (folder / "last").is_file():
        raise ValueError(f"{folder} holds a run: continue it with --resume auto, or choose another run_name=NAME")
    return folder, None


def settle(recipe: Recipe, folder: Path, source: Path | None) -> Recipe:
    """The recipe with its machine-dependent choices made, or on resume the run's own with the permitted changes."""
    if source is None:
        dtype = recipe.arch.forward_dtype
        if dtype == "auto":
            dtype = machine_dtype(machine_device(recipe.device))
        return recipe.model_copy(update={"arch": recipe.arch.model_copy(update={"forward_dtype": dtype})})
    held = load_recipe(str(folder / "config.yaml"))
    asked = recipe.model_dump()
    if recipe.arch.forward_dtype == "auto":
        asked["arch"]["forward_dtype"] = held.arch.forward_dtype
    before, now = (
        {k: v for k, v in flat(values).items() if k not in MAY_CHANGE} for values in (held.model_dump(), asked)
    )
    for key, value in before.items():
        if now[key] != value:
            theirs, ours = (json.dumps(side) for side in (now[key], value))
            raise ValueError(
                f"--resume: {key}={theirs} but {folder} was started with {ours}: say {key}={ours}, or `hrm train "
                f"{folder}/config.yaml --resume {folder}` for all as it was; or start a new run with --init-from"
            )
    return Recipe(**asked)


def flat(values: dict[str, Any], under: str = "") -> dict[str, Any]:
    """Nested values by their dotted keys."""
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{under}{key}.") if isinstance(value, dict) else {under + key: value}
    return found


def describe_run(trainer: Trainer, init_from: str | None) -> None:
    """Write configuration and environment beside the checkpoints, and the weights that the run set out from."""
    import yaml

    folder = trainer.folder
    folder.mkdir(parents=True, exist_ok=True)
    recipe = trainer.recipe.model_dump(mode="json")
    ckpt.write_synced(folder / "config.yaml", yaml.safe_dump(recipe, sort_keys=False).encode())
    known = environment(trainer) | {"init_from": init_from}
    ckpt.write_synced(folder / "environment.json", json.dumps(known, indent=1).encode())


def recorded_origin(folder: Path) -> str | None:
    """The weights that a run set out from, as `describe_run` wrote them when it began."""
    before = folder / "environment.json"
    return ckpt.read_json(before).get("init_from") if before.is_file() else None


def environment(trainer: Trainer) -> dict[str, Any]:
    """What a number depends on besides the recipe."""
    device = trainer.device
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processes": trainer.ranks.world,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "data": trainer.recipe.data_path,
        "data_hash": trainer.split.hash,
        "total_steps": trainer.total,
    }


def forget_after(folder: Path, step: int) -> None:
    """Drop what a run recorded of steps that it will do again, pointers too, and a line that a kill cut short."""
    if (folder / f"step_{step}").is_dir():
        ckpt.point(folder, "last", folder / f"step_{step}")
    best, metrics, tested = folder / "best", folder / "metrics.jsonl", folder / "test.json"
    if best.is_file() and int(ckpt.pointed(folder, "best").name.removeprefix("step_")) > step:
        best.unlink()
    if tested.is_file() and ckpt.read_json(tested).get("step") != step:
        tested.unlink()
    if not metrics.is_file():
        return
    kept = []
    for line in metrics.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    ckpt.write_synced(metrics, "".join(line + "\n" for line in kept).encode())


def load_initial(trainer: Trainer, init_from: str) -> None:
    """Start from the weights of another model of the same configuration."""
    found = ckpt.load_weights(init_from, str(trainer.device), forward_dtype=trainer.model.config.forward_dtype)
    check_identifiers(found, trainer.split, trainer.recipe.data_path)
    ckpt.load_exactly(trainer.model, found.model.state_dict(), init_from)
    if trainer.mean:
        trainer.mean.module.load_state_dict(found.model.state_dict())


def open_sinks(recipe: Recipe, folder: Path) -> list[Report]:
    """The recipe's extra places for metrics."""
    sinks: list[Report] = []
    if recipe.tensorboard:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("tensorboard=true needs the extra: pip install 'hrm-torch[track]'") from None
        writer = SummaryWriter(str(folder / "tensorboard"))

        def to_tensorboard(step: int, metrics: dict[str, Any]) -> None:
            for name, value in metrics.items():
                if isinstance(value, (int, float)):
                    writer.add_scalar(name, value, step)
            writer.flush()

        sinks.append(to_tensorboard)
    if recipe.wandb:
        try:
            import wandb
        except ImportError:
            raise ValueError("wandb=true needs the extra: pip install 'hrm-torch[wandb]'") from None
        run = wandb.init(
            project=recipe.project_name,
            name=recipe.run_name,
            id=recipe.run_name,
            resume="allow",
            config=recipe.model_dump(),
        )
        sinks.append(lambda step, metrics: run.log(metrics, step=step))
    return sinks


# --- memory, processes and signals ------------------------------------------------------------------------------------


def keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next one instead of giving it back to the system.

    A step on the CPU allocates the same large blocks each time; fetched anew, their page faults take a quarter of it.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    import ctypes

    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    libc = ctypes.CDLL(None)
    for option, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 256 * 2**20)):
        libc.mallopt(option, value)


def start_ranks(device: str) -> Ranks:
    """Join the processes that torchrun started, each with a GPU of its own where `device` is one, or be alone."""
    if "LOCAL_RANK" not in os.environ:
        return Ranks()
    local = int(os.environ["LOCAL_RANK"])
    on_cuda = machine_device(device).startswith("cuda")
    if on_cuda:
        world, found = int(os.environ.get("LOCAL_WORLD_SIZE", local + 1)), torch.cuda.device_count()
        if world > found or (world > 1 and torch.device(machine_device(device)).index is not None):
            raise ValueError(
                f"device={device}, {world} processes and {found} GPUs on this machine: each process takes a GPU of its own, "
                "by itself; ask for no more of them, and for device=cuda"
            )
        torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())


def stop_ranks(ranks: Ranks) -> None:
    if ranks.world > 1 and dist.is_initialized():
        import gc

        gc.collect()  # gloo aborts in a third of runs if work objects outlive the group
        dist.destroy_process_group()


class Signals:
    """While inside, SIGTERM and Ctrl-C ask for leave instead of killing; a second one kills."""

    HANDLED = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> "Signals":
        self.received = 0
        try:
            self.before = {number: signal.signal(number, self._note) for number in self.HANDLED}
        except ValueError:  # not in the main thread: the host program keeps its handlers
            self.before = {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
