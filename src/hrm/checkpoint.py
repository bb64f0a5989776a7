"""Weights and training state on disk: our folders, exact resume, and the references' checkpoints, in and out.

A folder is written aside, synced, and renamed, so it is there whole or not at all. Tensors go into safetensors shards of
at most 15 MB (they travel through narrow channels), with a sha256 each in `index.json`. Nothing is unpickled, except the
references' own files, and those by torch's restricted reader.
"""

import hashlib
import io
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .config import Arch, ModelConfig, first_line, nearest, validated
from .model import HRM, machine_device, machine_dtype

SHARD_BYTES = 15_000_000
SPARSE_BYTES = 1_000_000
"""Smaller tables are written in full."""

# --- folders of tensors -----------------------------------------------------------------------------------------------


def write_folder(target: Path, tensors: dict[str, dict[str, Tensor]], documents: dict[str, Any]) -> None:
    """Write groups of tensors (`{"weights": {...}}`) and JSON documents as the folder `target`, whole or not at all."""
    aside = target.with_name(target.name + ".partial")
    begin_folder(aside)
    add_to_folder(aside, tensors)
    for name, document in documents.items():
        write_synced(aside / name, json.dumps(document, indent=1).encode())
    finish_folder(aside, target)


def begin_folder(aside: Path) -> None:
    """Make an empty unfinished folder, over what a kill may have left of one."""
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)


def add_to_folder(folder: Path, groups: dict[str, dict[str, Tensor]]) -> None:
    """Write groups of tensors into an unfinished folder as `<group>-<n>.safetensors`."""
    from safetensors.torch import save

    for group, tensors in groups.items():
        for number, shard in enumerate(shards(tensors)):
            write_synced(folder / f"{group}-{number}.safetensors", save(shard))


def finish_folder(aside: Path, target: Path) -> None:
    """Index an unfinished folder and rename it into place."""
    sums = {file.name: sha256(file) for file in sorted(aside.iterdir())}
    write_synced(aside / "index.json", json.dumps({"sha256": sums}, indent=1).encode())
    sync(aside)
    if target.exists():
        discard(target)
    os.rename(aside, target)
    sync(target.parent)


