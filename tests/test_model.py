"""The network: one recursion for all relatives, gradient through the last k updates only, positions, dtypes."""

import math
from pathlib import Path

import pytest
import torch
from conftest import TRM, batch_for, tiny

from hrm.checkpoint import save_reference
from hrm.config import ModelConfig, Recipe, load_recipe, recipe_names
from hrm.layers import SHORT, RotaryPositions, attended, rms_norm, trunc_normal_
from hrm.model import HRM, machine_dtype
from hrm.tasks.sudoku import Sudoku, geometry

KINDS = {
    "hrm": {},
    "trm": TRM,
    "trm-mlp": TRM | {"mixer": "mlp", "pos_encodings": "none"},
    "learned": {"pos_encodings": "learned"},
    "rope2d": {"pos_encodings": "rope2d"},
    "none": {"pos_encodings": "none"},
    "told-its-answer": {"unit_embedding": True, "box": (2, 2), "qk_norm": True, "feedback": True},
    "no-puzzle-embedding": {"puzzle_emb_ndim": 0},
    "scratch-position": {"puzzle_emb_ndim": 0, "puzzle_emb_len": 2},
    "wide-puzzle-embedding": {"puzzle_emb_ndim": 40},
    "recurrent": {"levels": "single", "H_layers": 0},
    "direct": {"levels": "single", "H_layers": 0, "H_cycles": 1, "L_cycles": 1, "init_std": 0.0, "halting": "fixed"},
}


def run(config: ModelConfig, H_cycles: int | None = None):
    model, batch = HRM(config), batch_for(config)
    rows = model.puzzle_rows(batch["puzzle_identifiers"]).requires_grad_()
    state, out = model(model.initial_state(4), batch["inputs"], rows, H_cycles)
    return model, batch, rows, state, out


