"""What the reasoning modules are made of: linear layers, embeddings, positions, mixers, and how a state sees the grid.

Shapes: B puzzles, P prefix positions, S cells, D hidden size, V vocabulary. A block maps a state (B, positions, D) to
one like it.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig

RULED_OUT = -1e4
"""Logit of a value that cannot be."""
SHORT = 256
"""Positions up to which attention on a CPU is trained as plain products."""


def trunc_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fill with a normal cut at two deviations, scaled so that `std` is the true one (JAX's; models/common.py)."""
    if std == 0:
        return tensor.zero_()
    edge = math.erf(math.sqrt(2))
    density = math.exp(-2) / math.sqrt(2 * math.pi)  # of the normal at 2
    scale = std / math.sqrt(1 - 4 * density / edge)  # what the cut takes from the deviation, given back
    with torch.no_grad():
        return tensor.uniform_(-edge, edge).erfinv_().mul_(math.sqrt(2) * scale).clip_(-2 * scale, 2 * scale)


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last axis, no weight, computed in float32."""
    return F.rms_norm(x, x.shape[-1:], eps=eps)


class CastedLinear(nn.Module):
    """A linear layer whose float32 master weight is cast to the dtype of its input."""

    cast: Tensor | None = None
    """The weight so cast, while `HRM.cast_once` holds it for work without gradient."""

    def __init__(self, in_features: int, out_features: int, bias: bool = False):
        super().__init__()
        self.weight = nn.Parameter(trunc_normal_(torch.empty(out_features, in_features), in_features**-0.5))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        ready = None if torch.is_grad_enabled() else self.cast
        weight = self.weight.to(x.dtype) if ready is None else ready
        return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))


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


class UnitEmbedding(nn.Module):
    """Adds to each cell (B, S, D) the vectors of its row, its column and its box."""

    def __init__(self, width: int, side: int, box: tuple[int, int]):
        super().__init__()
        self.embedding_weight = nn.Parameter(trunc_normal_(torch.empty(3 * side, width), width**-0.5))
        row, column = (line.expand(side, side) for line in (torch.arange(side)[:, None], torch.arange(side)))
        of_box = row // box[0] * (side // box[1]) + column // box[1]
        units = torch.stack((row, side + column, 2 * side + of_box)).flatten(1)
        self.register_buffer("units", units, persistent=False)  # (3, S)

    def forward(self, cells: Tensor) -> Tensor:
        told = F.embedding(self.units, self.embedding_weight).sum(0)
        return 0.5 * (cells + told.to(cells.dtype))  # keeps the variance of the sum at that of a token


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


def glu_width(width: int, expansion: float, round_to: int) -> int:
    """Hidden width of a gated MLP that costs what a plain one of `expansion` would, rounded up."""
    return -(-round(expansion * width * 2 / 3) // round_to) * round_to


class SwiGLU(nn.Module):
    def __init__(self, width: int, expansion: float, round_to: int):
        super().__init__()
        inner = glu_width(width, expansion, round_to)
        self.gate_up_proj = CastedLinear(width, 2 * inner)
        self.down_proj = CastedLinear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        width, self.heads = config.hidden_size, config.num_heads
        self.qk_norm, self.eps = config.qk_norm, config.rms_norm_eps
        self.qkv_proj = CastedLinear(width, 3 * width)
        self.o_proj = CastedLinear(width, width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        q, k, v = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1)).unbind(2)  # each (B, P + S, heads, head_dim)
        if self.qk_norm:
            q, k = rms_norm(q, self.eps), rms_norm(k, self.eps)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        mixed = attended(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention over (B, heads, positions, head_dim).

    Torch's, but for training short sequences on a CPU, where its backward takes many times as long as the products it
    consists of (benchmarks/results.md, "Attention's backward").
    """
    if q.device.type == "cpu" and torch.is_grad_enabled() and q.shape[2] <= SHORT:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, positions, positions)
        return scores.softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class AttentionBlock(nn.Module):
    """Post-norm: x = norm(x + attention(x)); x = norm(x + mlp(x))."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.self_attn = Attention(config)
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

    def forward(self, x: Tensor, where: None) -> Tensor:
        columns = x.transpose(1, 2)  # (B, D, P + S)
        x = rms_norm(columns + self.mlp_t(columns), self.eps).transpose(1, 2)
        return rms_norm(x + self.mlp(x), self.eps)


class Bags(NamedTuple):
    """Rows to sum: `rows[starts[k]:starts[k + 1]]` for the k-th sum."""

    rows: Tensor
    starts: Tensor


class Standing(NamedTuple):
    """Which positions of a lattice compute: those of values that still stand. A state then is nothing (0) elsewhere.

    On the CPU a state is packed, (P, D) for the P standing positions, so that work shrinks as values are ruled out;
    elsewhere, where shapes must not depend on the data, it stays (B, N, D) and is masked.
    """

    mask: Tensor
    """(B, N) bool."""
    at: Tensor | None = None
    """(P,) which of the B · N positions stand; None, as what follows, where the state is masked."""
    members: Bags | None = None
    """Which of the P stand in each of the 4 B n² groups: the rows of all puzzles, their columns, cells and boxes."""
    groups: Bags | None = None
    """Which of these groups each of the P is in: four."""


def standing_positions(mask: Tensor, box: tuple[int, int]) -> Standing:
    """Of the lattice (B, N) bool, (value, row, column) of a Sudoku with such boxes."""
    if mask.device.type != "cpu" or torch.compiler.is_exporting():
        return Standing(mask)
    (height, width), n = box, box[0] * box[1]
    at = mask.flatten().nonzero()[:, 0]
    line, column = at // n, at % n  # line: (puzzle, value, row)
    plane, row = line // n, line % n  # plane: (puzzle, value)
    cell = (plane // n * n + row) * n + column
    kinds = (line, plane * n + column, cell, plane * n + row // height * height + column // width)
    many = len(mask) * n * n
    groups = torch.stack([kind + k * many for k, kind in enumerate(kinds)])  # (4, P)
    order = groups.flatten().argsort(stable=True)
    members = Bags(order % len(at), F.pad(groups.flatten().bincount(minlength=4 * many).cumsum(0), (1, 0)))
    return Standing(mask, at, members, Bags(groups.T.flatten(), torch.arange(0, 4 * len(at) + 1, 4)))


def packed(x: Tensor, where: Any) -> Tensor:
    """(B, N, D) as the blocks take it: as it is, masked, or its standing positions alone."""
    if not isinstance(where, Standing) or not x.shape[1]:
        return x
    return x * where.mask[..., None] if where.at is None else _Pack.apply(x.flatten(0, 1), where.at)


def unpacked(x: Tensor, where: Any) -> Tensor:
    """The inverse of `packed`, with 0 where no value stands."""
    if not isinstance(where, Standing) or where.at is None or x.dim() == 3:
        return x
    return _Unpack.apply(x, where.at, where.mask.numel()).unflatten(0, where.mask.shape)


# As indices are unique, each is the other's gradient; torch's own gradient of a gather adds up, an element at a time.


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor) -> Tensor:
        ctx.save_for_backward(at)
        ctx.count = len(x)
        return x[at]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _spread(gradient, *ctx.saved_tensors, ctx.count), None


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, at: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(at)
        return _spread(x, at, count)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.saved_tensors[0]], None, None


def summed(x: Tensor, there: Bags, back: Bags) -> Tensor:
    """The sums of rows of x (M, D) that `there` names; `back` names those that each row takes part in."""
    return _Summed.apply(x, *there, *back) if torch.is_grad_enabled() else _bags(x, *there)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, starts: Tensor, *back: Tensor) -> Tensor:
        ctx.save_for_backward(*back)
        return _bags(x, rows, starts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _bags(gradient.contiguous(), *ctx.saved_tensors), None, None, None, None


def _bags(x: Tensor, rows: Tensor, starts: Tensor) -> Tensor:
    return F.embedding_bag(rows, x, starts, mode="sum", include_last_offset=True)


def _spread(x: Tensor, at: Tensor, count: int) -> Tensor:
    return x.new_zeros(count, x.shape[1]).index_copy(0, at, x)


class GroupBlock(nn.Module):
    """One gated MLP over every (value, cell) of a lattice, which hears the means of the groups that the pair belongs to.

    The groups are the pair's row, column and box, each at one value, and its cell, over all values: x = norm(x + down(
    relu(g) * u)), (g, u) = W x + sum over groups of W_group mean_group(x). All weights are shared over values and cells,
    and rows and columns share theirs, so the block commutes with every symmetry of the puzzle (after deep sets, Zaheer et
    al. 2017, and digit-equivariant recursion). Positions where no value stands count as 0 in the means.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.box = config.box
        self.side = config.side
        width, inner = config.hidden_size, glu_width(config.hidden_size, config.expansion, config.mlp_round_to)
        self.own, self.line, self.box_, self.cell = (CastedLinear(width, 2 * inner) for _ in range(4))
        self.down_proj = CastedLinear(inner, width)

    def forward(self, x: Tensor, where: Standing | None) -> Tensor:
        n, (a, b) = self.side, self.box
        if x.dim() == 2:
            means = (summed(x, where.members, where.groups) / n).unflatten(0, (4, -1))  # (4, B n², D)
            told = self.line(means[:2].flatten(0, 1)), self.cell(means[2]), self.box_(means[3])
            heard = summed(torch.cat(told), where.groups, where.members)
        else:
            puzzles, _, width = x.shape
            grid = x.view(puzzles, n, n, n, width)  # (B, value, row, column, D)
            boxes = x.view(puzzles * n, n // a, a, n // b, b, width)
            row, column = self.line(grid.mean(3)), self.line(grid.mean(2))  # (B, value, row or column, 2M)
            cell, box = self.cell(grid.mean(1)), self.box_(boxes.mean(4).mean(2))
            heard = row[:, :, :, None] + column[:, :, None] + cell[:, None]
            heard = heard.view(puzzles * n, n // a, a, n // b, b, box.shape[-1]) + box[:, :, None, :, None]
            heard = packed(heard.view(puzzles, n**3, box.shape[-1]), where)
        gate, up = (self.own(x) + heard).chunk(2, -1)
        return rms_norm(x + self.down_proj(F.relu(gate) * up), self.eps)


class ConvBlock(nn.Module):
    """One gated MLP over every cell of a grid, which hears its four neighbours: x = norm(x + down(silu(g) * u)), where
    (g, u) is linear in the cell and its neighbours, each direction with weights of its own. Outside the grid is zero.

    What a cell does depends on its surroundings alone, so a rule learned on small grids holds on large ones; a block
    carries word one cell further.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.eps, self.side = config.rms_norm_eps, config.side
        width, inner = config.hidden_size, glu_width(config.hidden_size, config.expansion, config.mlp_round_to)
        self.gate_up_proj = CastedLinear(5 * width, 2 * inner)
        self.down_proj = CastedLinear(inner, width)

    def forward(self, x: Tensor, where: None) -> Tensor:
        n = self.side
        around = F.pad(x.view(-1, n, n, x.shape[-1]), (0, 0, 1, 1, 1, 1))  # (B, n + 2, n + 2, D)
        inside = slice(1, n + 1)
        near = (around[:, 2:, inside], around[:, inside, :n], around[:, inside, 2:], around[:, :n, inside])
        heard = torch.cat((x.view_as(near[0]), *near), -1)
        gate, up = self.gate_up_proj(heard).flatten(1, 2).chunk(2, -1)
        return rms_norm(x + self.down_proj(F.silu(gate) * up), self.eps)


BLOCKS = {"attention": AttentionBlock, "mlp": MixerBlock, "groups": GroupBlock, "conv": ConvBlock}


class ReasoningModule(nn.Module):
    """The stack of blocks behind one level; what the level is told is added to its state first.

    `where` is what its blocks know of positions: rotary tables, on a lattice `Standing`, or None.
    """

    def __init__(self, config: ModelConfig, layers: int, mixer: str):
        super().__init__()
        self.layers = nn.ModuleList(BLOCKS[mixer](config) for _ in range(layers))

    def forward(self, state: Tensor, told: Tensor, where: Any) -> Tensor:
        x = state + told
        for layer in self.layers:
            x = layer(x, where)
        return x


# How a state sees the grid. Each kind says how a position is embedded, and how the heads read positions. The grid comes
# as tokens (B, S), or as candidates (B, S, V) bool where those are the carry.


class CellView:
    """One position a cell, after the puzzle's prefix: the token is embedded, the head gives logits over the vocabulary.

    Q reads the first position, as the reference does.
    """

    def __init__(self, config: ModelConfig):
        self.prefix = config.prefix_len
        self.length = config.prefix_len + config.seq_len
        self.embeddings, self.outputs = config.vocab_size, config.vocab_size

    def embed(self, grid: Tensor, embedding: CastedEmbedding, dtype: torch.dtype) -> Tensor:
        if grid.dtype == torch.bool:
            return grid.to(dtype) @ embedding.embedding_weight.to(dtype)
        return embedding(grid, dtype)

    def logits(self, read: Tensor) -> Tensor:
        return read[:, self.prefix :]

    def summary(self, z_H: Tensor) -> Tensor:
        return z_H[:, 0]


class LatticeView:
    """One position for each value of each cell, (value, row, column): what is embedded is whether the cell is open, given
    this value, or given another (among candidates: stands, is the last to stand, or is ruled out); the head gives one
    logit.

    Values are the last `side` tokens of the vocabulary; the tokens before them (padding, blank) are never an answer.
    """

    def __init__(self, config: ModelConfig):
        self.values, self.first = config.side, config.vocab_size - config.side
        self.length = self.values * config.seq_len
        self.embeddings, self.outputs = 3, 1

    def embed(self, grid: Tensor, embedding: CastedEmbedding, dtype: torch.dtype) -> Tensor:
        if grid.dtype == torch.bool:
            stands = self.stands(grid)
            given, other = stands & (stands.sum(1, keepdim=True) == 1), ~stands
        else:
            value = torch.arange(self.values, device=grid.device) + self.first
            given = grid[:, None] == value[:, None]
            other = (grid[:, None] >= self.first) & ~given
        return embedding((given + 2 * other).flatten(1), dtype)

    def stands(self, candidates: Tensor) -> Tensor:
        """(B, values, S) bool, in the order of positions."""
        return candidates[..., self.first :].transpose(1, 2)

    def logits(self, read: Tensor) -> Tensor:
        return F.pad(read.unflatten(1, (self.values, -1))[..., 0].transpose(1, 2), (self.first, 0), value=RULED_OUT)
