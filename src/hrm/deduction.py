"""Solving with candidates for a carry: rule out, assume, and go back where the model says that the solution is lost.

A pass is a walk to a full grid or a dead end. What is a dead end, the model alone says (Q_halt); the puzzle's rules
enter only through `obeys`, where the user asks for checked answers. The next pass sets out from the branch that the
model holds most probable, wherever it left the walk (best first, not depth first: a wrong assumption shows only many
segments later, and everything after it is lost too).
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .answers import Answers, Thought
from .backends import Engine
from .candidates import assumed, is_open, ruled_out, surest
from .looks import states_of
from .model import HRM
from .running import Watch

DOUBT = 0.1
"""Below this confidence that the solution still stands, an unfinished grid with a guess in it is a dead end."""
TRUST = 0.4
"""The odds that the model gives an assumption count to this power: it is made where the model is surest of what it does not
know, and there it is right less often than it says."""
CAUTION = 0.1
"""A puzzle whose every assumption failed starts over, with `rule_out_below` and DOUBT smaller by this factor."""


class Branch(NamedTuple):
    """Where a later pass may set out: an assumption not made."""

    chance: float
    """That the solution is here, by what the model's word is worth: of every assumption on the way made or, as here, not."""
    candidates: Tensor
    """(S, V) bool, before the assumption and without the value that was assumed."""


@dataclass
class Walk:
    """One puzzle on its way."""

    number: int
    tokens: np.ndarray
    """(S,) uint8: the puzzle."""
    name: int
    """Its puzzle identifier."""
    segments: int = 0
    """Of all passes together."""
    since: int = 0
    """Of this pass."""
    passes: int = 1
    caution: float = 1.0
    still: int = 0
    """Segments in a row that ruled nothing out."""
    chance: float = 1.0
    """That the solution is here: the product of what the model's word for the assumptions of this branch is worth."""
    branches: list[Branch] = field(default_factory=list)
    """Where to go back to."""
    held: Answers | None = None
    """The most confident full grid so far; where the last pass ends without any, what it ended in."""