def shards(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Cut a set of tensors into dictionaries of at most SHARD_BYTES; a longer tensor is cut into `name@k@shape` parts.

    A table of which few rows are other than zero, as a puzzle table in training, is held as those rows: `name#values`,
    and `name#rows` with the length of the table before their numbers.
    """
    shard, size = {}, 0
    for name, tensor in chain.from_iterable(sparse(*item) for item in tensors.items()):
        for key, part in parts(name, tensor.detach().cpu().contiguous()):
            if shard and size + part.nbytes > SHARD_BYTES:
                yield shard
                shard, size = {}, 0
            shard[key] = part
            size += part.nbytes
    yield shard


def sparse(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if tensor.ndim == 2 and tensor.nbytes > SPARSE_BYTES:
        rows = tensor.any(1).nonzero()[:, 0]
        if 2 * len(rows) < len(tensor):
            yield f"{name}#rows", torch.cat((rows.new_tensor([len(tensor)]), rows))
            yield f"{name}#values", tensor[rows]
            return
    yield name, tensor


def parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if tensor.nbytes <= SHARD_BYTES:
        yield name, tensor
        return
    shape = "x".join(map(str, tensor.shape))
    for number, part in enumerate(tensor.flatten().split(SHARD_BYTES // tensor.element_size())):
        yield f"{name}@{number}@{shape}", part.clone()


def read_group(folder: Path, group: str) -> dict[str, Tensor]:
    """The tensors of one group, checked against their sums. Raises ValueError naming the damaged file."""
    sums = sums_of(folder)
    names = [name for name in sums if re.fullmatch(rf"{re.escape(group)}-\d+\.safetensors", name)]
    found, cut = {}, {}
    for name in sorted(names, key=lambda name: int(name[len(group) + 1 : -12])):
        check_sum(folder / name, sums)
        for key, tensor in open_safetensors(folder / name)[0].items():
            if "@" in key:
                whole, _, shape = key.split("@")
                cut.setdefault((whole, shape), []).append(tensor)
            else:
                found[key] = tensor
    for (whole, shape), pieces in cut.items():
        found[whole] = torch.cat(pieces).view([int(n) for n in shape.split("x")])
    for rows in [name for name in found if name.endswith("#rows")]:
        name = rows.removesuffix("#rows")
        (length, *_), values = found[rows].tolist(), found.pop(f"{name}#values")
        found[name] = values.new_zeros(length, values.shape[1]).index_copy_(0, found.pop(rows)[1:], values)
    return found


def sums_of(folder: Path) -> dict[str, str]:
    """File name -> sha256, from a folder's index.json."""
    sums = read_json(folder / "index.json").get("sha256", {})
    if not isinstance(sums, dict):
        raise ValueError(f"{folder / 'index.json'}: damaged: 'sha256' holds no names")
    return sums


def check_sum(file: Path, sums: dict[str, str]) -> None:
    """Raise ValueError for a file that is not as its folder was finished."""
    if not file.is_file() or sha256(file) != sums.get(file.name):
        raise ValueError(f"{file}: missing or damaged (its sha256 differs from index.json)")


def open_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its header's metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file: {error}") from None


def write_synced(path: Path, content: bytes) -> None:
    """Write a file so that it survives a power cut: aside, synced, renamed. An OSError names it."""
    path = Path(os.path.realpath(path))  # a link stays one
    aside = path.with_name(path.name + ".partial")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # of a full disk it tells none
        raise


def sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def discard(folder: Path) -> None:
    """Delete a folder so that a kill half-way leaves no half folder under its name."""
    aside = folder.with_name(folder.name + ".old.partial")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    shutil.rmtree(aside)


def sha256(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_json(path: Path) -> dict:
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return document


# --- weights ----------------------------------------------------------------------------------------------------------


@dataclass
class Weights:
    """A model with what one must know to use it."""

    model: HRM
    task: str
    card: dict[str, Any] = field(default_factory=dict)
    """What the weights were trained on and how well they did, as their maker wrote it."""
    where: str = ""

    @property
    def loss_type(self) -> str:
        """The cross-entropy that they learned by; what an older card does not tell is softmax."""
        return self.card.get("loss_type", "softmax_cross_entropy")

    def resized(self, seq_len: int) -> "Weights":
        """The same weights for puzzles of so many cells, if they do not depend on it (mixer=conv); else as they are.

        A question of text does not tell how long its lines may be.
        """
        config = self.model.config
        square = seq_len >= 4 and math.isqrt(seq_len) ** 2 == seq_len
        fits = config.mixers == {"conv"} and config.initial_state == "fixed" and square and self.task != "text"
        if not fits or seq_len == config.seq_len:
            return self
        model = HRM(config.model_copy(update={"seq_len": seq_len})).to(self.model.H_init.device)
        model.load_state_dict(self.model.state_dict())
        return replace(self, model=model.eval().requires_grad_(False))


def save_weights(folder: Path, model: HRM, task: str, card: dict, dtype: torch.dtype | None = None) -> None:
    """Write a model as a folder of weights; `dtype` (bfloat16 halves the size) applies to its floating tensors."""
    tensors = {
        name: tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    write_folder(folder, {"weights": tensors}, {"model.json": model_document(model, task, card)})


def model_document(model: HRM, task: str, card: dict) -> dict:
    return {"format": "hrm-weights-1", "task": task, "config": model.config.model_dump(), "card": card}


def shipped_weights() -> dict[str, Path]:
    """Name -> folder of the weights inside the package."""
    folder = Path(str(resources.files("hrm") / "weights"))
    return {child.name: child for child in sorted(folder.iterdir()) if (child / "model.json").is_file()}


def load(where: str | Path, device: str = "auto", **options: Any) -> HRM:
    """Load a model for inference: the name of shipped weights, a run folder, a weights folder, or a reference's file.

    `options` are those of `load_weights`. Raises ValueError with one clear line.
    """
    return load_weights(where, device, **options).model


def load_weights(
    where: str | Path,
    device: str = "auto",
    *,
    forward_dtype: str = "auto",
    seq_len: int | None = None,
    overrides: dict[str, Any] | None = None,
) -> Weights:
    """`load`, with task and model card.

    A reference's checkpoint does not say its sequence length: give `seq_len` where neither the vocabulary (Sudoku 81,
    mazes and ARC 900) nor a learned position table tells it. `overrides` set fields of the reference's
    configuration (`{"L_cycles": 8}`) that are not in the file. `forward_dtype`: "bfloat16", "float32", "saved" (as
    trained) or "auto" (bfloat16 where the machine has it).
    """
    device = machine_device(device)
    shipped = shipped_weights()
    path = shipped.get(str(where), Path(where))
    if not path.exists():
        raise ValueError(f"{where}: neither a file or folder nor shipped weights{nearest(str(where), list(shipped))}")
    dtypes = ("auto", "saved", "bfloat16", "float32")
    if forward_dtype not in dtypes:
        raise ValueError(f"forward dtype '{forward_dtype}': choose one of {', '.join(dtypes)}")
    dtype = machine_dtype(device) if forward_dtype == "auto" else forward_dtype
    if path.is_file():
        found = reference_weights(path, dtype, seq_len, overrides or {})
    elif seq_len or overrides:
        raise ValueError(
            f"{where}: seq_len and overrides (--seq-len, --set) are for a reference's checkpoint, not for ours"
        )
    else:
        found = folder_weights(checkpoint_in_run(path), dtype)
    found.model.to(device).eval().requires_grad_(False)
    return replace(found, where=str(path))


def model_in(config: ModelConfig, dtype: str) -> HRM:
    """A model of a saved configuration that computes in `dtype`, or in its own ("saved")."""
    return HRM(config if dtype == "saved" else config.model_copy(update={"forward_dtype": dtype}))


def folder_weights(folder: Path, dtype: str) -> Weights:
    """Weights from one of our folders; a checkpoint's running mean is preferred to its raw weights."""
    document = read_json(folder / "model.json")
    if document.get("format") != "hrm-weights-1":
        raise ValueError(f"{folder}: model.json is not of a format this version reads")
    config = validated(ModelConfig, document.get("config"), str(folder / "model.json"))
    model = model_in(config, dtype)
    tensors = read_group(folder, "weights") | read_group(folder, "ema")
    load_exactly(model, tensors, str(folder))
    return Weights(model, str(document.get("task", "sudoku")), document.get("card", {}))


def load_exactly(model: HRM, tensors: dict[str, Tensor], where: str) -> None:
    """`load_state_dict`, strict in names and shapes, with one line about the first difference."""
    expected = model.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise ValueError(f"{where}: tensor '{name}' is missing{nearest(name, list(tensors)) if tensors else ''}")
        if name not in expected:
            raise ValueError(f"{where}: tensor '{name}' has no place in this configuration")
        if tensors[name].shape != expected[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, expected {tuple(expected[name].shape)}"
            raise ValueError(f"{where}: tensor '{name}' has shape {shapes}")
    model.load_state_dict(tensors)


# --- run folders ------------------------------------------------------------------------------------------------------


def checkpoint_in_run(folder: Path) -> Path:
    """The folder to read weights from: `folder` itself, or a run's best, or else its last checkpoint."""
    if (folder / "model.json").is_file():
        return folder
    for pointer in ("best", "last"):
        if (folder / pointer).is_file():
            return pointed(folder, pointer)
    raise ValueError(f"{folder}: neither weights (model.json) nor a run with checkpoints (last, best)")


def pointed(run: Path, pointer: str) -> Path:
    """The checkpoint that a run's `last` or `best` names."""
    name = (run / pointer).read_text().strip()
    if not re.fullmatch(r"step_\d+", name) or not (run / name).is_dir():
        raise ValueError(f"{run / pointer}: names '{name}', which is no checkpoint of this run")
    return run / name


def point(run: Path, pointer: str, checkpoint: Path) -> None:
    write_synced(run / pointer, checkpoint.name.encode())


def prune(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, the last and the best one, and what a kill left unfinished.

    Later ones than the last stand from before the run went back to an earlier; they stay until it writes them anew.
    """
    for leftover in run.glob("*.partial"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    named = {(run / pointer).read_text().strip() for pointer in ("best", "last") if (run / pointer).is_file()}
    steps = sorted((int(p.name[5:]), p) for p in run.glob("step_*") if p.name[5:].isdigit())
    last = int(pointed(run, "last").name[5:])
    for _, checkpoint in [(step, p) for step, p in steps if step <= last][:-keep]:
        if checkpoint.name not in named:
            discard(checkpoint)


def optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of optimizers, flat: `<optimizer>.<parameter>.<name>`; plain numbers become 0-d float64 tensors."""
    flat = {}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
                flat[f"{number}.{index}.{name}"] = tensor
    return flat


def restore_optimizers(optimizers: list[torch.optim.Optimizer], flat: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`."""
    states: list[dict] = [{} for _ in optimizers]
    for key, tensor in flat.items():
        number, index, name = key.split(".", 2)
        value = int(tensor) if tensor.dtype == torch.float64 else tensor
        states[int(number)].setdefault(int(index), {})[name] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


# --- the references' checkpoints --------------------------------------------------------------------------------------

KNOWN_TASKS = {11: ("sudoku", 81), 6: ("maze", 900), 12: ("arc", 900)}
"""Vocabulary size -> task and sequence length of the published checkpoints."""

SAME_NAME = """
H_cycles L_cycles H_layers L_layers hidden_size expansion num_heads pos_encodings rms_norm_eps rope_theta
halt_max_steps halt_exploration_prob forward_dtype puzzle_emb_ndim vocab_size seq_len num_puzzle_identifiers
""".split()
DROPPED = ("batch_size", "causal", "name")
TRM_ONLY = ("mlp_t", "puzzle_emb_len", "no_ACT_continue")


def config_from_reference(theirs: dict[str, Any], kind: str) -> ModelConfig:
    """Our configuration for a reference's `arch` fields; `kind` is "hrm" or "trm"."""
    if kind not in ("hrm", "trm"):
        raise ValueError(f"kind '{kind}' is neither 'hrm' nor 'trm'")
    known = [*SAME_NAME, *DROPPED, "loss", *(TRM_ONLY if kind == "trm" else ())]
    for key in theirs:
        if key not in known:
            raise ValueError(f"unknown {kind} configuration key '{key}'{nearest(key, known)}")
    if theirs.get("causal", False):
        raise ValueError("causal attention: neither reference trains with it, and neither do we")
    if theirs.get("pos_encodings") not in (None, "rope", "learned", "none"):
        raise ValueError(f"pos_encodings={theirs['pos_encodings']}: the references know rope, learned and none")
    ours = {"forward_dtype": "bfloat16"} | {key: theirs[key] for key in SAME_NAME if key in theirs}
    if kind == "hrm":
        ours |= {"levels": "separate", "mixer": "attention", "gradient": "one_step", "halting": "q_learning"}
    else:
        mlp = theirs.get("mlp_t", False)
        ours |= {
            "levels": "shared",
            "mixer": "mlp" if mlp else "attention",
            "gradient": "last_cycle",
            "halting": "halt_only" if theirs.get("no_ACT_continue", True) else "q_learning",
            "puzzle_emb_len": theirs.get("puzzle_emb_len", 16),
        }
        if mlp and ours.get("pos_encodings") == "rope":
            ours["pos_encodings"] = "none"  # TRM builds the table and its MLP mixer never looks at it
    return validated(ModelConfig, ours, f"{kind} configuration")


def state_from_reference(model: HRM, tensors: dict[str, Tensor], where: str) -> None:
    """Load a reference's state dict, whatever its prefixes."""
    load_exactly(model, {bare_name(name): tensor for name, tensor in tensors.items()}, where)


def bare_name(name: str) -> str:
    """`_orig_mod.model.inner.H_init` -> `H_init`: the prefixes of torch.compile, the loss head and the ACT wrapper."""
    return re.sub(r"^(_orig_mod\.|module\.)?(model\.)?(_orig_mod\.)?(inner\.)?", "", name)


def reference_weights(path: Path, dtype: str, seq_len: int | None, overrides: dict[str, Any]) -> Weights:
    """Read a checkpoint of sapientinc/HRM or TinyRecursiveModels: a bare state dict, `all_config.yaml` beside it or not.

    Vocabulary, identifiers, widths and layers are read from the tensors; cycles, heads and loss from the YAML, else the
    published recipe's.
    """
    tensors = {bare_name(name): tensor for name, tensor in reference_tensors(path).items()}
    for name in ("embed_tokens.embedding_weight", "lm_head.weight", "L_level.layers.0.mlp.down_proj.weight"):
        if name not in tensors:
            raise ValueError(f"{path}: no HRM or TRM checkpoint: it has no '{name}'")
    for name, tensor in tensors.items():
        if name.endswith(("embedding_weight", "puzzle_emb.weights", "proj.weight")) and (
            tensor.ndim != 2 or not len(tensor)
        ):
            raise ValueError(f"{path}: '{name}' has shape {tuple(tensor.shape)}, expected rows and columns")
    kind = "hrm" if "H_level.layers.0.mlp.down_proj.weight" in tensors else "trm"
    vocab, width = tensors["embed_tokens.embedding_weight"].shape
    task, known_length = KNOWN_TASKS.get(vocab, ("unknown", None))
    table = tensors.get("puzzle_emb.weights", torch.empty(1, 0))
    mlp = "L_level.layers.0.mlp_t.down_proj.weight" in tensors
    learned = tensors.get("embed_pos.embedding_weight")
    theirs = {"pos_encodings": "learned" if learned is not None else "rope", "num_heads": max(1, width // 64)}
    theirs |= {"expansion": 4.0} if kind == "hrm" else {"expansion": 4.0, "H_cycles": 3, "L_cycles": 6, "mlp_t": mlp}
    theirs |= arch_beside(path) | overrides
    if not isinstance(theirs.get("puzzle_emb_len") or 0, int):
        raise ValueError(f"{path}: puzzle_emb_len={theirs['puzzle_emb_len']}: a whole number")
    theirs |= {"hidden_size": width, "vocab_size": vocab, "num_puzzle_identifiers": len(table)}
    theirs |= {"puzzle_emb_ndim": table.shape[1], "L_layers": count_layers(tensors, "L_level")}
    theirs["H_layers"] = count_layers(tensors, "H_level")
    prefix = theirs.get("puzzle_emb_len", 16 if kind == "trm" else 0) or -(-table.shape[1] // width)
    if seq_len is None and learned is not None:
        seq_len = len(learned) - prefix
    if seq_len is None and mlp:
        seq_len = len(tensors["L_level.layers.0.mlp_t.down_proj.weight"]) - prefix
    seq_len = seq_len or theirs.get("seq_len") or known_length
    if seq_len is None:
        raise ValueError(f"{path}: vocabulary {vocab} is of no known task: give the sequence length (seq_len=N)")
    try:
        model = model_in(config_from_reference({**theirs, "seq_len": seq_len}, kind), dtype)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    load_exactly(model, tensors, str(path))
    card = {"source": f"{kind} checkpoint of the reference, {path.name}", "loss_type": loss_of(theirs)}
    return Weights(model, task, card)


def reference_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file: safetensors, or torch's format through the reader that builds nothing but tensors."""
    import pickle

    if path.suffix == ".safetensors":
        return open_safetensors(path)[0]
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols; the user gets our line instead
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: holds more than tensors, or is no checkpoint; loading it could run code: refused"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{path}: not a readable checkpoint: {first_line(error)[:160]}") from None
    good = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not good:
        raise ValueError(f"{path}: expected a bare state dict of tensors, as the references save it")
    return state


def arch_beside(path: Path) -> dict[str, Any]:
    """The `arch` block of `all_config.yaml` beside a checkpoint, without what has no meaning here."""
    import yaml

    beside = path.with_name("all_config.yaml")
    if not beside.is_file():
        return {}
    try:
        arch = yaml.safe_load(beside.read_text())["arch"]
        return {key: value for key, value in arch.items() if key not in DROPPED}
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
        raise ValueError(
            f"{beside}: expected YAML with an 'arch' block; move it away to load by the tensors alone"
        ) from None


def loss_of(arch: dict[str, Any]) -> str:
    """The cross-entropy that an 'arch' block names; what is not known is stablemax, as published."""
    loss = arch.get("loss")
    softmax = isinstance(loss, dict) and loss.get("loss_type") == "softmax_cross_entropy"
    return "softmax_cross_entropy" if softmax else "stablemax_cross_entropy"


def count_layers(tensors: dict[str, Tensor], level: str) -> int:
    found = {match[1] for name in tensors if (match := re.match(rf"{level}\.layers\.(\d+)\.", name))}
    return len(found)


def save_reference(model: HRM, path: Path, loss_type: str = "stablemax_cross_entropy") -> None:
    """Write `path` (`…/step_N`) and `all_config.yaml` beside it, as the reference's pretrain.py would.

    `loss_type` is the cross-entropy that the weights learned by. Raises ValueError where the configuration has no counterpart
    there, or one of another model is there already.
    """
    import yaml

    config = model.config
    kind = {"separate": "hrm", "shared": "trm"}.get(config.levels)
    arch = {
        key: getattr(config, key) for key in SAME_NAME if key not in ("vocab_size", "seq_len", "num_puzzle_identifiers")
    }
    if kind == "trm":
        arch |= {"mlp_t": config.mixer == "mlp", "puzzle_emb_len": config.puzzle_emb_len}
        arch |= {"no_ACT_continue": config.halting == "halt_only"}
    data_shaped = {key: getattr(config, key) for key in ("vocab_size", "seq_len", "num_puzzle_identifiers")}
    back = config_from_reference({**arch, **data_shaped}, kind) if kind else None
    if back != config:
        differing = [key for key in Arch.model_fields if back and getattr(back, key) != getattr(config, key)]
        raise ValueError(f"the reference has no such model: {', '.join(differing) or 'levels=single'}")
    name = {
        "hrm": "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1",
        "trm": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
    }[kind]
    loss = {"name": "losses@ACTLossHead", "loss_type": loss_type}
    beside = path.with_name("all_config.yaml")
    there = arch_beside(path) if beside.is_file() else None
    if there and (config_from_reference({**there, **data_shaped}, kind) != config or loss_of(there) != loss_type):
        raise ValueError(f"{beside}: describes another model; choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    torch.save({f"_orig_mod.model.inner.{key}": value.cpu() for key, value in model.state_dict().items()}, content)
    if not beside.is_file():  # first, for a checkpoint without it is read with guessed settings
        write_synced(beside, yaml.safe_dump({"arch": {"name": name, "loss": loss, **arch}}).encode())
    write_synced(path, content.getvalue())
