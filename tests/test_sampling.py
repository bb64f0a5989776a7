"""Batches: a pure function of seed, number and rank, over whole groups."""

import numpy as np
import pytest
import torch

from hrm.data import Metadata, finished_split, load_split
from hrm.sampling import DeviceSampler, stream_seed
from hrm.tasks.sudoku import Sudoku


def many_examples(groups: int = 5, puzzles: int = 3, examples: int = 2):
    """A set whose tokens say which group, puzzle and example they are."""
    count = groups * puzzles * examples
    where = np.indices((groups, puzzles, examples)).reshape(3, -1).T.astype(np.uint8)
    return finished_split(
        {
            "inputs": where,
            "labels": where.copy(),
            "puzzle_identifiers": np.arange(groups * puzzles, dtype=np.int32),
            "puzzle_indices": np.arange(0, count + 1, examples, dtype=np.int32),
            "group_indices": np.arange(0, groups * puzzles + 1, puzzles, dtype=np.int32),
        },
        Metadata(
            pad_id=0,
            ignore_label_id=0,
            blank_identifier_id=0,
            vocab_size=20,
            seq_len=3,
            num_puzzle_identifiers=groups * puzzles,
            total_groups=groups,
            mean_puzzle_examples=examples,
            sets=["all"],
        ),
    )


def equal(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def test_a_batch_is_a_pure_function_of_seed_number_and_rank():
    split = load_split("sudoku-6x6-1k", "train")
    augment = Sudoku(2, 3).augment

    def make(seed=0, rank=0):
        return DeviceSampler(split, batch_size=16, seed=seed, rank=rank, world_size=2, augment=augment)

    one, other = make(), make()
    forward = [one.batch(k) for k in range(70)]  # over two epochs
    for k in (69, 3, 40, 0, 3):
        assert equal(other.batch(k), forward[k])
    assert not equal(forward[0], forward[1]) and not equal(make(seed=1).batch(0), forward[0])
    assert not equal(make(rank=1).batch(0), forward[0])
    assert forward[0]["inputs"].dtype == forward[0]["labels"].dtype == torch.int32


def test_ranks_share_out_the_batch_of_one_process():
    split = load_split("sudoku-6x6-1k", "train")
    whole = DeviceSampler(split, batch_size=12, seed=4)
    ranks = [DeviceSampler(split, batch_size=4, seed=4, rank=r, world_size=3) for r in range(3)]
    for k in (0, 5, 83, 84, 200):  # 83 crosses an epoch
        together = [s.batch(k) for s in ranks]
        for key, value in whole.batch(k).items():
            assert torch.equal(value, torch.cat([part[key] for part in together]))


def test_an_epoch_visits_each_group_once_with_all_examples_of_one_puzzle():
    split = many_examples()
    sampler = DeviceSampler(split, batch_size=10, seed=0)
    picked = set()
    for epoch in range(30):
        rows = sampler.batch(epoch)["inputs"]
        assert sorted(rows[:, 0].tolist()) == sorted(list(range(5)) * 2)
        for pair in rows.view(5, 2, 3):
            assert pair[0, :2].tolist() == pair[1, :2].tolist() and {int(pair[0, 2]), int(pair[1, 2])} == {0, 1}
        ids = sampler.batch(epoch)["puzzle_identifiers"]
        assert ids.tolist() == (rows[:, 0] * 3 + rows[:, 1]).tolist()
        picked |= set(ids.tolist())
    assert picked == set(range(15))


def test_labels_without_an_answer_become_minus_100():
    batch = DeviceSampler(many_examples(), batch_size=10, seed=0).batch(0)
    assert ((batch["labels"] == -100) == (batch["inputs"] == 0)).all()


def test_groups_of_unequal_puzzles_are_refused():
    split = many_examples(groups=2, puzzles=2, examples=2)
    uneven = split.puzzle_indices.copy()
    uneven[1] = 1
    with pytest.raises(ValueError, match="different numbers of examples"):
        DeviceSampler(type(split)(**{**split.__dict__, "puzzle_indices": uneven}), batch_size=2, seed=0)


def test_stream_seeds_are_stable_and_spread():
    assert stream_seed(0, 1, 2) == stream_seed(0, 1, 2) and stream_seed(0) != stream_seed(0, 0)
    seeds = {stream_seed(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000 and all(0 <= s < 2**63 for s in seeds)
    ones = np.mean([bin(s).count("1") for s in seeds])
    assert 31 < ones < 32
