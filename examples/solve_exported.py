"""Solve a Sudoku with an exported segment: numpy and onnxruntime or torch, nothing of this package.

    hrm export sudoku exported/                  # or --format torch
    python examples/solve_exported.py exported/ 53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79

A latent carry runs until its answer is the same twice and Q agrees. Candidates are ruled out and, where nothing
falls, assumed, in one pass that never goes back (hrm.Reasoner does, and is the one to use where it can be had).
"""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np

BLANK, FIRST = 1, 2  # tokens: 0 is padding, 1 a blank, digit d is d + 1


def main() -> None:
    folder, puzzle = Path(sys.argv[1]), sys.argv[2]
    about = json.loads((folder / "segment.json").read_text())
    if about["task"] != "sudoku":
        sys.exit(f"{folder}: {about['task']}; this example runs an exported Sudoku")
    run = partial(segment, loaded(folder / about["program"], about["inputs"]), about)
    digits = [0 if c in ".0" else int(c) for c in puzzle]
    tokens = np.array([d + 1 for d in digits], np.int32)[None]  # (1, S)
    solve = deduce if "candidates" in about["inputs"] else latent
    answer, segments, belief = solve(run, about, tokens, folder)
    print("".join(str(t - 1) for t in answer))
    print(f"{segments} segments, confidence {belief:.3f}", file=sys.stderr)


def loaded(program, inputs):
    """The program as a function of its named inputs, numpy in and out."""
    if program.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(program), providers=["CPUExecutionProvider"])
        return partial(session.run, None)
    import torch

    module = torch.export.load(program).module()

    def run(given):
        with torch.inference_mode():
            return [said.numpy() for said in module(*(torch.from_numpy(given[name]) for name in inputs))]

    return run


def segment(program, about, given):
    """What the program says, by name; "state" is what the next segment is given of it."""
    unnamed = {"puzzle_identifiers": np.zeros(1, np.int32)} if "puzzle_identifiers" in about["inputs"] else {}
    said = dict(zip(about["outputs"], program(given | unnamed), strict=True))
    return said | {"state": {name: said[f"next_{name}"] for name in ("z_H", "z_L") if name in given}}


def latent(run, about, tokens, folder):
    state, previous = initial_state(folder), None
    for number in range(1, about["max_segments"] + 1):
        said = run(state | {"tokens": tokens})
        state, answer, q = said["state"], said["logits"][0].argmax(-1), said["q_halt"][0]
        wants = q > said["q_continue"][0] if "q_continue" in said else q > 0
        if wants and previous is not None and (answer == previous).all():
            break
        previous = answer
    return answer, number, sigmoid(q)


def initial_state(folder):
    kept = np.load(folder / "initial.npz")
    return {name: kept[name][None] for name in ("z_H", "z_L")}


def deduce(run, about, tokens, folder):
    state, still = initial_state(folder) if "z_H" in about["inputs"] else {}, 0
    values = np.arange(about["vocabulary"])
    candidates = np.where(tokens[..., None] == BLANK, values >= FIRST, values == tokens[..., None])  # (1, S, V)
    for number in range(1, about["max_segments"] + 1):
        said = run(state | {"candidates": candidates})
        state, logits = said["state"], said["logits"]
        chances = np.exp(logits - logits.max(-1, keepdims=True))
        chances /= chances.sum(-1, keepdims=True)
        best = chances.max(-1, keepdims=True)
        after = candidates & ((chances >= about["rule_out_below"]) | (chances == best))
        open_ = after.sum(-1) > 1
        still = (still + 1) * bool((after == candidates).all())
        if still and not open_.any():
            break
        if still >= about["patience"]:
            still = 0
            cell = np.where(open_, best[..., 0], -1)[0].argmax()
            after[0, cell] = values == chances[0, cell].argmax()
        candidates = after
    return chances[0].argmax(-1), number, sigmoid(said["q_halt"][0])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


if __name__ == "__main__":
    main()
