"""The network above its layers: the recursion and the heads.

One class covers HRM, TRM and the Transformer baselines: the configuration gives a plan of updates ("LLHLLH"), and the
last k updates of the plan carry gradient. The model knows tensors only: no file, no task, no device choice.

Shapes: B puzzles, N positions (the puzzle embedding's and the cells', or every value of every cell), S cells, D hidden
size, V vocabulary.
Parameter names are the reference's (sapientinc/HRM, `inner.` left out), so checkpoints convert without a table.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .layers import (
    RULED_OUT,
    CastedEmbedding,
    CastedLinear,
    CellView,
    LatticeView,
    PuzzleEmbedding,
    ReasoningModule,
    UnitEmbedding,
    make_positions,
    packed,
    standing_positions,
    trunc_normal_,
    unpacked,
)

State = tuple[Tensor, Tensor]
"""(z_H, z_L), each (B, N, D). With levels=single z_L is unused and empty, (B, 0, D)."""


class Output(NamedTuple):
    """What a segment says: logits (B, S, V), in float32 where candidates are carried, else in the forward dtype; q_halt and
    q_continue (B,) in float32."""

    logits: Tensor
    q_halt: Tensor
    q_continue: Tensor


class HRM(nn.Module):
    """A hierarchical reasoning model (arXiv 2506.21734, section 2), or a relative of it, as `config` says.

    A call is one segment. The carry between segments (who halted, whose turn it is) lives in halting.py.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.forward_dtype == "auto":
            config = config.model_copy(update={"forward_dtype": machine_dtype(torch.get_default_device().type)})
        self.config = config
        self.dtype = getattr(torch, config.forward_dtype)
        self.compiled = False
        self.ahead: Callable[..., State] | None = None  # backends.py: a whole segment's updates, compiled ahead of time
        width = config.hidden_size
        # in the reference's order of construction, so that one seed gives one set of weights in both
        self.view = (LatticeView if config.mixer == "groups" else CellView)(config)
        self.embed_tokens = CastedEmbedding(self.view.embeddings, width, width**-0.5)
        self.lm_head = CastedLinear(width, self.view.outputs)
        self.q_head = CastedLinear(width, 2, bias=True)
        self.puzzle_emb = PuzzleEmbedding(config.num_puzzle_identifiers, config.puzzle_emb_ndim)
        self.embed_pos = make_positions(config)
        if config.unit_embedding:
            self.embed_units = UnitEmbedding(width, config.side, config.box)
        if config.feedback:
            self.embed_answer = CastedEmbedding(self.view.embeddings, width, 0.0)  # nothing is heard of it at first
        if config.levels == "separate":
            self.H_level = ReasoningModule(config, config.H_layers, config.H_mixer or config.mixer)
        self.L_level = ReasoningModule(config, config.L_layers, config.mixer)
        shape = (width,) if config.initial_state == "fixed" else (self.view.length, width)
        for name in ("H_init",) if config.levels == "single" else ("H_init", "L_init"):
            self.register_buffer(name, trunc_normal_(torch.empty(shape, dtype=self.dtype), config.init_std))
        # Q starts near "never halt" and moves fast from there (reference: hrm_act_v1.py)
        nn.init.zeros_(self.q_head.weight)
        nn.init.constant_(self.q_head.bias, math.log(1 / self.view.length) if config.doubts else -5)

    def initial_state(self, batch_size: int, generator: torch.Generator | None = None) -> State:
        """The z_H and z_L that puzzles start from: drawn once, not trained, the same for all (section 2).

        With a `generator` (on the state's device) every puzzle and position starts from a draw of its own instead, as
        training does with initial_state=random, and restarts at inference.
        """
        shape = (batch_size, self.view.length, self.config.hidden_size)

        def start(fixed: Tensor) -> Tensor:
            if generator is None:
                return fixed.expand(shape)
            drawn = torch.randn(shape, generator=generator, device=fixed.device)
            return (self.config.init_std * drawn).to(fixed.dtype)

        z_H = start(self.H_init)
        return z_H, (z_H[:, :0] if self.config.levels == "single" else start(self.L_init))

    def puzzle_rows(self, puzzle_identifiers: Tensor) -> Tensor:
        """Rows (B, puzzle_emb_ndim) of the puzzle table; training makes them a leaf that takes gradient."""
        return self.puzzle_emb.weights[puzzle_identifiers]

    def decoded(self, state: State) -> Tensor:
        """The answer so far: tokens (B, S), without gradient."""
        with torch.no_grad():
            return self.view.logits(self.lm_head(state[0])).argmax(-1)

    def embed(self, grid: Tensor, puzzle_rows: Tensor, told: Tensor | None = None) -> Tensor:
        """Input embedding (B, N, D) of a grid, as `forward` takes it, the puzzles' rows (B, puzzle_emb_ndim) and, with
        feedback, an answer `told` (B, S)."""
        width, prefix = self.config.hidden_size, self.config.prefix_len
        cells = self.view.embed(grid, self.embed_tokens, self.dtype)
        if told is not None:
            cells = cells + self.view.embed(told, self.embed_answer, self.dtype)
        if self.config.unit_embedding:
            cells = self.embed_units(cells)
        padded = F.pad(puzzle_rows.to(self.dtype), (0, prefix * width - puzzle_rows.shape[-1]))
        together = torch.cat((padded.view(grid.shape[0], prefix, width), cells), 1)
        return self.embed_pos.embed(together) * math.sqrt(width)

    def forward(
        self,
        state: State,
        grid: Tensor,
        puzzle_rows: Tensor,
        H_cycles: int | None = None,
        told: Tensor | None = None,
    ) -> tuple[State, Output]:
        """Run one segment: `H_cycles` (default: the configured number) cycles, the last k updates with gradient.

        `grid`: tokens (B, S), or where the model deduces which tokens still stand in each cell, (B, S, V) bool.
        `told`: with feedback, tokens (B, S) to be taken for the answer so far, in the place of `decoded(state)`.
        Returns the new state, still attached to the graph, and what the heads read from it.
        """
        *_, state = self.cycles(state, grid, puzzle_rows, H_cycles, told)
        return state, self.read(state, grid)

    def cycles(
        self,
        state: State,
        grid: Tensor,
        puzzle_rows: Tensor,
        H_cycles: int | None = None,
        told: Tensor | None = None,
    ) -> Iterator[State]:
        """The states after each H cycle of a segment that carries gradient, or after the last where none is taken."""
        x, state, where = self.entered(state, grid, puzzle_rows, told)
        if self.ahead and not torch.is_grad_enabled() and H_cycles is None:
            yield tuple(unpacked(z, where) for z in self.ahead(state, x, where))
            return
        length, plan = len(self.config.cycle), self.config.cycle * (H_cycles or self.config.H_cycles)
        graded = self.config.gradient_updates if torch.is_grad_enabled() else length
        split = max(0, len(plan) - graded)
        with torch.no_grad():
            state = self.updated(plan[:split], state, x, where)
        while split < len(plan):
            end = split + ((len(plan) - split) % length or length)
            state = self.updated(plan[split:end], state, x, where)
            yield tuple(unpacked(z, where) for z in state)
            split = end

    def entered(
        self, state: State, grid: Tensor, puzzle_rows: Tensor, told: Tensor | None = None
    ) -> tuple[Tensor, State, Any]:
        """The input embedding and the state as the levels take them, and what they know of positions."""
        where = self.embed_pos.rotation()
        if self.config.feedback and told is None:
            told = self.decoded(state)
        if self.config.lattice == "standing":
            where = standing_positions(self.view.stands(grid).flatten(1), self.config.box)
        x, *state = (packed(z, where) for z in (self.embed(grid, puzzle_rows, told), *state))
        return x, tuple(state), where

    def read(self, state: State, grid: Tensor) -> Output:
        """What the heads say about a state. Among candidates, a value that is ruled out has no probability. Where
        `config.doubts`, any position can say that something is wrong: q_halt is minus the log of the sum of doubts.
        """
        z_H = state[0]
        logits = self.view.logits(self.lm_head(z_H))
        if self.config.deduces:
            logits = logits.float().masked_fill(~grid, RULED_OUT)
        if self.config.doubts:
            doubts = self.q_head(z_H)[..., 0].float()
            if self.config.lattice == "standing":
                doubts = doubts.masked_fill(~self.view.stands(grid).flatten(1), -torch.inf)
            doubt = doubts.logsumexp(1)
            return Output(logits, -doubt, torch.zeros_like(doubt))
        q = self.q_head(self.view.summary(z_H)).float()  # (B, 2)
        return Output(logits, q[:, 0], q[:, 1])

    def updated(self, plan: str, state: State, x: Tensor, where: Any) -> State:
        """The state after the updates of `plan`, a string of L and H; all as the levels take them."""
        z_H, z_L = state
        slow = self.H_level if self.config.levels == "separate" else self.L_level
        for update in plan:
            if update == "L":
                z_L = self.L_level(z_L, z_H + x, where)
            elif update == "H":
                z_H = slow(z_H, z_L, where)
            else:
                z_H = self.L_level(z_H, x, where)
        return z_H, z_L

    @contextmanager
    def cast_once(self) -> Iterator[None]:
        """Inside, work without gradient computes with the weights as they are now, cast once and not at every call."""
        layers = [m for m in self.modules() if isinstance(m, CastedLinear) and m.weight.dtype != self.dtype]
        for layer in layers:
            layer.cast = layer.weight.detach().to(self.dtype)
        try:
            yield
        finally:
            for layer in layers:
                layer.cast = None

    def compile_levels(self, dynamic: bool | None = False, graphs: bool = False) -> None:
        """Compile the reasoning modules in place; the rest of a step is too small to matter.

        `dynamic` is torch.compile's: False fixes all shapes (training), None lets the number of puzzles vary. With `graphs`
        CUDA replays each call as one graph, and what it gave back holds until `torch.compiler.cudagraph_mark_step_begin`.
        """
        # both levels, with and without gradient, training and evaluation batches: more variants than torch's 8
        torch._dynamo.config.recompile_limit = 64
        self.compiled = True
        if self.config.lattice == "standing" and self.H_init.device.type == "cpu":
            dynamic = None  # how many positions stand is never the same; all else is, and stays fixed
        for level in {self.L_level, self.H_level if self.config.levels == "separate" else self.L_level}:
            level.compile(dynamic=dynamic, mode="reduce-overhead" if graphs else None)


def machine_dtype(device: str) -> str:
    """The forward dtype that 'auto' stands for: bfloat16 where the machine multiplies matrices in it."""
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device == "cpu":
        return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bf16_products() else "float32"
    return "float32"


def _has_bf16_products() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def machine_device(asked: str = "auto") -> str:
    """'auto' as the best device that is here: cuda, mps or cpu. Raises ValueError for one that is not here."""
    if asked == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found.type if found else "cpu"
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    here = [kind for kind, count in counts.items() if count]
    kind, colon, number = asked.partition(":")
    if kind not in here or (colon and not (number.isdecimal() and int(number) < counts[kind])):
        raise ValueError(f"device '{asked}': not on this machine; here: {', '.join(here)}")
    return asked
