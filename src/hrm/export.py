"""One segment of a model as a file that other engines run: ONNX, or torch's own exported program; or its updates, compiled.

The halting loop stays outside, so stopping, streaming and batching remain the caller's. A folder holds the program,
`segment.json` (what goes in and out, the task, the bounds) and, for a latent carry, `initial.npz` with z_H and z_L.
"""

import io
import json
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoint import write_synced
from .data import put_in_place
from .layers import Bags, Standing
from .model import HRM, State

FORMATS = {"onnx": "segment.onnx", "torch": "segment.pt2"}
WRITTEN = {"segment.json", "initial.npz", *FORMATS.values()}
"""All that a folder may hold for an export to replace it."""


class SegmentStep(nn.Module):
    """A segment as a function of tensors: (z_H, z_L, tokens[, puzzle_identifiers]) -> (z_H, z_L, logits, q_halt
    [, q_continue]), the last where both are learned.

    With candidates they stand in the tokens' place; where they alone are carried, the states are the segment's own and left
    out.
    """

    def __init__(self, model: HRM):
        super().__init__()
        self.model = model
        self.latent, self.deduces = model.config.latent, model.config.deduces
        self.named = model.config.puzzle_emb_ndim > 0

    @property
    def inputs(self) -> list[str]:
        carried = ["z_H", "z_L"] * self.latent + ["candidates" if self.deduces else "tokens"]
        return carried + ["puzzle_identifiers"] * self.named

    @property
    def outputs(self) -> list[str]:
        q = ["q_halt"] + ["q_continue"] * (self.model.config.halting == "q_learning")
        return ["next_z_H", "next_z_L"] * self.latent + ["logits", *q]

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Inputs of the right shapes for `rows` puzzles."""
        config = self.model.config
        grid = torch.ones(rows, config.seq_len, dtype=torch.int32)
        if self.deduces:
            grid = torch.ones(rows, config.seq_len, config.vocab_size, dtype=torch.bool)
        state = tuple(z.contiguous() for z in self.model.initial_state(rows)) if self.latent else ()
        return (*state, grid) + (torch.zeros(rows, dtype=torch.int32),) * self.named

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        model, given = self.model, dict(zip(self.inputs, tensors, strict=True))
        grid = given["candidates" if self.deduces else "tokens"]
        rows = (
            model.puzzle_rows(given["puzzle_identifiers"].long())
            if self.named
            else torch.zeros(grid.shape[0], 0, device=grid.device)
        )
        state = (given["z_H"], given["z_L"]) if self.latent else model.initial_state(grid.shape[0])
        state, out = model(state, grid, rows)
        q = (out.q_halt, out.q_continue) if self.model.config.halting == "q_learning" else (out.q_halt,)
        return (*state, out.logits, *q) if self.latent else (out.logits, *q)


def exported(model: HRM) -> torch.export.ExportedProgram:
    """The segment as torch.export traces it, for any number of puzzles. The model computes in float32."""
    step = SegmentStep(model.eval())
    batch = torch.export.Dim("batch", min=1, max=65536)
    example = step.example(2)
    with torch.no_grad():
        return torch.export.export(step, example, dynamic_shapes={"tensors": tuple({0: batch} for _ in example)})


class Updates(nn.Module):
    """All updates of a segment, from embedding to heads, as a function of tensors: (z_H, z_L, x) -> (z_H, z_L).

    Where only standing positions compute, these are packed, and what they are members of comes as four more tensors, the
    `rows` and `starts` of `Standing.members` and `Standing.groups`.
    """

    def __init__(self, model: HRM):
        super().__init__()
        self.model = model

    def forward(self, z_H: Tensor, z_L: Tensor, x: Tensor, *bags: Tensor) -> State:
        model, config = self.model, self.model.config
        where = model.embed_pos.rotation()
        if bags:
            where = Standing(None, members=Bags(*bags[:2]), groups=Bags(*bags[2:]))
        return model.updated(config.cycle * config.H_cycles, (z_H, z_L), x, where)


def updates_inputs(state: State, x: Tensor, where: Any) -> tuple[Tensor, ...]:
    """What `Updates` takes, from what `HRM.entered` gives; contiguous, for compiled code does not ask."""
    bags = (*where.members, *where.groups) if isinstance(where, Standing) else ()
    return tuple(tensor.contiguous() for tensor in (*state, x, *bags))


def write_updates(model: HRM, path: Path) -> None:
    """Compile the updates of a segment for this machine, in the model's dtype and for any number of puzzles, into `path`.

    The model is on the CPU. Takes a minute or two, and a C++ compiler; what is written needs none. Weights are left out: a
    process that loads the program hands them over, by the names that they have in `Updates`.
    """
    grid = SegmentStep(model).example(2)[2 * model.config.latent]
    names = torch.zeros(len(grid), dtype=torch.int32)
    puzzles = torch.export.Dim("puzzles", min=1, max=65536)
    shapes: tuple[Any, ...] = ({0: puzzles},) * 3
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, state, where = model.entered(model.initial_state(len(grid)), grid, model.puzzle_rows(names))
        if isinstance(where, Standing):
            standing, many = torch.export.Dim("standing", min=1), torch.export.Dim("many", min=1)
            held = ({0: standing}, {0: puzzles} if state[1].dim() == 3 else {0: standing}, {0: standing})
            shapes = (*held, ({0: 4 * standing}, {0: 4 * many + 1}, {0: 4 * standing}, {0: standing + 1}))
        program = torch.export.export(Updates(model), updates_inputs(state, x, where), dynamic_shapes=shapes)
        # as many threads as there are when it runs, and any weights
        how = {"cpp.dynamic_threads": True, "aot_inductor.package_constants_in_so": False}
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=how)


def write_segment(model: HRM, task: str, folder: Path, kind: str) -> Path:
    """Write the folder (new, or replaced where it holds an older export); returns the program's path. The model is on the CPU.

    A program that another process puts there meanwhile is kept. Raises ValueError for an unknown `kind`, a folder with other
    things in it, or a missing library.
    """
    if kind not in FORMATS:
        raise ValueError(f"--format {kind}: choose one of {', '.join(FORMATS)}")
    if model.config.forward_dtype != "float32":
        raise ValueError("export needs a model loaded with forward_dtype=float32")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: a file; name a folder to make")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names and not {"segment.json"} <= names <= WRITTEN:
        raise ValueError(f"{folder}: holds other things than an exported segment; choose another folder")
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    program, step = exported(model), SegmentStep(model)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.partial-", dir=folder.parent) as partial:
        aside = Path(partial) / folder.name
        aside.mkdir()
        if kind == "onnx":
            _write_onnx(program, step, aside / FORMATS[kind])
        else:
            content = io.BytesIO()  # written by torch itself, a full disk would end the process
            torch.export.save(program, content)
            write_synced(aside / FORMATS[kind], content.getvalue())
        if step.latent:
            states = zip(("z_H", "z_L"), (z[0].numpy() for z in model.initial_state(1)), strict=True)
            np.savez(aside / "initial.npz", **dict(states))
        write_synced(aside / "segment.json", json.dumps(description(step, task, kind), indent=1).encode())
        if FORMATS[kind] in names or not (folder / FORMATS[kind]).is_file():  # else another process was quicker
            put_in_place(aside, folder)
    return folder / FORMATS[kind]


def description(step: SegmentStep, task: str, kind: str) -> dict[str, Any]:
    """What a caller needs to know besides the program."""
    config = step.model.config
    found = {
        "program": FORMATS[kind],
        "task": task,
        "carry": config.carry,
        "inputs": step.inputs,
        "outputs": step.outputs,
    }
    found |= {"cells": config.seq_len, "vocabulary": config.vocab_size, "max_segments": config.max_segments}
    return found | ({"rule_out_below": config.rules_out, "patience": config.waits} if step.deduces else {})


def _write_onnx(program: torch.export.ExportedProgram, step: SegmentStep, path: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise ValueError("ONNX export needs the extra: pip install 'hrm-torch[export]'") from None
    del onnx
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            program,
            f=str(path),
            input_names=step.inputs,
            output_names=step.outputs,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
