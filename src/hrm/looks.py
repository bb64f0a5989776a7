"""Ways to look at a puzzle again, and to choose among the answers, without its label and without its rules."""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .model import HRM, State
from .sampling import stream_seed
from .tasks.symmetry import Symmetry

LOOK = 21  # stream of random numbers apart from the trainer's and the sampler's


class Look:
    """How one pass sees every puzzle. Pass 0 is the plain one: fixed initial state, the puzzle as it stands, no noise.

    Any other takes a random symmetry of the puzzle, a random initial state where the model was trained with such, and
    normal noise on the state before each segment. All of it depends on (seed, number, segment) alone, so that a puzzle
    gets the same answer whoever else is asked about.
    """

    def __init__(self, number: int, model: HRM, task: Any, *, noise: float, seed: int):
        self.device = model.H_init.device
        self.number, self.seed = number, seed
        self.deviation = noise if number else 0.0
        generator = self._generator(0)
        random_start = number and model.config.initial_state == "random"
        self.start = model.initial_state(1, generator if random_start else None)
        if number:
            self.symmetry = task.draw_symmetry(1, generator)
        else:
            sizes = model.config.seq_len, model.config.vocab_size
            self.symmetry = Symmetry(*(torch.arange(size, device=self.device)[None] for size in sizes))
        self.back = self.symmetry.inverse()

    def _generator(self, segment: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(stream_seed(self.seed, LOOK, self.number, segment))

    def noise(self, segment: int) -> tuple[Tensor, ...]:
        """What joins the states of a puzzle, (N, D) each, before its segment of that number, from 0."""
        generator = self._generator(1 + segment)
        return tuple(
            self.deviation * torch.randn(z.shape[1:], generator=generator, device=self.device) for z in self.start
        )


def states_of(state: State, place: int) -> tuple[np.ndarray, ...]:
    """The states of one of the puzzles that run at once, (N, D) float32 each, for a thought to hold."""
    return tuple(z[place].float().cpu().numpy() for z in state)


def votes(tokens: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of k answers to each of N puzzles, tokens (k, N, S) and weights (k, N), the total weight behind each, (k, N)."""
    worth = np.zeros_like(weights)
    for row in range(tokens.shape[1]):
        behind: dict[bytes, float] = defaultdict(float)
        keys = [answer.tobytes() for answer in tokens[:, row]]
        for key, weight in zip(keys, weights[:, row], strict=True):
            behind[key] += float(weight)
        worth[:, row] = [behind[key] for key in keys]
    return worth
