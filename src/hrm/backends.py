"""What runs a segment at inference: torch as it is, torch compiled, ONNX Runtime or OpenVINO, behind one call.

An engine maps (state, grid, puzzle identifiers) to (state, Output), as `HRM.forward` does; everything above it, halting
included, is the same for all. The last two run the program that export.py writes, kept in a cache by the weights' hash.
"""

import copy
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .layers import CastedLinear
from .model import HRM, Output, State

BACKENDS = ("auto", "eager", "compiled", "onnx", "openvino")

Engine = Callable[[State, Tensor, Tensor], tuple[State, Output]]


def engine_for(backend: str, model: HRM, task: str) -> Engine:
    """The engine called `backend`; auto is eager. Raises ValueError for an unknown one, or a library that is not here."""
    if backend not in BACKENDS:
        raise ValueError(f"backend='{backend}': choose one of {', '.join(BACKENDS)}")
    if backend in ("onnx", "openvino"):
        if model.H_init.device.type != "cpu":
            raise ValueError(f"backend='{backend}' runs on the CPU; the model is on {model.H_init.device}")
        return (_OnnxEngine if backend == "onnx" else _OpenVinoEngine)(model, task)
    if backend == "compiled":
        linear = [layer for layer in model.modules() if isinstance(layer, CastedLinear)]
        shared = {id(part): part for part in (*linear, *model.parameters(), *model.buffers())}
        model = copy.deepcopy(model, shared)  # the caller's stays as it is; both hold the same weights
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


class _ProgramEngine:
    """Runs an exported segment: arrays in, arrays out."""

    def __init__(self, model: HRM, task: str):
        from .export import SegmentStep

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
        if self.step.latent:
            state = found["next_z_H"], found["next_z_L"]
        return state, Output(
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
        self.request = openvino.Core().compile_model(str(program), "CPU", hints).create_infer_request()

    def run(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = self.request.infer(arrays)
        return [found[k].copy() for k in range(len(self.step.outputs))]


def cached_program(model: HRM, task: str) -> Path:
    """The model's segment as ONNX in float32, exported on first use into $HRM_CACHE or ~/.cache/hrm."""
    from .export import FORMATS, write_segment

    digest = hashlib.sha256(f"{torch.__version__} {model.config.model_dump_json()}".encode())
    for source in ("layers.py", "model.py", "export.py"):
        digest.update(Path(__file__).with_name(source).read_bytes())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    cache = Path(os.environ.get("HRM_CACHE") or Path.home() / ".cache" / "hrm")
    folder = cache / "segments" / digest.hexdigest()[:24]
    if not (folder / FORMATS["onnx"]).is_file():
        write_segment(in_float32(model), task, folder, "onnx")
    return folder / FORMATS["onnx"]


def in_float32(model: HRM) -> HRM:
    """The same model, computing in float32."""
    twin = HRM(model.config.model_copy(update={"forward_dtype": "float32"}))
    twin.load_state_dict(model.state_dict())
    return twin.eval()
