"""What several test files share: a tiny model and tiny data sets."""

import gzip
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hrm.cli import app
from hrm.config import ModelConfig
from hrm.data import FIELDS, load_split
from hrm.tasks.sudoku import Sudoku

FIXTURES = Path(__file__).parent / "fixtures"
PARITY = sorted((FIXTURES / "parity").glob("*.safetensors"))


@pytest.fixture(autouse=True)
def _one_thread_and_a_seed():
    torch.set_num_threads(1)  # tiny tensors: threads cost more than they give
    torch.manual_seed(0)


def tiny(**changes) -> ModelConfig:
    """A small HRM in float32; `changes` over it."""
    values = dict(
        vocab_size=6,
        seq_len=16,
        num_puzzle_identifiers=3,
        hidden_size=16,
        num_heads=2,
        expansion=2.0,
        mlp_round_to=8,
        H_layers=1,
        L_layers=1,
        halt_max_steps=4,
        puzzle_emb_ndim=16,
        forward_dtype="float32",
    )
    return ModelConfig(**{**values, **changes})


TRM = dict(levels="shared", H_layers=0, H_cycles=3, gradient="last_cycle", halting="halt_only", puzzle_emb_len=4)


def benchmark(name: str) -> ModuleType:
    """The program benchmarks/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "benchmarks" / f"{name}.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


def refusal(*arguments: object) -> str:
    """The line with which the command line refuses its arguments (`main` prints it and leaves with exit code 2)."""
    mistake = CliRunner().invoke(app, list(map(str, arguments))).exception
    assert isinstance(mistake, ValueError) and "\n" not in str(mistake), repr(mistake)
    return str(mistake)


def batch_for(config: ModelConfig, rows: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random inputs and labels for a model."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, generator=generator, dtype=torch.int32)

    labels = draw(config.vocab_size, rows, config.seq_len)
    labels[:, 0] = -100
    return {
        "inputs": draw(config.vocab_size, rows, config.seq_len),
        "labels": labels,
        "puzzle_identifiers": draw(config.num_puzzle_identifiers, rows),
    }


def csv_of(path: Path, count: int, split: str = "train", start: int = 0) -> Path:
    """A CSV of rows of the package's own set."""
    task, source = Sudoku(), load_split("sudoku-hard-1k", split)
    rows = [
        f"mine,{task.format(task.decode(q))},{task.format(task.decode(a))},{r}"
        for q, a, r in zip(source.inputs, source.labels, source.ratings, strict=True)
    ][start : start + count]
    text = "source,question,answer,rating\n" + "\n".join(rows) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read_as_the_references_do(folder: Path, split: str, required: list[str]) -> list[dict]:
    """An independent reader of the layout: groups of puzzles of examples (both references' puzzle_dataset.py)."""
    meta = json.loads((folder / split / "dataset.json").read_text())
    assert all(key in meta for key in required)
    arrays = {field: np.load(folder / split / f"all__{field}.npy") for field in FIELDS}
    groups = []
    for g in range(meta["total_groups"]):
        puzzles = range(arrays["group_indices"][g], arrays["group_indices"][g + 1])
        groups.append(
            [
                [
                    (arrays["inputs"][e], arrays["labels"][e], arrays["puzzle_identifiers"][p])
                    for e in range(arrays["puzzle_indices"][p], arrays["puzzle_indices"][p + 1])
                ]
                for p in puzzles
            ]
        )
    assert sum(len(group) for group in groups) == len(arrays["puzzle_identifiers"])
    return groups


HRM_FIELDS = ["pad_id", "ignore_label_id", "blank_identifier_id", "vocab_size", "seq_len", "num_puzzle_identifiers"]
HRM_FIELDS += ["total_groups", "mean_puzzle_examples", "sets"]
