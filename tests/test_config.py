"""Recipes and overrides: typed, closed, and helpful about mistakes."""

import pytest

from hrm.config import Recipe, dotted_keys, explained, load_recipe, recipe_names


def test_overrides_reach_nested_keys_and_keep_their_types():
    recipe = load_recipe("hrm-sudoku-1k", ["arch.L_cycles=8", "lr=7e-5", "augment=false", "random_H_cycles=[1,3]"])
    assert (recipe.arch.L_cycles, recipe.lr, recipe.augment, recipe.random_H_cycles) == (8, 7e-5, False, (1, 3))


@pytest.mark.parametrize("name", ["off", "7", "1e3", "2026-11-25", "a b", "a😀", "null"])
def test_names_stay_text_whatever_yaml_makes_of_them(name):
    recipe = load_recipe("hrm-sudoku-1k", [f"run_name={name}", f"data_path={name}x"])
    assert recipe.run_name == (None if name == "null" else name) and recipe.data_path == f"{name}x"
    assert load_recipe("hrm-sudoku-1k", ["run_name='off'"]).run_name == "off"


def test_papers_settings_are_in_the_recipe():
    recipe = load_recipe("hrm-sudoku-1k")
    assert (recipe.global_batch_size, recipe.lr, recipe.weight_decay, recipe.lr_warmup_steps) == (768, 1e-4, 1.0, 2000)
    assert (recipe.beta1, recipe.beta2, recipe.epochs, recipe.arch.halt_max_steps) == (0.9, 0.95, 20000, 16)
    assert recipe.total_steps(1000) == 26_041  # as the reference counts (pretrain.py)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("L_cycles=3", "unknown key 'L_cycles'; did you mean 'arch.L_cycles'"),
        ("arch.Lcycles=3", "did you mean 'arch.L_cycles'"),
        ("learning_rate=3", "unknown key 'learning_rate'"),
        ("lr=fast", "lr='fast'"),
        ("lr=-1", "lr=-1: .*greater than 0"),
        ("arch.levels=both", "'separate', 'shared' or 'single'"),
        ("arch.num_heads=7", "not a multiple of num_heads=7"),
        ("epochs=null", "either epochs or steps"),
        ("random_H_cycles=[5,2]", "smallest, largest"),
        ("depth_schedule=[[0.2,1]]", "must begin at 0"),
        ("depth_schedule=[[0,1],[0.5,2],[0.3,3]]", "rising shares"),
        ("feedback_noise=0.5", "only for arch.feedback=true"),
        ("arch=3", "arch"),
        ("justtext", "write key=value"),
        ("=3", "write key=value"),
        ("lr=${nope}", "nope"),
        ("ema=1.0", "ema=1.0: .*less than 1"),
        ("seed=9223372036854775808", "seed=9223372036854775808: .*less than"),
        ("arch.halt_max_steps=2147483648", "arch.halt_max_steps=2147483648: .*less than"),
        ("lr_schedule=linear_decay", "would not decay: set lr_min_ratio"),
        ("muon_lr=0.1", "muon_lr would change nothing here: it is only for optimizer=muon"),
        ("arch.patience=3", "only for a carry with candidates"),
        ("arch.mixer_expansion=2", "only for an MLP over positions"),
        ("arch.pos_encodings=learned arch.rope_theta=100", "only for arch.pos_encodings=rope or rope2d"),
    ],
)
def test_mistakes_get_one_line_with_the_nearest_right_name(override, words):
    with pytest.raises(ValueError, match=words) as caught:
        load_recipe("hrm-sudoku-1k", override.split())
    assert "\n" not in str(caught.value)


def test_a_carry_of_candidates_has_no_bar_for_looks():
    with pytest.raises(ValueError, match=r"arch.accept_above would change nothing here: it is only for a latent carry"):
        load_recipe("candidates-sudoku-1k", ["arch.accept_above=0.9"])


def test_a_length_takes_the_place_of_the_recipes():
    assert (load_recipe("hrm-sudoku-1k", ["steps=5"]).epochs, load_recipe("hrm-sudoku-1k", ["steps=5"]).steps) == (
        None,
        5,
    )
    assert load_recipe("sudoku-cpu", ["epochs=5"]).steps is None
    with pytest.raises(ValueError, match="either epochs or steps"):
        load_recipe("hrm-sudoku-1k", ["steps=5", "epochs=5"])


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_told_in_full_is_that_recipe(name, tmp_path):
    text, keys = explained(load_recipe(name)), {key.split(".")[-1] for key in dotted_keys(Recipe)}
    (tmp_path / "mine.yaml").write_text(text)
    assert load_recipe(str(tmp_path / "mine.yaml")) == load_recipe(name)
    for line, before in zip(text.splitlines()[1:], text.splitlines(), strict=False):
        key = line.strip().split(":")[0]
        assert key not in keys or before.strip().startswith("#"), f"{key} has no words"


def test_what_needs_rows_and_columns_or_one_depth_says_so():
    with pytest.raises(ValueError, match="needs rows, columns and boxes; task=maze has none"):
        load_recipe("maze-15x15", ["constraint_weight=0.3"])
    with pytest.raises(ValueError, match="expects values by softmax"):
        load_recipe("hrm-sudoku-1k", ["constraint_weight=0.3"])
    with pytest.raises(ValueError, match="both say how deep"):
        load_recipe("sudoku-cpu", ["depth_schedule=[[0,1]]"])


@pytest.mark.parametrize("override", ["test_at_end=true", "eval_every=100"])
def test_arc_is_not_measured_in_training(override):
    with pytest.raises(ValueError, match="task=arc is measured by votes"):
        load_recipe("arc-mini", [override])


def test_unknown_and_broken_recipe_files(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'trm-sudoku-1k'"):
        load_recipe("trm-sudoku")
    with pytest.raises(ValueError, match="no recipe file"):
        load_recipe(str(tmp_path / "none.yaml"))
    (tmp_path / "a.yaml").write_text("lr: [1")
    with pytest.raises(ValueError, match=r"a\.yaml"):
        load_recipe(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text("just text")
    with pytest.raises(ValueError, match=r"b\.yaml"):
        load_recipe(str(tmp_path / "b.yaml"))
    for content, words in ((b"- a\n- b\n", "expected key: value lines"), (b"\xff\xfe", "not a text file")):
        (tmp_path / "c.yaml").write_bytes(content)
        with pytest.raises(ValueError, match=words):
            load_recipe(str(tmp_path / "c.yaml"))


def test_a_users_own_recipe_file_works(tmp_path):
    (tmp_path / "mine.yaml").write_text("data_path: sudoku-6x6-1k\nsteps: 5\narch: {hidden_size: 64, num_heads: 2}\n")
    assert load_recipe(str(tmp_path / "mine.yaml")).arch.hidden_size == 64


def test_known_keys_and_recipes():
    assert {"lr", "arch.H_cycles", "global_batch_size"} <= set(dotted_keys(Recipe))
    assert {"hrm-sudoku-1k", "trm-sudoku-1k", "sudoku-6x6-demo", "sudoku-cpu"} <= set(recipe_names())
