"""What runs a segment at inference: torch as it is, torch compiled, ONNX Runtime or OpenVINO, behind one call.

An engine maps (state, grid, puzzle identifiers) to (state, Output), as `HRM.forward` does; everything above it, halting
included, is the same for all. On a CPU the last three run a program that export.py writes, kept in a cache.
"""

import copy
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .config import first_line
from .export import FORMATS, SegmentStep, Updates, updates_inputs, write_segment, write_updates
from .layers import CastedLinear
from .model import HRM, Output, State

BACKENDS = ("auto", "eager", "compiled", "onnx", "openvino")

Engine = Callable[[State, Tensor, Tensor], tuple[State, Output]]


def engine_for(backend: str, model: HRM, task: str) -> Engine:
    """The engine called `backend`; auto is eager. Raises ValueError for an unknown one, or a library that is not here."""
    if backend not in BACKENDS:
        raise ValueError(f"backend='{backend}': choose one of {', '.join(BACKENDS)}")
    on_cpu = model.H_init.device.type == "cpu"
    if backend in ("onnx", "openvino"):
        if not on_cpu:
            raise ValueError(f"backend='{backend}' runs on the CPU; the model is on {model.H_init.device}")
        return (_OnnxEngine if backend == "onnx" else _OpenVinoEngine)(model, task)
    if backend == "compiled":
        model = cast_for_good(model)
        if on_cpu:
            model.ahead = _CompiledUpdates(model)
        else:
            model.compile_levels(dynamic=None)

    def segment(state: State, grid: Tensor, names: Tensor) -> tuple[State, Output]:
        with threads_for(model, len(grid)):
            return model(state, grid, model.puzzle_rows(names))

    return segment


SHARED_WORK = 80_000_000
"""Multiply-adds of one update of a level from which on it is worth more than one thread of a processor."""


@contextmanager
def threads_for(model: HRM, rows: int) -> Iterator[None]:
    """One thread for a segment whose updates are too short to be shared: no slower on an idle machine, and where another
    program has the other cores, threads that wait for each other cost a few puzzles a hundred times their time."""
    threads = torch.get_num_threads()
    few = work_of_update(model) * rows < SHARED_WORK
    # compiled code has its threads built in, and is compiled anew for another number of them
    if not few or threads == 1 or model.compiled or model.H_init.device.type != "cpu":
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def work_of_update(model: HRM) -> int:
    """Multiply-adds of one update of the fast level for one puzzle as if every weight worked once a position: attention's own
    products are left out, weights of groups work less, those of the MLP over positions as often as a position is wide."""
    return model.view.length * sum(p.numel() for p in model.L_level.parameters())


@contextmanager
def opening(program: Path) -> Iterator[None]:
    """Inside, an engine opens a program of the cache; raises ValueError, in one line, for one that it cannot."""
    try:
        yield
    except Exception as error:  # each engine has classes of its own
        raise ValueError(f"{program}: cannot be loaded; delete it ({first_line(error)})") from error