@pytest.mark.parametrize("positions", [7, SHORT + 1])
def test_attention_in_training_is_torchs(positions):
    q, k, v, told = torch.randn(4, 2, 3, positions, 8).unbind()
    found = []
    for attention in (attended, torch.nn.functional.scaled_dot_product_attention):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        mixed = attention(*inputs)
        found.append((mixed.detach(), *torch.autograd.grad(mixed, inputs, told)))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_documented_shapes_and_finite_gradients(kind):
    config = tiny(**KINDS[kind])
    model, _, rows, (z_H, z_L), out = run(config)
    length = config.prefix_len + 16
    assert out.logits.shape == (4, 16, 6) and out.q_halt.shape == out.q_continue.shape == (4,)
    assert z_H.shape == (4, length, 16)
    assert z_L.shape == (4, 0 if config.levels == "single" else length, 16)
    (out.logits.square().sum() + out.q_halt.sum() + out.q_continue.sum()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and torch.isfinite(p.grad).all(), name
    assert (rows.grad.abs().sum() > 0) == (config.puzzle_emb_ndim > 0)


def by_hand(model: HRM, x: torch.Tensor, plan: str, gradient_from: int):
    """The recursion written out, to compare with the plan-and-k form."""
    z_H, z_L = model.initial_state(len(x))
    rotation = model.embed_pos.rotation()
    for i, update in enumerate(plan):
        with torch.set_grad_enabled(i >= gradient_from):
            if update == "L":
                z_L = model.L_level(z_L, z_H + x, rotation)
            elif update == "S":
                z_H = model.L_level(z_H, x, rotation)
            else:
                slow = model.H_level if model.config.levels == "separate" else model.L_level
                z_H = slow(z_H, z_L, rotation)
    return z_H


@pytest.mark.parametrize(
    ("changes", "plan", "gradient_from"),
    [
        ({"H_cycles": 2, "L_cycles": 3}, "LLLHLLLH", 6),
        ({"H_cycles": 2, "L_cycles": 3, "gradient": "last_cycle"}, "LLLHLLLH", 4),
        ({"H_cycles": 2, "L_cycles": 3, "gradient": "segment"}, "LLLHLLLH", 0),
        (TRM | {"H_cycles": 2, "L_cycles": 2}, "LLHLLH", 3),
        ({"levels": "single", "H_cycles": 2, "L_cycles": 2}, "SSSS", 3),
        ({"levels": "single", "H_cycles": 2, "L_cycles": 2, "gradient": "last_cycle"}, "SSSS", 2),
    ],
)
def test_gradient_flows_through_exactly_the_trailing_updates(changes, plan, gradient_from):
    model, batch, rows, (z_H, _), _ = run(tiny(**changes))
    direction = torch.randn_like(z_H)  # a plain sum of squares is constant after a norm

    def gradients(z: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=False)
        (z * direction).sum().backward(retain_graph=True)
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    ours = gradients(z_H)
    expected = by_hand(model, model.embed(batch["inputs"], rows), plan, gradient_from)
    torch.testing.assert_close(z_H, expected, rtol=0, atol=0)
    torch.testing.assert_close(ours, gradients(expected), rtol=1e-5, atol=1e-6)
    if gradient_from + 1 == len(plan):
        return
    shorter = gradients(by_hand(model, model.embed(batch["inputs"], rows), plan, gradient_from + 1))
    assert any(not torch.allclose(ours[name], shorter[name], rtol=1e-3) for name in ours)


def test_more_cycles_are_the_same_recursion_run_longer():
    config = tiny(H_cycles=1)
    model, batch, rows, _, _ = run(config)
    once = model(model.initial_state(4), batch["inputs"], rows)[0]
    twice = model(once, batch["inputs"], rows)[0]
    torch.testing.assert_close(model(model.initial_state(4), batch["inputs"], rows, 2)[0], twice)


def test_truncated_normal_has_the_asked_deviation_and_cut():
    sample = trunc_normal_(torch.empty(400_000), 0.5)
    assert sample.std().item() == pytest.approx(0.5, rel=0.01)
    assert sample.abs().max().item() <= 0.5 * 2 * 1.1369
    assert trunc_normal_(torch.ones(3), 0).tolist() == [0, 0, 0]


def test_rms_norm_agrees_with_torch():
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(rms_norm(x, 1e-5), torch.nn.functional.rms_norm(x, (8,), eps=1e-5))


def test_rope_turns_pairs_by_position_times_frequency():
    rope = RotaryPositions(torch.arange(5.0)[None], 4, 100.0)
    cos, sin = rope.rotation()
    for position in range(5):
        for pair, frequency in ((0, 1.0), (1, 100.0**-0.5)):
            for k in (pair, pair + 2):
                assert cos[position, k].item() == pytest.approx(math.cos(position * frequency), abs=1e-6)
                assert sin[position, k].item() == pytest.approx(math.sin(position * frequency), abs=1e-6)


def test_rope2d_gives_rows_and_columns_their_own_frequencies_and_leaves_the_prefix_unturned():
    cos, _ = HRM(tiny(pos_encodings="rope2d", hidden_size=32, num_heads=2)).embed_pos.rotation()
    assert torch.equal(cos[0], torch.ones(16))
    cells = cos[1:].view(4, 4, 16)
    assert torch.equal(cells[:, 0, :4], cells[:, 3, :4]) and not torch.equal(cells[0, :, :4], cells[3, :, :4])
    assert torch.equal(cells[0, :, 4:8], cells[3, :, 4:8]) and not torch.equal(cells[:, 0, 4:8], cells[:, 3, 4:8])


def test_a_cell_is_told_its_row_its_column_and_its_box():
    told = HRM(tiny(unit_embedding=True, box=(2, 3), seq_len=36, vocab_size=8)).embed_units
    rows, columns, boxes = told.embedding_weight.detach().split(6)
    placed = told(torch.ones(1, 36, 16))[0]
    for cell, (row, column) in enumerate((r, c) for r in range(6) for c in range(6)):
        box = next(k for k, unit in enumerate(geometry(2, 3).units[12:]) if cell in unit)
        torch.testing.assert_close(placed[cell], 0.5 * (1 + rows[row] + columns[column] + boxes[box]))


def test_with_qk_norm_only_the_directions_of_queries_and_keys_count():
    found = {}
    for normed in (False, True):
        torch.manual_seed(0)
        model = HRM(tiny(qk_norm=normed))
        for scale in (1.0, 5.0):
            with torch.no_grad():
                model.L_level.layers[0].self_attn.qkv_proj.weight[:32] *= scale  # queries and keys
            found[normed, scale] = run_of(model)
    torch.testing.assert_close(found[True, 1.0], found[True, 5.0], rtol=1e-3, atol=1e-4)
    assert (found[False, 1.0] - found[False, 5.0]).abs().max() > 0.01


def run_of(model: HRM, told: torch.Tensor | None = None) -> torch.Tensor:
    return model(model.initial_state(4), *inputs_of(model), told=told)[1].logits.detach()


def test_with_feedback_a_segment_is_told_what_its_state_decodes_to():
    model = HRM(tiny(feedback=True))
    told = torch.randint(6, (4, 16))
    assert torch.equal(run_of(model, told), run_of(model))  # at first nothing is heard of it
    torch.nn.init.normal_(model.embed_answer.embedding_weight)
    decoded = model.decoded(model.initial_state(4))
    assert torch.equal(run_of(model, decoded), run_of(model)) and not torch.equal(run_of(model, told), run_of(model))
    state, out = model(model.initial_state(4), *inputs_of(model))
    assert torch.equal(model.decoded(state), out.logits.argmax(-1))


def inputs_of(model: HRM) -> tuple[torch.Tensor, torch.Tensor]:
    batch = batch_for(model.config)
    return batch["inputs"], model.puzzle_rows(batch["puzzle_identifiers"])


def test_bfloat16_states_and_float32_master_weights():
    model, _, _, (z_H, _), out = run(tiny(forward_dtype="bfloat16"))
    assert z_H.dtype == out.logits.dtype == torch.bfloat16 and out.q_halt.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_model_of_no_forward_dtype_takes_the_machines():
    model = HRM(tiny(forward_dtype="auto"))
    assert model.config.forward_dtype == machine_dtype("cpu") and model.dtype == getattr(torch, machine_dtype("cpu"))


def test_q_starts_near_never_halting():
    assert torch.equal(run(tiny())[4].q_halt, torch.full((4,), -5.0))


def test_parameter_counts_are_the_references():
    """27,275,266 for HRM on Sudoku, 6,828,034 and 5,028,866 for TRM (the puzzle table is a buffer)."""
    counted = {}
    for name, changes in {
        "hrm-sudoku-1k": {},
        "trm-sudoku-1k": {},
        "trm-attention": {"mixer": "attention", "pos_encodings": "rope"},
    }.items():
        arch = load_recipe(name if name in recipe_names() else "trm-sudoku-1k").arch
        with torch.device("meta"):
            model = HRM(
                ModelConfig(**arch.model_dump() | {"forward_dtype": "bfloat16"} | changes, vocab_size=11, seq_len=81)
            )
        table = model.puzzle_emb.weights.numel()
        states = model.H_init.numel() + model.L_init.numel()
        counted[name] = (sum(p.numel() for p in model.parameters()), table, states)
    assert counted["hrm-sudoku-1k"][0] == 27_275_266
    assert counted["trm-sudoku-1k"][0] == 5_028_866
    assert counted["trm-attention"][0] == 6_828_034


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 30, "num_heads": 4}, "not a multiple of num_heads"),
        ({"H_layers": 0}, "no slow module"),
        ({"mixer": "mlp"}, "no attention to rotate"),
        ({"pos_encodings": "rope2d", "seq_len": 15}, "square grid"),
        ({"puzzle_emb_ndim": 40, "puzzle_emb_len": 1}, "does not fit"),
        ({"unit_embedding": True}, "unit_embedding=true needs a puzzle with rows, columns and boxes"),
        ({"mixer": "mlp", "pos_encodings": "none", "qk_norm": True}, "mixer=mlp has no queries"),
        ({"feedback": True, "carry": "candidates", "halting": "halt_only"}, "feedback=true needs carry=latent"),
        ({"H_mixer": "conv"}, "mixer=conv knows no places: use puzzle_emb_ndim=0"),
        ({"H_mixer": "conv", "levels": "shared", "H_layers": 0}, "only for levels=separate"),
    ],
)
def test_impossible_configurations_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        tiny(**changes)


