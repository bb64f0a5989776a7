"""One step of deep supervision: refill the carry, run a segment, decide who halts, take the loss.

`supervised_segment` carries latent states (the trainer and the parity check call it), `supervised_deduction` candidates;
nothing else knows how the parts fit together.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .candidates import is_open, stands, training_leaves, training_move, training_starts
from .halting import Batch, Carry, exploration_floor, halt_mask, q_continue_target, refill, wants_to_halt
from .losses import Constraints, deduction_loss, segment_loss
from .model import HRM, Output, State


class Supervised(NamedTuple):
    """What a training segment leaves behind."""

    carry: Carry
    out: Output
    loss: Tensor
    """Summed over the batch, with graph."""
    sums: dict[str, Tensor]
    puzzle_rows: Tensor
    """(B, puzzle_emb_ndim), the leaf whose gradient belongs to `carry.data["puzzle_identifiers"]`."""


def training_state(model: HRM, batch: Batch, generator: torch.Generator) -> State:
    """What the new puzzles of a batch start from."""
    return model.initial_state(len(batch["inputs"]), generator if model.config.initial_state == "random" else None)


def supervised_segment(
    model: HRM,
    carry: Carry,
    batch: Batch,
    generator: torch.Generator,
    *,
    loss_type: str,
    q_loss_weight: float,
    constraints: Constraints | None = None,
    feedback_noise: float = 0.0,
    H_cycles: int | None = None,
) -> Supervised:
    """Run one segment of training (paper section 2, deep supervision and ACT; reference: hrm_act_v1.py, forward).

    `feedback_noise`: with feedback, the largest share of a row's cells that are told wrong. `generator` draws this, the
    exploration and random initial states. The new carry is detached.
    """
    config = model.config
    carry = refill(carry, batch, training_state(model, batch, generator))
    data = carry.data
    rows = model.puzzle_rows(data["puzzle_identifiers"]).requires_grad_()
    told = None
    if config.feedback:
        told = corrupted(model.decoded(carry.state), feedback_noise, config.vocab_size, generator)
    with model.cast_once():  # all but the last updates, and the target, are without gradient
        state, out = model(carry.state, data["inputs"], rows, H_cycles, told)
        state = tuple(z.detach() for z in state)
        steps = carry.steps + 1
        target = None
        with torch.no_grad():
            wants = floor = torch.zeros_like(carry.halted)
            if config.halting != "fixed" and config.halt_max_steps > 1:
                wants = wants_to_halt(out, config.halting)
                floor = exploration_floor(
                    steps,
                    max_steps=config.halt_max_steps,
                    probability=config.halt_exploration_prob,
                    generator=generator,
                )
                if config.halting == "q_learning":
                    following = model(state, data["inputs"], rows, H_cycles)[1]
                    target = q_continue_target(following, steps, max_steps=config.halt_max_steps)
            halted = halt_mask(steps, wants, floor, max_steps=config.halt_max_steps)
    loss, sums = segment_loss(
        out,
        data["labels"],
        halted=halted,
        steps=steps,
        cross_entropy=loss_type,
        halting=config.halting,
        target_q_continue=target,
        q_loss_weight=q_loss_weight,
        constraints=constraints,
    )
    return Supervised(Carry(state, steps, halted, data), out, loss, sums, rows)


def corrupted(answers: Tensor, most: float, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Answers (B, S) with random tokens in their cells, in each row by a chance of its own, at most `most`."""
    device = answers.device
    chance = most * torch.rand((len(answers), 1), generator=generator, device=device)
    wrong = torch.rand(answers.shape, generator=generator, device=device) < chance
    return torch.where(wrong, torch.randint(vocab_size, answers.shape, generator=generator, device=device), answers)


def supervised_deduction(
    model: HRM,
    carry: Carry,
    batch: Batch,
    generator: torch.Generator,
    task: Any,
    *,
    q_loss_weight: float,
    hints: float,
    wrong: float,
    constraints: Constraints | None = None,
    H_cycles: int | None = None,
) -> Supervised:
    """Run one segment of training with candidates for a carry: grade every cycle, then move on by the model's own word.

    `hints`, `wrong`: shares of the new rows that start with true cells or a wrong one. `generator` draws these starts and
    what the moves assume.
    """
    config = model.config
    fresh = training_state(model, batch, generator)
    kept = fresh if config.latent else ()
    carry = refill(carry, batch, (training_starts(task, batch, generator, hints, wrong), *kept))
    data, (candidates, *state) = carry.data, carry.state
    rows = model.puzzle_rows(data["puzzle_identifiers"]).requires_grad_()
    states = list(model.cycles(tuple(state) or fresh, candidates, rows, H_cycles))
    outs = [model.read(state, candidates) for state in states]
    steps = carry.steps + 1
    with torch.no_grad():
        standing = stands(candidates, data["labels"])
        chances = outs[-1].logits.softmax(-1).nan_to_num(0)  # a step that broke down is found at the next reading
        after = training_move(candidates, chances, config.rule_out_below, generator, patient=config.latent)
        halted = training_leaves(candidates, after, standing, outs[-1].q_halt, generator)
        halted |= steps >= config.halt_max_steps
    loss, sums = deduction_loss(
        outs,
        data["labels"],
        open_cells=is_open(candidates),
        standing=standing,
        halted=halted,
        steps=steps,
        q_loss_weight=q_loss_weight,
        constraints=constraints,
    )
    kept = tuple(z.detach() for z in states[-1]) if config.latent else ()
    return Supervised(Carry((after, *kept), steps, halted, data), outs[-1], loss, sums, rows)
