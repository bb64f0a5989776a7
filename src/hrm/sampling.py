"""Batches drawn on the device, and the streams of random numbers that everything seeded here comes from."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .data import Split

if TYPE_CHECKING:
    import torch

EPOCH, AUGMENTATION, TABLE, VARIANTS, BEYOND, HARDER = 1, 2, 3, 4, 5, 6  # streams of random numbers


def stream_seed(*parts: int) -> int:
    """A 63-bit seed mixed from integers (splitmix64's finaliser, chained): near parts give unrelated seeds."""
    mask = (1 << 64) - 1
    state = 0x9E3779B97F4A7C15
    for part in parts:
        state = (state + (part & mask) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1


class DeviceSampler:
    """Batches drawn and augmented on the device; batch k is a pure function of (seed, k, rank).

    An epoch visits the groups in random order, takes one random puzzle of each and all its examples in random order
    (the reference's puzzle_dataset.py); epochs follow one another, and global batch k is the k-th slice of them. All
    puzzles of a group must have equally many examples, as in every set the references build. Where a table holds what
    the references write out as puzzles, a visit takes one random row of it, and so one identifier.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: str = "cpu",
        augment: "Callable | None" = None,
    ):
        import torch

        sizes = np.diff(split.puzzle_indices)
        firsts = sizes[split.group_indices[:-1]]
        if (np.repeat(firsts, np.diff(split.group_indices)) != sizes).any():
            raise ValueError(
                "data set: a group has puzzles with different numbers of examples; rebuild it with equal ones"
            )
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.augment, self.device = augment, device
        self.examples_per_epoch = int(firsts.sum())

        def put(array: np.ndarray) -> "torch.Tensor":
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.inputs, self.labels = put(split.inputs), put(split.labels)
        self.ignore = split.metadata.ignore_label_id
        self.identifiers = put(split.puzzle_identifiers)
        self.puzzle_starts = put(split.puzzle_indices[:-1].astype(np.int64))
        self.group_starts = put(split.group_indices[:-1].astype(np.int64))
        self.group_widths = put(np.diff(split.group_indices).astype(np.int64))
        self.group_sizes = put(firsts.astype(np.int64))  # examples that a visit to the group yields
        self.table = None if split.table is None else put(split.table)
        if self.table is not None:
            self.table_starts = put(split.table_indices[:-1].astype(np.int64))
            self.table_widths = put(np.diff(split.table_indices).astype(np.int64))
        self.epochs: dict[int, tuple[torch.Tensor, ...]] = {}

    def batch(self, k: int) -> "dict[str, torch.Tensor]":
        """Batch k of this rank: inputs and labels (b, S) and puzzle_identifiers (b,), int32; ignored labels are -100."""
        import torch

        from .losses import IGNORE

        start = (k * self.world_size + self.rank) * self.batch_size
        pieces = []
        while start < (k * self.world_size + self.rank + 1) * self.batch_size:
            epoch, offset = divmod(start, self.examples_per_epoch)
            stop = min(
                self.examples_per_epoch, offset + (k * self.world_size + self.rank + 1) * self.batch_size - start
            )
            pieces.append([column[offset:stop] for column in self._epoch(epoch)])
            start += stop - offset
        rows, puzzles, picks, stays = (torch.cat(column) for column in zip(*pieces, strict=True))
        inputs, labels = self.inputs[rows].to(torch.int32), self.labels[rows].to(torch.int32)
        identifiers = self.identifiers[puzzles]
        if self.table is not None:
            chosen = (picks * self.table_widths[puzzles]).long()
            inputs, labels = self._varied(k, self.table[self.table_starts[puzzles] + chosen], stays, inputs, labels)
            identifiers = identifiers + chosen.to(identifiers.dtype)
        if self.ignore is not None:
            labels = labels.masked_fill(labels == self.ignore, IGNORE)
        if self.augment:
            generator = torch.Generator(self.device)
            generator.manual_seed(stream_seed(self.seed, AUGMENTATION, k, self.rank))
            inputs, labels = self.augment(inputs, labels, generator)
        return {"inputs": inputs, "labels": labels, "puzzle_identifiers": identifiers}

    def _varied(self, k: int, variants: Any, stays: Any, inputs: Any, labels: Any) -> tuple[Any, Any]:
        """Each example under its row (b, 11) of the table and, but for those that stay, anywhere on the canvas."""
        import torch

        from .tasks.arc import canvases, extent

        generator = torch.Generator(self.device).manual_seed(stream_seed(self.seed, TABLE, k, self.rank))
        draw = torch.rand((len(inputs), 2), generator=generator, device=self.device)
        room = math.isqrt(inputs.shape[1]) - torch.maximum(extent(inputs, variants), extent(labels, variants))  # (b, 2)
        corner = (draw * (room + 1)).long() * ~stays[:, None]
        return canvases(inputs, variants, corner), canvases(labels, variants, corner)

    def _epoch(self, epoch: int) -> "tuple[torch.Tensor, ...]":
        """Of every example of an epoch, in its order: row, puzzle, the visit's draw from [0, 1) (of the group's puzzle, or of the
        table's row), and whether it is the visit's first, which is not moved. The last few epochs are kept."""
        import torch

        if epoch not in self.epochs:
            generator = torch.Generator(self.device)
            generator.manual_seed(stream_seed(self.seed, EPOCH, epoch))
            groups = len(self.group_starts)
            order = torch.randperm(groups, generator=generator, device=self.device)
            pick = torch.rand(groups, generator=generator, device=self.device)
            shuffle = torch.rand(self.examples_per_epoch, generator=generator, device=self.device)
            puzzles = (self.group_starts + (pick * self.group_widths).long().clamp(max=self.group_widths - 1))[order]
            sizes = self.group_sizes[order]
            spread = {"output_size": self.examples_per_epoch}  # else it is read back from the device
            visit = torch.repeat_interleave(torch.arange(groups, device=self.device), sizes, **spread)
            # sort by visit, then at random inside it: examples of a puzzle stay together, shuffled
            shuffled = shuffle.argsort()
            ranks = shuffled[visit[shuffled].argsort(stable=True)]
            starts = sizes.cumsum(0) - sizes
            within = ranks - torch.repeat_interleave(starts, sizes, **spread)
            first = torch.zeros_like(shuffle, dtype=torch.bool)
            first.index_fill_(0, starts, True)  # a plain assignment would wait for the device
            puzzle = puzzles[visit]
            for old in [e for e in self.epochs if abs(e - epoch) > 4]:
                del self.epochs[old]
            self.epochs[epoch] = (self.puzzle_starts[puzzle] + within, puzzle, pick[order][visit], first)
        return self.epochs[epoch]