def test_a_slow_module_of_its_own_kind_hears_all_cells_above_a_fast_one_that_hears_its_neighbours():
    LOCAL = dict(mixer="conv", puzzle_emb_ndim=0, halting="halt_only", seq_len=81, H_cycles=1, L_cycles=1)
    heard = {}
    for name, changes in {"conv": dict(pos_encodings="none"), "mixed": dict(H_mixer="attention")}.items():
        torch.manual_seed(0)
        net = HRM(tiny(**LOCAL | changes, gradient="segment"))
        grid = torch.zeros(2, 81, dtype=torch.int32)
        grid[1, 40] = 1  # the middle
        _, out = net(net.initial_state(2), grid, net.puzzle_rows(torch.zeros(2, dtype=torch.int32)))
        heard[name] = (out.logits[0] != out.logits[1]).any(-1)
        out.logits.square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for n, p in net.named_parameters() if "level" in n), name
    assert heard["conv"].sum() == 13  # two steps away, one for each level
    assert heard["mixed"].all()
    with pytest.raises(ValueError, match=r"the reference has no such model: mixer, H_mixer"):
        save_reference(net, Path("nowhere/step_1"))


def test_all_recipes_load_and_build_on_the_meta_device():
    for name in recipe_names():
        recipe = load_recipe(name)
        assert isinstance(recipe, Recipe) and recipe.about
        with torch.device("meta"):
            HRM(
                ModelConfig(
                    **recipe.arch.model_dump() | {"forward_dtype": "float32"}, vocab_size=11, seq_len=81, box=(3, 3)
                )
            )


LATTICE = dict(
    mixer="groups", pos_encodings="none", puzzle_emb_ndim=0, vocab_size=8, seq_len=36, box=(2, 3), halting="halt_only"
)