class Deduction:
    """Puzzles on their walks, a running batch: each takes at most `passes` passes of at most `max_segments` segments.

    A value is assumed where `patience` segments in a row have ruled nothing out.
    A full grid that the model believes (confidence of one half and more; with `obeys`, one that obeys the rules) ends a
    puzzle. Any other full grid, a dead end or a pass that is too long goes back to the most probable branch left; the
    last pass does not look for dead ends. Without an accepted grid the most confident full one stands.
    """

    def __init__(
        self,
        model: HRM,
        engine: Engine,
        task: Any,
        *,
        max_segments: int,
        passes: int,
        patience: int,
        obeys: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        states: bool = False,
    ):
        self.model, self.engine, self.task = model, engine, task
        self.max_segments, self.passes, self.patience = max_segments, passes, patience
        self.obeys, self.states = obeys, states
        self.device = model.H_init.device
        self.walks: list[Walk] = []
        self.carried = self._start(np.zeros((0, model.config.seq_len), np.uint8))

    def __len__(self) -> int:
        return len(self.walks)

    @torch.inference_mode()
    def enter(self, numbers: Sequence[int], tokens: np.ndarray, names: np.ndarray) -> None:
        self.walks += [Walk(*puzzle) for puzzle in zip(numbers, tokens, names.tolist(), strict=True)]
        self.carried = [torch.cat(parts) for parts in zip(self.carried, self._start(tokens), strict=True)]

    @torch.inference_mode()
    def drop(self, numbers: Container[int]) -> None:
        stay = [place for place, walk in enumerate(self.walks) if walk.number not in numbers]
        if len(stay) < len(self.walks):
            self._keep(self.carried, stay)

    def _start(self, tokens: np.ndarray) -> list[Tensor]:
        """What puzzles (n, S) set out with: candidates (n, S, V), and states where these are carried too."""
        puzzles = torch.from_numpy(np.ascontiguousarray(tokens)).to(self.device, torch.int32)
        return [
            self.task.candidates(puzzles),
            *(self.model.initial_state(len(tokens)) if self.model.config.latent else ()),
        ]

    def _keep(self, carried: Sequence[Tensor], stay: Sequence[int]) -> None:
        places = torch.tensor(stay, dtype=torch.long, device=self.device)
        self.walks, self.carried = [self.walks[place] for place in stay], [part[places] for part in carried]

    @torch.inference_mode()
    def step(self, watch: Watch | None = None) -> tuple[list[int], Answers]:
        walks, model, device = self.walks, self.model, self.device
        names = torch.tensor([walk.name for walk in walks], dtype=torch.int32, device=device)
        caution = torch.tensor([walk.caution for walk in walks], device=device)
        candidates, *state = self.carried
        state, out = self.engine(tuple(state) or model.initial_state(len(walks)), candidates, names)
        kept = state if watch and self.states else ()
        reached = tuple(z.clone() for z in kept)  # who goes back is given others below
        chances, belief = out.logits.softmax(-1), out.q_halt.sigmoid()
        after = ruled_out(candidates, chances, (model.config.rules_out * caution)[:, None, None])
        unsettled, still = is_open(after).any(1), (after == candidates).all((1, 2))
        for walk, stays in zip(walks, still.tolist(), strict=True):
            walk.still = (walk.still + 1) * stays
        assumes = still & unsettled & torch.tensor([walk.still >= self.patience for walk in walks], device=device)
        cell, value = surest(after, chances)
        following = [assumed(after, assumes, cell, value), *(state if model.config.latent else ())]
        full = still & ~unsettled
        here = _answers(walks, candidates, after, chances, belief, full)
        accepted = full & (belief >= 0.5)
        if self.obeys:
            obeyed = self.obeys(np.stack([walk.tokens for walk in walks]), here.tokens)
            accepted = full & torch.from_numpy(obeyed).to(device)
        # before a value is assumed there is nothing to go back to
        doubt = torch.tensor([DOUBT * walk.caution if walk.chance < 1 else 0.0 for walk in walks], device=device)
        lost = (full & ~accepted) | (~full & (belief < doubt))
        sure = chances[torch.arange(len(walks), device=device), cell, value]
        flags = zip(*(t.tolist() for t in (accepted, full, lost, assumes, sure, cell, value)), strict=True)
        leaving = np.zeros(len(walks), np.bool_)
        for place, (walk, told) in enumerate(zip(walks, flags, strict=True)):
            accept, is_full, is_lost, assume, made, its_cell, its_value = told
            walk.segments += 1
            walk.since += 1
            last_pass = walk.passes == self.passes
            back = (is_lost and (is_full or not last_pass)) or walk.since >= self.max_segments
            leaving[place] = accept or (back and last_pass)
            better = walk.held is None or here.confidence[place] > walk.held.confidence[0]
            if accept or (is_full and better) or (leaving[place] and walk.held is None):
                walk.held = here.take([place])
            if leaving[place]:
                walk.held.halted[:] = accept
                walk.held.segments[:], walk.held.passes[:] = walk.segments, walk.passes
            elif back:
                resumed, anew = (
                    _go_back(walk),
                    self._start(walk.tokens[None]),
                )  # states still believe in what was assumed
                for part, fresh in zip(following, anew if resumed is None else [resumed[None], *anew[1:]], strict=True):
                    part[place] = fresh[0]
            elif assume:
                walk.still, worth = 0, trusted(made)
                if not last_pass:
                    without = after[place].clone()
                    without[its_cell, its_value] = False
                    walk.branches.append(Branch(walk.chance * (1 - worth), without))
                walk.chance *= worth
        if watch:
            certainty = chances.amax(-1).cpu().numpy()
            for place, walk in enumerate(walks):
                watch(
                    Thought(
                        row=walk.number,
                        segment=walk.segments,
                        tokens=here.tokens[place],
                        certainty=certainty[place],
                        confidence=float(belief[place]),
                        residual=float(here.residual[place]),
                        halted=bool(leaving[place]),
                        look=int(here.passes[place]) - 1,
                        candidates=after[place].cpu().numpy(),
                        states=states_of(reached, place),
                    )
                )
        left = [walks[place] for place in np.flatnonzero(leaving)]
        self._keep(following, np.flatnonzero(~leaving).tolist())
        return [walk.number for walk in left], Answers.joined([here.take([]), *(walk.held for walk in left)])


def trusted(chance: float) -> float:
    """What the `chance` above 0 that the model gives an assumption is worth, with TRUST."""
    return 1 / (1 + (1 / chance - 1) ** TRUST)


def _go_back(walk: Walk) -> Tensor | None:
    """The candidates from which a puzzle's next pass sets out; None where it starts over."""
    walk.passes += 1
    walk.since = walk.still = 0
    if not walk.branches:
        walk.chance, walk.caution = 1.0, walk.caution * CAUTION
        return None
    best = max(range(len(walk.branches)), key=lambda at: walk.branches[at].chance)
    walk.chance, candidates = walk.branches.pop(best)
    return candidates


def _answers(
    walks: list[Walk], candidates: Tensor, after: Tensor, chances: Tensor, belief: Tensor, full: Tensor
) -> Answers:
    """What each walk would answer now. An unfinished grid is no surer than its least sure cell."""
    best, order = chances.topk(2)
    confidence = belief * torch.where(full, 1.0, best[..., 0].amin(1))
    fell = (candidates & ~after).sum((1, 2)) / candidates.sum((1, 2))
    cpu = [t.cpu().numpy() for t in (order, best, confidence, fell)]
    order, best, confidence, fell = cpu
    return Answers(
        order[..., 0].astype(np.uint8),
        np.array([walk.segments for walk in walks], np.int32),
        confidence,
        fell,
        np.zeros(len(walks), np.bool_),
        np.array([walk.passes for walk in walks], np.int32),
        order[..., 1].astype(np.uint8),
        best[..., 0] - best[..., 1],
    )
