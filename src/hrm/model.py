"""The network, top to bottom: layers, reasoning modules, the recursion, the heads.

One class covers HRM, TRM and the Transformer baselines: the configuration gives a plan of updates ("LLHLLH"), and the
last k updates of the plan carry gradient. The model knows tensors only: no file, no task, no device choice.

Shapes: B puzzles, P prefix positions (puzzle embedding), S cells, D hidden size, V vocabulary.
Parameter names are the reference's (sapientinc/HRM, `inner.` left out), so checkpoints convert without a table.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig

State = tuple[Tensor, Tensor]
"""(z_H, z_L), each (B, P + S, D). With levels=single z_L is unused and empty, (B, 0, D)."""


class Output(NamedTuple):
    """What a segment says: logits (B, S, V) in the forward dtype, q_halt and q_continue (B,) in float32."""

    logits: Tensor
    q_halt: Tensor
    q_continue: Tensor


def trunc_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fill with a normal cut at two deviations, scaled so that `std` is the true deviation (peers.md 3.1; JAX's)."""
    if std == 0:
        return tensor.zero_()
    edge = math.erf(math.sqrt(2))
    density = math.exp(-2) / math.sqrt(2 * math.pi)  # of the normal at 2
    scale = std / math.sqrt(1 - 4 * density / edge)  # what the cut takes from the deviation, given back
    with torch.no_grad():
        return tensor.uniform_(-edge, edge).erfinv_().mul_(math.sqrt(2) * scale).clip_(-2 * scale, 2 * scale)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis, no weight, computed in float32."""
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class CastedLinear(nn.Module):
    """A linear layer whose float32 master weight is cast to the dtype of its input."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(trunc_normal_(torch.empty(out_features, in_features), in_features**-0.5))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class CastedEmbedding(nn.Module):
    def __init__(self, count: int, width: int, std: float):
        super().__init__()
        self.embedding_weight = nn.Parameter(trunc_normal_(torch.empty(count, width), std))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return F.embedding(ids, self.embedding_weight.to(dtype))


class PuzzleEmbedding(nn.Module):
    """The table of puzzle embeddings: a buffer, since its sparse sign-SGD (optim.py) touches only looked-up rows."""

    def __init__(self, count: int, width: int):
        super().__init__()
        self.register_buffer("weights", torch.zeros(count, width), persistent=width > 0)


# Positions. Each kind offers `embed` (what is added to the cells) and `rotation` (what attention rotates by).


class NoPositions(nn.Module):
    def embed(self, embedding: Tensor) -> Tensor:
        return embedding

    def rotation(self) -> tuple[Tensor, Tensor] | None:
        return None


class LearnedPositions(NoPositions):
    def __init__(self, length: int, width: int):
        super().__init__()
        self.embedding_weight = nn.Parameter(trunc_normal_(torch.empty(length, width), width**-0.5))

    def embed(self, embedding: Tensor) -> Tensor:
        # 1/sqrt(2), in the reference's digits, keeps the variance of the sum at that of a token
        return 0.707106781 * (embedding + self.embedding_weight.to(embedding.dtype))