class _ProgramEngine:
    """Runs an exported segment: arrays in, arrays out."""

    def __init__(self, model: HRM, task: str):
        self.step = SegmentStep(model)
        self.open(cached_program(model, task))

    def open(self, program: Path) -> None:
        raise NotImplementedError

    def run(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        raise NotImplementedError

    def __call__(self, state: State, grid: Tensor, names: Tensor) -> tuple[State, Output]:
        given = {"tokens": grid, "candidates": grid, "puzzle_identifiers": names}
        if self.step.latent:
            given |= {"z_H": state[0].float(), "z_L": state[1].float()}
        arrays = {name: np.ascontiguousarray(given[name].numpy()) for name in self.step.inputs}
        found = dict(zip(self.step.outputs, map(torch.from_numpy, self.run(arrays)), strict=True))
        after = (found["next_z_H"], found["next_z_L"]) if self.step.latent else ()  # else they stay inside the program
        return after, Output(
            found["logits"], found["q_halt"], found.get("q_continue", torch.zeros_like(found["q_halt"]))
        )


class _OnnxEngine(_ProgramEngine):
    def open(self, program: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ValueError("backend='onnx' needs the extra: pip install 'hrm-torch[export]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with opening(program):
            self.session = onnxruntime.InferenceSession(str(program), options, providers=["CPUExecutionProvider"])

    def run(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self.session.run(None, arrays)


class _OpenVinoEngine(_ProgramEngine):
    def open(self, program: Path) -> None:
        try:
            import openvino
        except ImportError:
            raise ValueError("backend='openvino' needs the extra: pip install 'hrm-torch[openvino]'") from None
        dtype = self.step.model.config.forward_dtype
        hints = {"INFERENCE_PRECISION_HINT": "bf16" if dtype == "bfloat16" else "f32", "PERFORMANCE_HINT": "LATENCY"}
        hints["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
        with opening(program):
            self.request = openvino.Core().compile_model(str(program), "CPU", hints).create_infer_request()

    def run(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = self.request.infer(arrays)
        return [found[k].copy() for k in range(len(self.step.outputs))]


def cached_program(model: HRM, task: str) -> Path:
    """The model's segment as ONNX in float32, exported on first use into $HRM_CACHE or ~/.cache/hrm."""
    weights = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        weights.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    folder = cache_for(model, weights.hexdigest())
    if not (folder / FORMATS["onnx"]).is_file():
        write_segment(in_float32(model), task, folder, "onnx")
    return folder / FORMATS["onnx"]


class _CompiledUpdates:
    """The updates of a segment of a model cast for good, compiled on first use into the same cache, for this kind of
    processor and any weights."""

    def __init__(self, model: HRM):
        program = cache_for(model, str(sorted(torch.cpu.get_capabilities().items()))) / "updates.pt2"
        if not program.is_file():
            logging.getLogger(__name__).warning("compiling for this machine, once: a minute or two (%s)", program)
            program.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="partial-", dir=program.parent) as partial:
                aside = Path(partial) / program.name
                write_updates(model, aside)
                aside.replace(program)
        with opening(program):
            # torch._inductor.aoti_load_package is this and 3 s of imports
            self.loader = torch._C._aoti.AOTIModelPackageLoader(str(program), "model", False, 1, -1)
        updates = Updates(model)
        named = dict(updates.named_parameters()) | dict(updates.named_buffers())
        # held, for the program takes no copy
        self.weights = {name: named[name].detach() for name in self.loader.get_constant_fqns()}
        self.loader.load_constants(self.weights, use_inactive=False, check_full_update=True, user_managed=True)

    def __call__(self, state: State, x: Tensor, where: Any) -> State:
        z_H, z_L = self.loader.run(list(updates_inputs(state, x, where)))
        return z_H, z_L


def cache_for(model: HRM, kind: str) -> Path:
    """The folder in the cache for programs of such a model; `kind` is what they depend on besides its configuration."""
    digest = hashlib.sha256(f"{torch.__version__} {model.config.model_dump_json()} {kind}".encode())
    for source in ("layers.py", "model.py", "export.py"):
        digest.update(Path(__file__).with_name(source).read_bytes())
    cache = Path(os.environ.get("HRM_CACHE") or Path.home() / ".cache" / "hrm")
    return cache / "segments" / digest.hexdigest()[:24]


def cast_for_good(model: HRM) -> HRM:
    """A copy that holds the same weights, but for those of its linear layers, which are in the dtype they compute in."""
    twin = copy.deepcopy(model, {id(part): part for part in (*model.parameters(), *model.buffers())})
    for layer in twin.modules():
        if isinstance(layer, CastedLinear):
            layer.weight = nn.Parameter(layer.weight.detach().to(model.dtype), requires_grad=False)
    return twin


def in_float32(model: HRM) -> HRM:
    """The same model, computing in float32."""
    twin = HRM(model.config.model_copy(update={"forward_dtype": "float32"}))
    twin.load_state_dict(model.state_dict())
    return twin.eval()
