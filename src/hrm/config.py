"""Typed, closed configuration: a recipe file plus `key=value` overrides becomes one validated object.

Names are the reference's wherever it has one (`arch.L_cycles`, `global_batch_size`, `lr_warmup_steps`), so its users'
command lines carry over. An unknown key or a wrong value is refused with the nearest right name; nothing is ignored.
"""

import difflib
import json
import math
import textwrap
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Positive = Annotated[int, Field(ge=1)]
Segments = Annotated[int, Field(ge=1, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]
INFERENCE = ("halt_max_steps_eval", "rule_out_below_eval", "patience", "accept_above")
"""Keys of Arch that inference alone asks for: what is learned does not depend on them."""


class Closed(BaseModel):
    """A frozen configuration object that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Arch(Closed):
    """The network and its halting, apart from what the data decide (vocabulary, length, identifiers).

    HRM, TRM, the direct-prediction Transformer and the recurrent one are points in this space (docs/architecture.md).
    """

    levels: Literal["separate", "shared", "single"] = "separate"
    """separate: modules H and L (HRM). shared: one module plays both (TRM). single: one state, z = f(z + x)."""
    mixer: Literal["attention", "mlp", "groups", "conv"] = "attention"
    """How positions hear each other: attention, an MLP over positions (TRM), on a lattice of one position for each
    value of each cell the means of its row, column, box and cell (docs/architecture.md, "the lattice"), or conv, the
    four neighbours on a square grid."""
    H_mixer: Literal["attention", "mlp", "conv"] | None = None
    """The slow module's where it is another: it may hear all cells above a fast one that hears its neighbours."""
    pos_encodings: Literal["rope", "rope2d", "learned", "none"] = "rope"
    """How attention knows places: turned along the line of cells (HRM), along rows and columns, by a learned
    vector, or not at all."""
    unit_embedding: bool = False
    """Besides, a cell is told its row, its column and its box, by a learned vector of each."""
    qk_norm: bool = False
    """Attention compares directions: queries and keys of every head are scaled to one length before they are turned."""
    feedback: bool = False
    """A segment is told the answer so far as well as the question: what z_H decodes to, without gradient, is embedded too."""
    carry: Literal["latent", "candidates", "both"] = "latent"
    """What goes from segment to segment. latent: the states z_H and z_L (HRM). candidates: which values still stand in
    each cell, and nothing else; the states start afresh, and Q_halt says whether the solution still stands. both: the
    candidates and the states."""
    lattice: Literal["full", "standing"] = "full"
    """Which positions of the lattice compute: all of them, or those of values that still stand."""
    rule_out_below: float = Field(0.003, gt=0, lt=1)
    """Among candidates a segment rules out the values that it gives less probability than this."""
    rule_out_below_eval: float | None = Field(None, gt=0, lt=1)
    """The same at inference, where a true value ruled out loses the puzzle; None takes rule_out_below."""
    patience: Positive | None = None
    """Segments in a row that rule nothing out before inference assumes a value; None: 4 where states are carried, else 1."""

    H_cycles: Positive = 2
    """Updates of the slow module in a segment."""
    L_cycles: Positive = 2
    """Updates of the fast module before each of those; with levels=single all there are."""
    H_layers: int = Field(4, ge=0)
    """Layers of the slow module; 0 where there is none (levels=shared and single)."""
    L_layers: Positive = 4
    """Layers of the fast module, or of the only one."""
    hidden_size: Positive = 512
    """Width D of a position's state."""
    num_heads: Positive = 8
    """Heads of attention, which share hidden_size."""
    expansion: float = Field(4.0, gt=0)
    """Width of a layer's gated MLP, as in the references: this times two thirds of hidden_size, rounded up."""
    mixer_expansion: float | None = Field(None, gt=0)
    """Width of the MLP over positions; None takes `expansion`."""
    mlp_round_to: Positive = 256
    """Hidden widths of the MLPs are rounded up to a multiple of this (the reference: 256)."""
    rms_norm_eps: float = Field(1e-5, gt=0)
    """Is added to the mean square in every norm."""
    rope_theta: float = Field(10000.0, gt=0)
    """Base of the rotary wavelengths."""
    initial_state: Literal["fixed", "random"] = "fixed"
    """fixed: one vector for every position (HRM). random: training draws every position of every puzzle anew, inference
    keeps one draw; other draws then make restarts that differ."""
    init_std: float = Field(1.0, ge=0)
    """Spread of the fixed initial states z_H and z_L; 0 starts from zero."""

    puzzle_emb_ndim: int = Field(0, ge=0)
    """Width of the embedding learned for each puzzle identifier; 0: none. Grid puzzles share one identifier."""
    puzzle_emb_len: int = Field(0, ge=0)
    """Positions put before the cells for the puzzle embedding; 0 means as many as puzzle_emb_ndim needs."""

    gradient: Literal["one_step", "last_cycle", "segment"] | Positive = "one_step"
    """Which trailing updates carry gradient: the last of each level (HRM), those of the last H cycle (TRM), all of the
    segment, or those of the last N H cycles."""
    halting: Literal["q_learning", "halt_only", "fixed"] = "q_learning"
    """Who ends a puzzle's turn. q_learning: Q_halt above Q_continue, both learned (HRM). halt_only: Q_halt above 0
    (TRM). fixed: halt_max_steps."""
    halt_max_steps: Segments = 16
    """Segments that a puzzle may run in training."""
    halt_max_steps_eval: Segments | None = None
    """Segments that inference may run; None takes halt_max_steps."""
    accept_above: Share = 0.5
    """Of a latent carry, where inference looks at a puzzle several times: the confidence above which it takes an answer
    and looks no further."""
    halt_exploration_prob: Share = 0.1
    """Chance that a puzzle in training must run a random number of segments, 2 to halt_max_steps, before it may halt."""

    forward_dtype: Literal["bfloat16", "float32", "auto"] = "auto"
    """auto: bfloat16 where the machine computes in it, else float32."""

    @property
    def prefix_len(self) -> int:
        """Positions before the first cell."""
        return self.puzzle_emb_len or -(-self.puzzle_emb_ndim // self.hidden_size)

    @property
    def mixers(self) -> set[str]:
        """Those of both modules."""
        return {self.mixer, self.H_mixer or self.mixer}

    @property
    def local(self) -> bool:
        """Every position has the same weights and a surrounding of its own."""
        return self.mixers <= {"groups", "conv"}

    @property
    def needs_box(self) -> bool:
        """The network knows rows, columns and boxes."""
        return self.mixer == "groups" or self.unit_embedding

    @property
    def doubts(self) -> bool:
        """Q is what any of the positions doubts, not what the first one says."""
        return self.local or self.deduces

    @property
    def latent(self) -> bool:
        """The states z_H and z_L pass between segments."""
        return self.carry != "candidates"

    @property
    def deduces(self) -> bool:
        """Candidates pass between segments."""
        return self.carry != "latent"

    @property
    def waits(self) -> int:
        """The patience of inference: states that are carried may move yet."""
        return self.patience or (4 if self.latent else 1)

    @property
    def rules_out(self) -> float:
        """Probability below which inference rules a value out."""
        return self.rule_out_below_eval or self.rule_out_below

    @property
    def cycle(self) -> str:
        """The updates of one H cycle, one letter each."""
        return "S" * self.L_cycles if self.levels == "single" else "L" * self.L_cycles + "H"

    @property
    def gradient_updates(self) -> int:
        """How many trailing updates of a segment carry gradient (docs/architecture.md, "one recursion")."""
        if isinstance(self.gradient, int):
            return self.gradient * len(self.cycle)
        one_step = 1 if self.levels == "single" else 2
        return {"one_step": one_step, "last_cycle": len(self.cycle), "segment": 10**9}[self.gradient]

    @property
    def max_segments(self) -> int:
        """Segments that inference may run."""
        return self.halt_max_steps_eval or self.halt_max_steps

    @model_validator(mode="after")
    def _consistent(self) -> "Arch":
        if self.levels == "separate" and self.H_layers < 1:
            raise ValueError("H_layers=0 leaves no slow module: use levels=shared (TRM) or H_layers of 1 and more")
        if self.H_mixer and (self.levels != "separate" or self.mixer == "groups"):
            raise ValueError(f"H_mixer={self.H_mixer}: only for levels=separate, and not above mixer=groups")
        if "attention" in self.mixers:
            if self.hidden_size % self.num_heads:
                raise ValueError(f"hidden_size={self.hidden_size} is not a multiple of num_heads={self.num_heads}")
            step = {"rope": 2, "rope2d": 4}.get(self.pos_encodings, 1)
            if (self.hidden_size // self.num_heads) % step:
                raise ValueError(f"{self.pos_encodings} needs hidden_size/num_heads in multiples of {step}")
        elif self.pos_encodings in ("rope", "rope2d"):
            raise ValueError(f"mixer={self.mixer} has no attention to rotate: use pos_encodings=none or learned")
        if self.qk_norm and "attention" not in self.mixers:
            raise ValueError(f"qk_norm=true: mixer={self.mixer} has no queries and keys")
        if self.unit_embedding and self.mixer == "groups":
            raise ValueError("unit_embedding=true: mixer=groups knows rows, columns and boxes by itself")
        if self.feedback and (self.deduces or self.mixer == "groups"):
            raise ValueError(
                "feedback=true needs carry=latent and a position for each cell: not candidates, not mixer=groups"
            )
        if (self.local and self.pos_encodings != "none") or (self.mixers & {"groups", "conv"} and self.prefix_len):
            place = "pos_encodings=none, " * self.local + "puzzle_emb_ndim=0, puzzle_emb_len=0"
            raise ValueError(f"mixer={(self.mixers & {'groups', 'conv'}).pop()} knows no places: use {place}")
        if self.local and self.halting == "q_learning":
            raise ValueError(f"mixer={self.mixer} has no Q of going on: use halting=halt_only or fixed")
        if self.deduces and self.halting != "halt_only":
            raise ValueError(f"carry={self.carry} halts by Q: use halting=halt_only")
        if self.lattice == "standing" and not (self.mixer == "groups" and self.deduces):
            raise ValueError("lattice=standing needs mixer=groups, and a carry with candidates to say what stands")
        if not self.latent and self.initial_state != "fixed":
            raise ValueError(f"carry={self.carry} starts every segment alike: use initial_state=fixed")
        if self.puzzle_emb_len and self.puzzle_emb_ndim > self.puzzle_emb_len * self.hidden_size:
            raise ValueError(
                f"puzzle_emb_ndim={self.puzzle_emb_ndim} does not fit in puzzle_emb_len={self.puzzle_emb_len} "
                f"positions of hidden_size={self.hidden_size}"
            )
        return self


class ModelConfig(Arch):
    """`Arch` and what the data decide. It travels inside every checkpoint."""

    vocab_size: Positive
    seq_len: Positive
    num_puzzle_identifiers: Positive = 1
    box: tuple[Positive, Positive] | None = None
    """Rows and columns of a box, for a puzzle whose rows, columns and boxes hold every value once; None where the network
    does not use them."""

    @property
    def side(self) -> int:
        """Rows of a square grid, and with mixer=groups the number of values."""
        return math.isqrt(self.seq_len)

    @model_validator(mode="after")
    def _grid(self) -> "ModelConfig":
        if self.needs_box:
            if self.box is None:
                what = "mixer=groups" if self.mixer == "groups" else "unit_embedding=true"
                raise ValueError(f"{what} needs a puzzle with rows, columns and boxes; this task has none")
            if self.seq_len != math.prod(self.box) ** 2 or self.vocab_size <= self.side:
                raise ValueError(f"boxes of {self.box} do not fit {self.seq_len} cells and {self.vocab_size} tokens")
        square = self.side**2 == self.seq_len
        if not square and (self.pos_encodings == "rope2d" or "conv" in self.mixers):
            needs = "mixer=conv" if "conv" in self.mixers else "rope2d"
            raise ValueError(f"{needs} needs a square grid, got seq_len={self.seq_len}")
        return self


class Recipe(Closed):
    """Everything a training run depends on."""

    about: str = ""
    """In words what this is for."""
    task: Literal["sudoku", "maze", "arc", "text"] = "sudoku"
    """What the puzzles are, and which rules and symmetries are known of them."""
    data_path: str
    """A dataset folder (`hrm data build`, or one made by either reference) or the name of a built-in set."""
    augment: bool = True
    """Change every row of every batch at random: by a symmetry (Sudoku), its table (ARC), edits that keep the label (mazes)."""
    reclue: Share = 0.0
    """Share of a batch's rows whose givens are drawn anew from their own question and answer (tasks/sudoku.py)."""
    reclue_hints: Positive = 30
    """Most cells of the answer that such a row gains."""
    reclue_drop: Share = 0.5
    """Most givens it loses for each cell gained."""
    relabel: Share = 0.0
    """Mazes: share of a batch's rows that are turned, edited and labelled anew by exact search. That is more labelled data
    than the data set's own: a setting to be named beside every result."""
    start_hints: Share = 0.25
    """With candidates: share of new rows that start with cells of their answer filled in, mostly few."""
    start_wrong: Share = 0.25
    """With candidates: share of new rows that start with one wrong value filled in, for Q to learn from."""

    arch: Arch
    """The network and its halting."""
    loss_type: Literal["stablemax_cross_entropy", "softmax_cross_entropy"] = "stablemax_cross_entropy"
    """stablemax (HRM, TRM) or softmax before the cross-entropy of the cells."""
    q_loss_weight: float = Field(0.5, ge=0)
    """Of the loss of Q beside that of the cells."""
    constraint_weight: float = Field(0.0, ge=0)
    """Sudoku: of a loss by which every row, column and box shall expect each value once, beside that of the cells."""
    feedback_noise: Share = 0.3
    """With arch.feedback: largest share of the cells told that are replaced at random in training; each row draws its own."""
    random_H_cycles: tuple[Positive, Positive] | None = None
    """Draw the number of H cycles of each training segment uniformly from this range (both ends included)."""
    depth_schedule: tuple[tuple[Annotated[float, Field(ge=0, lt=1)], Positive], ...] = ()
    """H cycles of a training segment, each from a share of the whole run on: [[0, 1], [0.3, 2], [0.6, 3]]; inference runs
    arch.H_cycles. Empty: as many throughout."""

    global_batch_size: Positive = 768
    """Puzzles that run a segment together in a step, of all processes."""
    epochs: Positive | None = None
    """Length of the run, as the reference counts it: in an epoch one puzzle of each group; or else give steps."""
    steps: Positive | None = None
    """Length of the run in optimizer steps."""

    optimizer: Literal["adam_atan2", "adamw", "muon"] = "adam_atan2"
    """muon: Muon (optim.py) for the matrices of the reasoning modules, AdamW for the rest."""
    lr: float = Field(1e-4, gt=0)
    """Learning rate after warm-up, of all but puzzle embeddings and, with muon, the matrices."""
    muon_lr: float = Field(3e-3, gt=0)
    """Learning rate of Muon's matrices."""
    muon_momentum: Share = 0.95
    """Of Muon."""
    lr_schedule: Literal["constant", "cosine", "linear_decay"] = "cosine"
    """After warm-up. constant. cosine: falling to lr_min_ratio (the references'). linear_decay: constant, then a
    line to lr_min_ratio."""
    lr_min_ratio: Share = 1.0
    """What is left of the rate in the end, as a share of it."""
    lr_warmup_steps: int = Field(2000, ge=0)
    """Steps in which the rate rises from 0, in a line."""
    lr_decay_share: Share = 0.4
    """linear_decay: the last share of the run over which the rate falls to lr_min_ratio."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the mean of the gradients (AdamATan2, AdamW)."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """Decay of the mean of their squares."""
    weight_decay: float = Field(0.1, ge=0)
    """Is subtracted from every weight at every step, as a share, times the rate; of puzzle embeddings see below."""
    puzzle_emb_lr: float = Field(1e-4, ge=0)
    """Learning rate of the puzzle embeddings, by the sign of their gradient."""
    puzzle_emb_weight_decay: float = Field(0.1, ge=0)
    """The same of their weights, in rows that the batch touched."""
    grad_clip: float | None = Field(None, gt=0)
    """Longest gradient of all weights together; longer ones are shortened to it. None: as they are."""
    ema: float | None = Field(None, ge=0, lt=1)
    """Decay of the running mean of the weights; evaluation then uses the mean. None: no mean is kept."""

    ema_warmup: bool = False
    """Start the mean fast: its decay is at most n / (n + 10) at step n."""

    seed: int = Field(0, ge=0, lt=2**63)
    """All that is random is drawn from this, the step and the process."""
    compile: bool | Literal["auto"] = "auto"
    """torch.compile of the reasoning modules; auto: on for CUDA, off elsewhere."""
    cuda_graphs: bool = False
    """CUDA: replay each compiled call of a training step as one graph (reduce-overhead), for small models whose kernels wait
    to be launched. Not yet run on a GPU."""
    device: str = "auto"
    """auto (CUDA, else MPS, else the CPU), or a device of torch."""

    project_name: str = "sudoku"
    """The run's folder is runs/<project_name>/<run_name>."""
    run_name: str | None = None
    """None: run."""
    log_every: Positive = 20
    """Steps between two lines of metrics."""
    checkpoint_every: Positive = 500
    """Steps between two checkpoints."""
    keep_checkpoints: Positive = 2
    """Checkpoints that stay, the newest, beside the best."""
    eval_every: Positive | None = 1000
    """Steps between two evaluations of validation rows; null: none."""
    eval_rows: Positive = 256
    """Rows of the validation split used during training, always the same ones."""
    test_at_end: bool = True
    """Measure the test rows after the last step."""
    non_finite: Literal["stop", "rollback"] = "stop"
    """Where the loss is no finite number: stop, or go back to the last checkpoint and on with other random
    numbers."""
    tensorboard: bool = False
    """Metrics go to TensorBoard too (extra `track`)."""
    wandb: bool = False
    """And to Weights & Biases (extra `wandb`)."""

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give the length of the run once: either epochs or steps")
        if self.arch.deduces and self.loss_type != "softmax_cross_entropy":
            raise ValueError(
                f"carry={self.arch.carry} rules values out by their probability: use loss_type=softmax_cross_entropy"
            )
        if self.augment and self.task == "arc":
            raise ValueError("task=arc is augmented by its data set's table: use augment=false")
        if self.augment and self.task == "text":
            raise ValueError("task=text knows no symmetries to augment by: use augment=false")
        if self.task == "arc" and (self.eval_every or self.test_at_end):
            raise ValueError("task=arc is measured by votes (hrm eval): use eval_every=null and test_at_end=false")
        if self.relabel and self.task != "maze":
            raise ValueError(f"relabel={self.relabel}: only mazes are labelled anew; task={self.task} is not")
        if self.reclue and self.task != "sudoku":
            raise ValueError(f"reclue={self.reclue}: only Sudokus are given other clues; task={self.task} is not")
        if self.constraint_weight and self.task != "sudoku":
            raise ValueError(
                f"constraint_weight={self.constraint_weight} needs rows, columns and boxes; task={self.task} has none"
            )
        if self.constraint_weight and self.loss_type != "softmax_cross_entropy":
            raise ValueError("constraint_weight expects values by softmax: use loss_type=softmax_cross_entropy")
        if self.arch.deduces and self.task != "sudoku":
            raise ValueError(f"carry={self.arch.carry} needs rows, columns and boxes; task={self.task} has none")
        if self.lr_schedule == "linear_decay" and self.lr_min_ratio == 1:
            raise ValueError("lr_schedule=linear_decay would not decay: set lr_min_ratio below 1, the share it ends at")
        if self.start_hints + self.start_wrong > 1:
            raise ValueError(
                f"start_hints={self.start_hints} and start_wrong={self.start_wrong} are shares of one whole"
            )
        if self.random_H_cycles and self.random_H_cycles[0] > self.random_H_cycles[1]:
            raise ValueError(f"random_H_cycles={list(self.random_H_cycles)} must be [smallest, largest]")
        starts = [start for start, _ in self.depth_schedule]
        if starts and (starts[0] or sorted(set(starts)) != starts):
            raise ValueError(
                "depth_schedule must begin at 0 and go on with rising shares of the run: [[0, 1], [0.3, 2]]"
            )
        if starts and self.random_H_cycles:
            raise ValueError("depth_schedule and random_H_cycles both say how deep a segment runs: give one")
        return self

    def total_steps(self, examples_per_epoch: float) -> int:
        """Optimizer steps of the whole run (the reference's pretrain.py, `init_train_state`)."""
        return self.steps or int(self.epochs * examples_per_epoch / self.global_batch_size)


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(f.name[:-5] for f in (resources.files("hrm") / "recipes").iterdir() if f.name.endswith(".yaml"))


def load_recipe(name_or_path: str, overrides: list[str] = ()) -> Recipe:
    """Read a recipe of the package, or a YAML file, and lay `key=value` overrides over it.

    Raises ValueError with one line that names the key and the nearest right one.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ValueError(f"no recipe file {path}")
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            raise ValueError(f"recipe {path}: not a text file") from None
    elif name_or_path in recipe_names():
        text = (resources.files("hrm") / "recipes").joinpath(f"{name_or_path}.yaml").read_text()
    else:
        raise ValueError(f"no recipe '{name_or_path}'{nearest(name_or_path, recipe_names())}")
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ValueError(f"'{override}' is not an override: write key=value")
    try:
        written = OmegaConf.create(text)
        if not OmegaConf.is_dict(written):
            raise ValueError(f"recipe {name_or_path}: expected key: value lines")
        merged = OmegaConf.merge(written, OmegaConf.from_dotlist([_plain_text(o) for o in overrides]))
        values = OmegaConf.to_container(merged, resolve=True)
        named = {override.partition("=")[0] for override in overrides} & {"steps", "epochs"}
        if len(named) == 1 and values[min(named)] is not None:  # the length asked for takes the place of the recipe's
            values |= dict.fromkeys({"steps", "epochs"} - named)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ValueError(f"recipe {name_or_path}: {first_line(error)}") from None
    recipe = validated(Recipe, values, f"recipe {name_or_path}")
    for key in (override.partition("=")[0] for override in overrides):
        needed, there = ONLY_WITH.get(key, ("", lambda recipe: True))
        if not there(recipe):
            raise ValueError(f"{key} would change nothing here: it is only for {needed}")
    return recipe


ONLY_WITH: dict[str, tuple[str, Callable[[Recipe], bool]]] = {
    **dict.fromkeys(("muon_lr", "muon_momentum"), ("optimizer=muon", lambda recipe: recipe.optimizer == "muon")),
    "arch.rope_theta": (
        "arch.pos_encodings=rope or rope2d",
        lambda recipe: recipe.arch.pos_encodings in ("rope", "rope2d"),
    ),
    "arch.mixer_expansion": ("an MLP over positions, arch.mixer=mlp", lambda recipe: "mlp" in recipe.arch.mixers),
    "lr_decay_share": ("lr_schedule=linear_decay", lambda recipe: recipe.lr_schedule == "linear_decay"),
    "ema_warmup": ("a running mean, ema=0.999 say", lambda recipe: recipe.ema is not None),
    **dict.fromkeys(("reclue_hints", "reclue_drop"), ("reclue above 0", lambda recipe: recipe.reclue > 0)),
    **dict.fromkeys(
        ("puzzle_emb_lr", "puzzle_emb_weight_decay"),
        ("arch.puzzle_emb_ndim above 0", lambda recipe: recipe.arch.puzzle_emb_ndim > 0),
    ),
    **dict.fromkeys(
        ("start_hints", "start_wrong", "arch.patience", "arch.rule_out_below", "arch.rule_out_below_eval"),
        ("a carry with candidates", lambda recipe: recipe.arch.deduces),
    ),
    "arch.accept_above": ("a latent carry", lambda recipe: not recipe.arch.deduces),
    "feedback_noise": ("arch.feedback=true", lambda recipe: recipe.arch.feedback),
}
"""Keys that only matter where others are set so; given by hand elsewhere they are refused. (A recipe may hold them idle.)"""


def _plain_text(override: str) -> str:
    """The override, its value quoted where the key takes text: YAML reads `run_name=off` as False, and `run_name=7` as 7."""
    key, _, value = override.partition("=")
    field = Recipe.model_fields.get(key)
    is_text = field is not None and field.annotation in (str, str | None)
    return (
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        if is_text and value != "null" and value[:1] not in ("'", '"')
        else override
    )


def explained(recipe: Closed, indent: str = "") -> str:
    """Every key of a recipe as YAML that can be read again, each under a comment that says what it means."""
    import yaml

    lines = []
    for name, field in type(recipe).model_fields.items():
        value = getattr(recipe, name)
        words = " ".join((field.description or "").split())
        lines += textwrap.wrap(words, 110, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if isinstance(value, Closed):
            lines += [f"{indent}{name}:", explained(value, indent + "  ").rstrip("\n")]
        else:
            told = yaml.safe_dump(
                {name: list(value) if isinstance(value, tuple) else value}, sort_keys=False, width=110
            )
            lines += [indent + line for line in told.rstrip("\n").splitlines()]
    return "\n".join(lines) + "\n"


def validated(kind: type[Closed], values: Any, where: str) -> Any:
    """`kind(**values)`, with pydantic's report made one line for people: what, where, nearest right name."""
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected key: value lines")
    try:
        return kind(**values)
    except ValidationError as report:
        faults = []
        for fault in report.errors():
            key = ".".join(str(part) for part in fault["loc"] if not str(part).startswith("function-"))
            if fault["type"] == "extra_forbidden":
                faults.append(f"unknown key '{key}'{nearest(key, dotted_keys(kind))}")
            elif fault["type"] == "missing":
                faults.append(f"'{key}' is missing")
            else:
                words = fault["msg"].removeprefix("Value error, ")
                faults.append(f"{key}={fault['input']!r}: {words}" if key and fault["type"] != "value_error" else words)
        raise ValueError(f"{where}: " + "; ".join(dict.fromkeys(faults))) from None


def dotted_keys(kind: type[Closed]) -> list[str]:
    """Every key that `kind` knows, nested ones with dots."""
    keys = []
    for name, field in kind.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, Closed):
            keys += [f"{name}.{key}" for key in dotted_keys(nested)]
        else:
            keys.append(name)
    return keys


def nearest(word: str, known: list[str]) -> str:
    """`; did you mean 'x'?` for the closest known name, or the list of them."""
    by_leaf = [key for key in known if key.split(".")[-1] == word.split(".")[-1]]
    close = by_leaf or difflib.get_close_matches(word, known, 1, 0.5)
    if not close:
        leaves = {key.split(".")[-1]: key for key in known}
        close = [leaves[leaf] for leaf in difflib.get_close_matches(word.split(".")[-1], leaves, 1, 0.5)]
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
