"""Optimizers and learning-rate schedules. AdamW, the running mean of weights (EMA) and most of Muon come from torch.

AdamATan2 here is the update of the reference's CUDA extension, which is not that of the package adam-atan2-pytorch:
the first bias correction stands outside the arctangent and there are no constants a and b.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .config import Recipe
from .model import HRM, machine_dtype


class AdamATan2(torch.optim.Optimizer):
    """Adam without epsilon: p <- p (1 - lr wd) - lr / (1 - b1^t) * atan2(m, sqrt(v / (1 - b2^t))).

    m and v are the running means of the gradient and its square, in the parameter's dtype (float32).
    Source: the adam-atan2 kernel that sapientinc/HRM trains with (notes of its README; paper section 2, optimizer).
    """

    def __init__(
        self,
        params,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        compiled: bool = False,
    ):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))
        self._update = torch.compile(atan2_update, dynamic=False) if compiled else atan2_update

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            live = [p for p in group["params"] if p.grad is not None]
            if not live:
                continue
            for p in live:
                if not self.state[p]:
                    self.state[p] = {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                self.state[p]["step"] += 1
            states = [self.state[p] for p in live]
            t, lr, (beta1, beta2) = states[0]["step"], group["lr"], group["betas"]
            # tensors, for a number that changes would be compiled anew at every step; filled, for a copy to a GPU waits
            factors = 1 - lr * group["weight_decay"], lr / (1 - beta1**t), math.sqrt(1 - beta2**t)
            kept, rate, root = (torch.full((), factor, device=live[0].device) for factor in factors)
            self._update(
                live,
                [p.grad for p in live],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                beta1,
                beta2,
                kept,
                rate,
                root,
            )


def atan2_update(
    params: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    beta1: float,
    beta2: float,
    kept: Tensor,
    rate: Tensor,
    root: Tensor,
) -> None:
    """One step of AdamATan2 in place: kept = 1 - lr wd, rate = lr / (1 - b1^t), root = sqrt(1 - b2^t).

    Compiled, it reads and writes each number once; eagerly, an operation at a time.
    """
    for p, grad, mean, square in zip(params, grads, means, squares, strict=True):
        mean.lerp_(grad, 1 - beta1)
        square.lerp_(grad * grad, 1 - beta2)
        p.mul_(kept).sub_(torch.atan2(mean, square.sqrt() / root) * rate)


class Muon(torch.optim.Muon):
    """torch's Muon with match_rms_adamw, its matrices orthogonalized in the machine's dtype, those of one shape together.

    torch does it in bfloat16 everywhere, which a CPU without bf16 products emulates (benchmarks/results.md, "Standing
    positions and Muon").
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            live, grads, buffers = [], [], []
            self._init_group(group, live, grads, buffers)
            if not live:
                continue
            torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
            torch._foreach_mul_(live, 1 - group["lr"] * group["weight_decay"])
            updates = torch._foreach_lerp(grads, buffers, group["momentum"])
            alike: dict[torch.Size, list[int]] = {}
            for k, p in enumerate(live):
                alike.setdefault(p.shape, []).append(k)
            for shape, members in alike.items():
                steps = orthogonalized(torch.stack([updates[k] for k in members]), group)
                for k, step in zip(members, steps, strict=True):
                    live[k].add_(step, alpha=-0.2 * math.sqrt(max(shape)) * group["lr"])


def orthogonalized(matrices: Tensor, group: dict[str, Any]) -> Tensor:
    """Newton-Schulz on (K, rows, columns): singular values to about 1, as torch.optim.Muon's `group` sets it."""
    a, b, c = group["ns_coefficients"]
    x = matrices.to(getattr(torch, machine_dtype(matrices.device.type)))
    if x.shape[1] > x.shape[2]:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


class SparseSignSGD(torch.optim.Optimizer):
    """Sign-SGD on the rows of the puzzle table that a batch looked up: w <- w (1 - lr wd) - lr sign(sum of gradients).

    Only looked-up rows change or decay. No host synchronisation: duplicates of an identifier compute the same new row
    and write it twice (reference: models/sparse_embedding.py, which calls `unique`).
    """

    def __init__(self, table: Tensor, lr: float, weight_decay: float):
        super().__init__([table], dict(lr=lr, weight_decay=weight_decay))
        self.table = table

    @torch.no_grad()
    def step_rows(self, identifiers: Tensor, grads: Tensor) -> None:
        """`identifiers` (B,) and `grads` (B, width) of the rows looked up, over all processes."""
        group = self.param_groups[0]
        ids, order = identifiers.sort(stable=True)
        run = torch.cat((ids.new_zeros(1), (ids[1:] != ids[:-1]).to(ids.dtype).cumsum(0, dtype=ids.dtype)))
        total = torch.zeros_like(grads).index_add_(0, run, grads[order])[run]  # (B, width): equal ids, equal sums
        rows = self.table[ids] * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * total.sign()
        self.table[ids] = rows


def lr_scale(
    step: int, *, total: int, warmup: int, schedule: str, min_ratio: float = 1.0, decay_share: float = 0.4
) -> float:
    """Factor on the base rate at optimizer step `step`, counted from 1.

    Warm-up is linear, step / warmup. Then constant; or cosine down to min_ratio (the reference's); or linear_decay:
    constant, then a line to min_ratio over the last `decay_share` of the run.
    """
    if step < warmup:
        return step / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "cosine":
        progress = (step - warmup) / max(1, total - warmup)
        return min_ratio + max(0.0, (1 - min_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))
    if schedule == "linear_decay":
        left = (total - step) / max(1, total * decay_share)
        return min_ratio + (1 - min_ratio) * min(1.0, max(0.0, left))
    raise ValueError(f"no schedule '{schedule}'")


def build_optimizers(model: HRM, recipe: Recipe, compiled: bool = False) -> list[tuple[torch.optim.Optimizer, float]]:
    """The recipe's optimizers for `model.parameters()`, each with its base learning rate; `compiled` speeds AdamATan2 up.

    adam_atan2 and adamw decay everything, embeddings and the Q bias too, as the reference does. muon takes the matrices
    of the reasoning modules; embeddings and heads, whose rows have a meaning of their own, stay with AdamW.
    """
    betas, decay = (recipe.beta1, recipe.beta2), recipe.weight_decay
    everything = list(model.parameters())
    if recipe.optimizer == "adam_atan2":
        return [(AdamATan2(everything, recipe.lr, betas, decay, compiled=compiled), recipe.lr)]
    if recipe.optimizer == "adamw":
        return [(adamw(everything, recipe.lr, betas, decay), recipe.lr)]
    matrices = [p for name, p in model.named_parameters() if "_level." in name and p.ndim == 2]
    taken = {id(p) for p in matrices}
    rest = [p for p in everything if id(p) not in taken]
    muon = Muon(matrices, lr=recipe.muon_lr, momentum=recipe.muon_momentum, weight_decay=decay)
    return [(muon, recipe.muon_lr), (adamw(rest, recipe.lr, betas, decay), recipe.lr)]


def adamw(params: list[nn.Parameter], lr: float, betas: tuple[float, float], decay: float) -> torch.optim.AdamW:
    # fused is the fast form on the CPU too: 7 times foreach there, measured in the library notes
    return torch.optim.AdamW(params, lr=lr, betas=betas, weight_decay=decay, fused=params[0].device.type != "mps")


SHARED = "puzzle_emb.weights"
"""The tensor that a running mean has in common with its model."""


class RunningMean(AveragedModel):
    """Torch's EMA of the weights, started at the initial ones and not debiased (TRM: models/ema.py), as `module`.

    With `warmup` the decay of update n is at most n / (n + 10), so that the initial weights are soon forgotten. Torch's
    own update waits for a GPU to bring the count there, and with `warmup` back.
    """

    def __init__(self, model: HRM, decay: float, warmup: bool = False):
        super().__init__(model)
        self.decay, self.warmup = decay, warmup
        self.module.puzzle_emb.weights = model.puzzle_emb.weights  # one table, for it is large
        self.update_parameters(model)

    @torch.no_grad()
    def update_parameters(self, model: HRM) -> None:
        n = int(self.n_averaged)
        decay = min(self.decay, n / (n + 10)) if self.warmup or n == 0 else self.decay
        mean, current = ([p.detach() for p in side.parameters()] for side in (self.module, model))
        torch._foreach_lerp_(mean, current, 1 - decay)
        self.n_averaged += 1