class RotaryPositions(NoPositions):
    """RoPE in the half-split form. `coordinates` (axes, P + S): the head's frequencies are shared out among the axes."""

    def __init__(self, coordinates: Tensor, head_dim: int, theta: float):
        super().__init__()
        part = head_dim // len(coordinates)
        inv_freq = 1.0 / (theta ** (torch.arange(0, part, 2, dtype=torch.float32) / part))
        angles = torch.cat([torch.outer(axis, inv_freq) for axis in coordinates], -1)  # (P + S, head_dim / 2)
        angles = torch.cat((angles, angles), -1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def rotation(self) -> tuple[Tensor, Tensor]:
        return self.cos, self.sin


def make_positions(config: ModelConfig) -> NoPositions:
    length = config.prefix_len + config.seq_len
    head_dim = config.hidden_size // config.num_heads
    if config.pos_encodings == "learned":
        return LearnedPositions(length, config.hidden_size)
    if config.pos_encodings == "rope":
        return RotaryPositions(torch.arange(length, dtype=torch.float32)[None], head_dim, config.rope_theta)
    if config.pos_encodings == "rope2d":
        side = math.isqrt(config.seq_len)
        rows, columns = torch.meshgrid(*[torch.arange(1, side + 1, dtype=torch.float32)] * 2, indexing="ij")
        cells = torch.stack((rows.flatten(), columns.flatten()))
        return RotaryPositions(F.pad(cells, (config.prefix_len, 0)), head_dim, config.rope_theta)
    return NoPositions()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply RoPE to (B, P + S, heads, head_dim), in float32 as the reference does."""
    first, second = x.float().chunk(2, -1)
    turned = torch.cat((-second, first), -1)
    return (x.float() * cos[:, None] + turned * sin[:, None]).to(x.dtype)


class SwiGLU(nn.Module):
    def __init__(self, width: int, expansion: float, round_to: int):
        super().__init__()
        inner = -(-round(expansion * width * 2 / 3) // round_to) * round_to
        self.gate_up_proj = CastedLinear(width, 2 * inner)
        self.down_proj = CastedLinear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv_proj = CastedLinear(width, 3 * width)
        self.o_proj = CastedLinear(width, width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        q, k, v = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # each (B, P + S, heads, head_dim)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class AttentionBlock(nn.Module):
    """Post-norm: x = norm(x + attention(x)); x = norm(x + mlp(x))."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.self_attn = Attention(config.hidden_size, config.num_heads)
        self.mlp = SwiGLU(config.hidden_size, config.expansion, config.mlp_round_to)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        x = rms_norm(x + self.self_attn(x, rotation), self.eps)
        return rms_norm(x + self.mlp(x), self.eps)


class MixerBlock(nn.Module):
    """As AttentionBlock, with an MLP over positions; its norm too runs over positions (TRM's `mlp_t`)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.eps = config.rms_norm_eps
        length = config.prefix_len + config.seq_len
        self.mlp_t = SwiGLU(length, config.mixer_expansion or config.expansion, config.mlp_round_to)
        self.mlp = SwiGLU(config.hidden_size, config.expansion, config.mlp_round_to)

    def forward(self, x: Tensor, rotation: None) -> Tensor:
        columns = x.transpose(1, 2)  # (B, D, P + S)
        x = rms_norm(columns + self.mlp_t(columns), self.eps).transpose(1, 2)
        return rms_norm(x + self.mlp(x), self.eps)


BLOCKS = {"attention": AttentionBlock, "mlp": MixerBlock}


class ReasoningModule(nn.Module):
    """The stack of blocks behind one level; what the level is told is added to its state first."""

    def __init__(self, config: ModelConfig, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(BLOCKS[config.mixer](config) for _ in range(layers))

    def forward(self, state: Tensor, told: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        x = state + told
        for layer in self.layers:
            x = layer(x, rotation)
        return x


class HRM(nn.Module):
    """A hierarchical reasoning model (arXiv 2506.21734, section 2), or a relative of it, as `config` says.

    A call is one segment. The carry between segments (who halted, whose turn it is) lives in halting.py.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.dtype = getattr(torch, config.forward_dtype)
        width = config.hidden_size
        # in the reference's order of construction, so that one seed gives one set of weights in both
        self.embed_tokens = CastedEmbedding(config.vocab_size, width, width**-0.5)
        self.lm_head = CastedLinear(width, config.vocab_size)
        self.q_head = CastedLinear(width, 2, bias=True)
        self.puzzle_emb = PuzzleEmbedding(config.num_puzzle_identifiers, config.puzzle_emb_ndim)
        self.embed_pos = make_positions(config)
        if config.levels == "separate":
            self.H_level = ReasoningModule(config, config.H_layers)
        self.L_level = ReasoningModule(config, config.L_layers)
        self.register_buffer("H_init", trunc_normal_(torch.empty(width, dtype=self.dtype), config.init_std))
        if config.levels != "single":
            self.register_buffer("L_init", trunc_normal_(torch.empty(width, dtype=self.dtype), config.init_std))
        # Q starts near "never halt" and moves fast from there (reference: hrm_act_v1.py)
        nn.init.zeros_(self.q_head.weight)
        nn.init.constant_(self.q_head.bias, -5)

    def initial_state(self, batch_size: int) -> State:
        """The fixed z_H and z_L that every puzzle starts from (section 2: drawn once, not trained)."""
        length = self.config.prefix_len + self.config.seq_len
        z_H = self.H_init.expand(batch_size, length, -1)
        return z_H, (z_H[:, :0] if self.config.levels == "single" else self.L_init.expand(batch_size, length, -1))

    def puzzle_rows(self, puzzle_identifiers: Tensor) -> Tensor:
        """Rows (B, puzzle_emb_ndim) of the puzzle table; training makes them a leaf that takes gradient."""
        return self.puzzle_emb.weights[puzzle_identifiers]

    def embed(self, tokens: Tensor, puzzle_rows: Tensor) -> Tensor:
        """Input embedding (B, P + S, D) of tokens (B, S) and their puzzles' rows (B, puzzle_emb_ndim)."""
        width, prefix = self.config.hidden_size, self.config.prefix_len
        cells = self.embed_tokens(tokens, self.dtype)
        padded = F.pad(puzzle_rows.to(self.dtype), (0, prefix * width - puzzle_rows.shape[-1]))
        together = torch.cat((padded.view(len(tokens), prefix, width), cells), 1)
        return self.embed_pos.embed(together) * math.sqrt(width)

    def forward(
        self, state: State, tokens: Tensor, puzzle_rows: Tensor, H_cycles: int | None = None
    ) -> tuple[State, Output]:
        """Run one segment: `H_cycles` (default: the configured number) cycles, the last k updates with gradient.

        Returns the new state, still attached to the graph, and what the heads read from it.
        """
        x = self.embed(tokens, puzzle_rows)
        plan = self.config.cycle * (H_cycles or self.config.H_cycles)
        split = max(0, len(plan) - self.config.gradient_updates)
        with torch.no_grad():
            state = self._run(plan[:split], state, x)
        state = self._run(plan[split:], state, x)
        z_H = state[0]
        q = self.q_head(z_H[:, 0]).float()  # (B, 2)
        return state, Output(self.lm_head(z_H)[:, self.config.prefix_len :], q[:, 0], q[:, 1])

    def _run(self, plan: str, state: State, x: Tensor) -> State:
        z_H, z_L = state
        rotation = self.embed_pos.rotation()
        slow = self.H_level if self.config.levels == "separate" else self.L_level
        for update in plan:
            if update == "L":
                z_L = self.L_level(z_L, z_H + x, rotation)
            elif update == "H":
                z_H = slow(z_H, z_L, rotation)
            else:
                z_H = self.L_level(z_H, x, rotation)
        return z_H, z_L

    def compile_levels(self) -> None:
        """Compile the reasoning modules in place (all shapes static); the rest of a step is too small to matter."""
        # both levels, with and without gradient, training and evaluation batches: more variants than torch's 8
        torch._dynamo.config.recompile_limit = 64
        for level in {self.L_level, self.H_level if self.config.levels == "separate" else self.L_level}:
            level.compile(dynamic=False)


def machine_dtype(device: str) -> str:
    """The forward dtype that 'auto' stands for: bfloat16 where the machine multiplies matrices in it."""
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device == "cpu":
        return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bf16_products() else "float32"
    return "float32"


def _has_bf16_products() -> bool:
    return "avx512_bf16" in torch.backends.cpu.get_cpu_capability().lower() or torch.cpu._is_amx_tile_supported()


def machine_device(asked: str = "auto") -> str:
    """'auto' as the best device that is here: cuda, mps or cpu. Raises ValueError for one that is not here."""
    if asked == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found.type if found else "cpu"
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(asked.partition(":")[0], False):
        raise ValueError(f"device '{asked}': not on this machine; here: {', '.join(k for k, v in here.items() if v)}")
    return asked
