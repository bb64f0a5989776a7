"""Forward and backward of torch's attention and of the plain products it consists of, by number of positions, on the CPU.

    python benchmarks/attention.py [--positions 81 97 …] [--batch 16] [--heads 8] [--width 64] [--rounds 15]

Which of the two the model trains with is decided by `SHORT` (hrm/layers.py). Best of the rounds, turn by turn, in the
machine's dtype.
"""

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hrm.bench import processor
from hrm.model import machine_dtype


def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1) @ v


def both_ways(attention: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> tuple[float, float]:
    """Seconds forward and backward."""
    inputs = [x.clone().transpose(1, 2).requires_grad_() for x in (q, k, v)]  # as the model lays them out
    started = time.perf_counter()
    mixed = attention(*inputs)
    middle = time.perf_counter()
    mixed.backward(torch.ones_like(mixed))
    return middle - started, time.perf_counter() - middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, nargs="+", default=[36, 81, 97, 256, 512, 916])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    dtype = getattr(torch, machine_dtype("cpu"))
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {dtype}\n")
    print("| positions | torch's: forward, backward (ms) | products: forward, backward (ms) | both ways, ratio |")
    print("| --- | --- | --- | --- |")
    for positions in asked.positions:
        rows = [torch.randn(asked.batch, positions, asked.heads, asked.width, dtype=dtype) for _ in range(3)]
        times: dict[Callable[..., Tensor], list[tuple[float, float]]] = {
            F.scaled_dot_product_attention: [],
            products: [],
        }
        for _ in range(asked.rounds):
            for attention, seconds in times.items():
                seconds.append(both_ways(attention, *rows))
        torchs, plain = ([1e3 * min(way) for way in zip(*seconds, strict=True)] for seconds in times.values())
        print(
            f"| {positions} | {torchs[0]:.1f}, {torchs[1]:.1f} | {plain[0]:.1f}, {plain[1]:.1f} | "
            f"{sum(torchs) / sum(plain):.1f} |"
        )


if __name__ == "__main__":
    main()