def lattice(tokens: torch.Tensor, generator: torch.Generator | None = None, **changes):
    model = HRM(tiny(**LATTICE | changes))
    rows = model.puzzle_rows(torch.zeros(len(tokens), dtype=torch.long))
    return model(model.initial_state(len(tokens), generator), tokens, rows)


def test_lattice_has_one_position_a_value_and_cell_and_never_answers_blank():
    tokens = torch.randint(1, 8, (3, 36))
    (z_H, z_L), out = lattice(tokens)
    assert z_H.shape == z_L.shape == (3, 6 * 36, 16)
    assert out.logits.shape == (3, 36, 8) and out.q_halt.shape == (3,)
    assert (out.logits.argmax(-1) >= 2).all()
    assert out.logits.softmax(-1)[..., :2].max() == 0


@pytest.mark.parametrize("levels", ["separate", "shared", "single"])
@pytest.mark.parametrize("box", [(2, 3), (3, 2), (3, 3), (3, 4)])
def test_lattice_commutes_with_every_symmetry(levels, box):
    task = Sudoku(*box)
    tokens = torch.randint(1, task.vocab_size, (4, task.seq_len), dtype=torch.int32)
    shape = dict(vocab_size=task.vocab_size, seq_len=task.seq_len, box=box, levels=levels)
    torch.manual_seed(1)
    _, out = lattice(tokens, **shape)
    moved, moved_answers = task.augment(tokens, out.logits.argmax(-1), torch.Generator().manual_seed(5))
    assert not torch.equal(moved, tokens)
    torch.manual_seed(1)
    _, turned = lattice(moved, **shape)
    assert torch.equal(turned.logits.argmax(-1), moved_answers)
    torch.testing.assert_close(out.q_halt, turned.q_halt, rtol=1e-4, atol=1e-5)


CARRIES = dict(carry="candidates", halting="halt_only", gradient="segment", puzzle_emb_ndim=0)


@pytest.mark.parametrize("changes", [LATTICE, dict(vocab_size=8, seq_len=36), dict(mixer="mlp", pos_encodings="none")])
def test_a_model_of_candidates_gives_ruled_out_values_no_chance_and_reads_nothing_else(changes):
    model = HRM(tiny(**CARRIES | changes))
    candidates = torch.rand(3, model.config.seq_len, model.config.vocab_size) < 0.6
    candidates[..., :2], candidates[..., 2] = False, True
    rows = model.puzzle_rows(torch.zeros(3, dtype=torch.long))
    outs = [model.read(state, candidates) for state in model.cycles(model.initial_state(3), candidates, rows)]
    assert len(outs) == model.config.H_cycles
    _, out = model(model.initial_state(3), candidates, rows)
    assert torch.equal(out.logits, outs[-1].logits) and torch.equal(out.q_halt, outs[-1].q_halt)
    assert (out.logits.softmax(-1)[~candidates] == 0).all() and (out.logits.softmax(-1)[candidates] > 0).all()
    assert out.q_halt.sigmoid().min() > 0 and out.q_halt.abs().max() < 0.1  # one doubt in all, spread over positions


def test_random_initial_states_differ_by_generator_and_are_fixed_without_one():
    model = HRM(tiny(**LATTICE, initial_state="random"))
    fixed, again = model.initial_state(3), model.initial_state(3)
    assert all(torch.equal(a, b) for a, b in zip(fixed, again, strict=True))
    assert torch.equal(fixed[0][0], fixed[0][2]) and not torch.equal(fixed[0][0, 0], fixed[0][0, 1])
    drawn = model.initial_state(3, torch.Generator().manual_seed(1))
    assert not torch.equal(drawn[0][0], drawn[0][1])
    same = model.initial_state(3, torch.Generator().manual_seed(1))
    other = model.initial_state(3, torch.Generator().manual_seed(2))
    assert torch.equal(drawn[1], same[1]) and not torch.equal(drawn[1], other[1])
    assert model.state_dict()["H_init"].shape == (216, 16)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"box": None}, "needs a puzzle with rows, columns and boxes"),
        ({"box": (3, 3)}, "do not fit 36 cells"),
        ({"puzzle_emb_ndim": 16}, "puzzle_emb_ndim=0"),
        ({"pos_encodings": "learned"}, "pos_encodings=none"),
        ({"pos_encodings": "rope"}, "no attention to rotate"),
        ({"halting": "q_learning"}, "halting=halt_only"),
        ({"carry": "candidates", "halting": "fixed"}, "halting=halt_only"),
        ({"lattice": "standing"}, "a carry with candidates"),
        ({"carry": "candidates", "halting": "halt_only", "initial_state": "random"}, "initial_state=fixed"),
    ],
)
def test_a_lattice_that_cannot_be_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        tiny(**LATTICE | changes)
