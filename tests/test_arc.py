"""ARC: reading, tokens, augmentation and voting, against hand-made cases and a scorer written differently."""

import io
import json
from dataclasses import replace
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from conftest import HRM_FIELDS, read_as_the_references_do, refusal, tiny
from rich.console import Console
from typer.testing import CliRunner

from hrm.answers import Answers
from hrm.arc_data import build_arc
from hrm.checkpoint import save_weights
from hrm.cli import app
from hrm.data import Split, load_split
from hrm.display import arc_row
from hrm.evaluate import evaluate
from hrm.model import HRM
from hrm.reasoner import Reasoner
from hrm.sampling import DeviceSampler
from hrm.tasks.arc import (
    Arc,
    ArcTask,
    Pair,
    applied,
    canvases,
    cropped,
    draw_table,
    identifier,
    identity,
    overlap,
    read_tasks,
    tokens_of,
    turned,
    undone,
)
from hrm.voting import Ballot, evaluate_arc, scores, submission


def grid(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return rng.integers(0, 10, (rows, columns), np.uint8)


def a_task(seed: int, name: str = "t", tests: int = 1) -> ArcTask:
    rng = np.random.default_rng(seed)
    pairs = [Pair(grid(rng, *rng.integers(3, 8, 2)), grid(rng, *rng.integers(3, 8, 2))) for _ in range(3 + tests)]
    return ArcTask(name, tuple(pairs[:3]), tuple(pairs[3:]))


def document_of(task: ArcTask) -> dict:
    return {
        side: [{"input": p.input.tolist(), "output": p.output.tolist()} for p in pairs]
        for side, pairs in (("train", task.demos), ("test", task.tests))
    }


# --- grids and tokens


def test_the_end_of_a_grid_is_marked_where_the_canvas_has_room():
    canvas = tokens_of(np.array([[5, 0], [9, 1], [2, 2]], np.uint8), 1, 2).reshape(30, 30)
    expected = np.zeros((30, 30), int)
    expected[1:4, 2:4] = [[7, 2], [11, 3], [4, 4]]
    expected[4, 2:4] = expected[1:4, 4] = 1
    assert (canvas == expected).all()
    assert (tokens_of(np.zeros((30, 30), np.uint8)) == 2).all()
    assert (tokens_of(np.zeros((30, 2), np.uint8)).reshape(30, 30)[:, 2] == 1).all()


def test_cropping_takes_the_largest_rectangle_of_colours():
    rng = np.random.default_rng(0)
    for _ in range(20):
        whole = grid(rng, *rng.integers(1, 31, 2))
        assert np.array_equal(cropped(tokens_of(whole)), whole)
    canvas = tokens_of(np.full((4, 6), 3, np.uint8)).reshape(30, 30)
    canvas[2, 3] = 1  # 2x6 = 12 cells against 4x3 = 12: the fewer rows come first
    assert cropped(canvas.ravel()).shape == (2, 6)
    canvas[1, 5] = 0  # 2x5 = 10 against 4x3 = 12
    assert cropped(canvas.ravel()).shape == (4, 3)
    canvas[0, 0] = 1
    assert cropped(canvas.ravel()).shape == (0, 0)


def test_all_eight_turns_differ_and_come_back():
    rng = np.random.default_rng(1)
    shape = grid(rng, 3, 4)
    forms = {turned(shape, turn).tobytes() + bytes(turned(shape, turn).shape) for turn in range(8)}
    assert len(forms) == 8
    for turn in range(8):
        row = np.array([turn, 0, *(1 + rng.permutation(9))], np.uint8)
        assert np.array_equal(undone(applied(shape, row), row), shape)


def test_the_device_places_grids_as_the_host_does():
    rng = np.random.default_rng(2)
    for size in ((1, 1), (3, 7), (30, 12), (30, 30)):
        rows = np.stack([np.array([turn, 0, *(1 + rng.permutation(9))], np.uint8) for turn in range(8)])
        grids = [grid(rng, *size) for _ in rows]
        room = 30 - max(size)
        corners = rng.integers(0, room + 1, (8, 2))
        made = canvases(
            torch.from_numpy(np.stack([tokens_of(g) for g in grids])), torch.from_numpy(rows), torch.from_numpy(corners)
        )
        expected = [tokens_of(applied(g, row), *corner) for g, row, corner in zip(grids, rows, corners, strict=True)]
        assert (made.numpy() == np.stack(expected)).all()
    empty = canvases(
        torch.zeros(1, 900, dtype=torch.uint8), torch.from_numpy(identity()[None]), torch.zeros(1, 2).long()
    )
    assert not empty.any()


# --- tables of augmentations


def test_augmentations_differ_and_are_a_function_of_the_seed():
    task = a_task(0)
    table = draw_table(task, 50, np.random.default_rng(5))
    assert len(table) == 51 and (table[0] == identity()).all()
    forms = {
        tuple(applied(p.input, row).tobytes() + applied(p.output, row).tobytes() for p in task.demos) for row in table
    }
    assert len(forms) == 51
    assert (draw_table(task, 50, np.random.default_rng(5)) == table).all()
    assert len({identifier("t", row) for row in table}) == 51 and identifier("t", table[0]) == "t"
    black = ArcTask("b", (Pair(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)),) * 2, ())
    assert len(draw_table(black, 50, np.random.default_rng(0))) == 1  # nothing about it can change


def test_tasks_that_share_an_example_are_found_turned_and_recoloured():
    first, second, other = a_task(1, "first"), a_task(2, "second"), a_task(3, "other")
    row = np.array([3, 0, *(1 + np.random.default_rng(0).permutation(9))], np.uint8)
    hidden = Pair(applied(first.demos[1].input, row), applied(first.demos[1].output, row))
    disguised = ArcTask("disguised", (second.demos[0], hidden), second.tests)
    assert overlap([first, other], [disguised]) == [("first", "disguised")]
    assert overlap([first, other], [second]) == []
    third = ArcTask("third", (), (Pair(second.demos[0].input, second.demos[0].output),))
    assert overlap([third, first, second], [disguised]) == [
        (name, "disguised") for name in ("first", "second", "third")
    ]


# --- reading


def test_folders_zips_and_kaggle_pairs_are_read_alike(tmp_path):
    tasks = [a_task(k, f"{k:08x}", tests=2) for k in range(3)]
    (tmp_path / "d" / "evaluation").mkdir(parents=True)
    with ZipFile(tmp_path / "d.zip", "w") as archive:
        for task in tasks:
            text = json.dumps(document_of(task))
            (tmp_path / "d" / "evaluation" / f"{task.name}.json").write_text(text)
            archive.writestr(f"data/evaluation/{task.name}.json", text)
            archive.writestr(f"__MACOSX/data/evaluation/._{task.name}.json", b"\xff\xfe\0")
    documents = {task.name: document_of(task) for task in tasks}
    answers = {name: [pair.pop("output") for pair in d["test"]] for name, d in documents.items()}
    (tmp_path / "k").mkdir()
    with ZipFile(tmp_path / "k.zip", "w") as archive:
        for kind, content in (("challenges", documents), ("solutions", answers)):
            name, text = f"arc-agi_evaluation_{kind}.json", json.dumps(content)
            (tmp_path / name).write_text(text, encoding="utf-8-sig")
            (tmp_path / "k" / name).write_text(text)
            archive.writestr(name, text)
        archive.writestr("sample_submission.json", "{}")
    (tmp_path / "h").mkdir()
    for kind in ("challenges", "solutions"):  # as some spell them
        (tmp_path / "h" / f"arc-agi_evaluation-{kind}.json").write_text(
            (tmp_path / "k" / f"arc-agi_evaluation_{kind}.json").read_text()
        )
    for source in ("d", "d.zip", "arc-agi_evaluation_challenges.json", "k", "k.zip", "h"):
        found = read_tasks(tmp_path / source)
        assert list(found) == ["evaluation"]
        assert [document_of(task) for task in found["evaluation"]] == [document_of(task) for task in tasks]
    (tmp_path / "arc-agi_evaluation_solutions.json").unlink()
    unknown = read_tasks(tmp_path / "arc-agi_evaluation_challenges.json")["evaluation"]
    assert all(pair.output is None for task in unknown for pair in task.tests)


@pytest.mark.parametrize(
    ("solutions", "words"),
    [
        ("[]", "expected a JSON object"),
        ('{"b0": 5}', "b0: expected a list of 2 grids"),
        ('{"b0": [[[1]]]}', "of 2 grids"),
    ],
)
def test_solutions_that_do_not_fit_are_refused_in_one_line(tmp_path, solutions, words):
    (tmp_path / "x_challenges.json").write_text(json.dumps({task.name: document_of(task) for task in EVALUATION}))
    (tmp_path / "x_solutions.json").write_text(solutions)
    with pytest.raises(ValueError, match=rf"x_solutions.json: .*{words}"):
        read_tasks(tmp_path / "x_challenges.json")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"train": [{"input": [[1]], "output": [[1]]}], "test": 5}', 'expected {"train"'),
        ('{"train": []}', "no demonstrations"),
        ('{"train": [{"input": [[1]]}]}', "train 1: needs an input and an output"),
        ('{"train": [{"input": [[1]], "output": null}]}', "train 1: needs an input and an output"),
        ('{"train": [{"input": [[' + "1" * 5000 + "]]}]}", "not JSON"),
        ('{"train": [{"input": [[1, 2], [3]], "output": [[1]]}]}', "train 1 input: rows of 1 and of 2 cells"),
        ('{"train": [{"input": [[12]], "output": [[1]]}]}', "colour 12, expected 0 to 9"),
        ('{"train": [{"input": [[1]], "output": ' + json.dumps([[0]] * 31) + "}]}", "31x1 cells"),
        ('{"train": [{"input": [[1]], "output": [[1]]}], "test": []}', "nothing is asked"),
    ],
)
def test_files_that_are_no_tasks_are_refused_in_one_line(tmp_path, document, words):
    (tmp_path / "bad.json").write_text(document)
    with pytest.raises(ValueError, match="bad.json.*" + words) as refusal:
        read_tasks(tmp_path / "bad.json")
    assert "\n" not in str(refusal.value)


def test_damaged_and_encrypted_zips_are_refused_in_one_line(tmp_path):
    with ZipFile(tmp_path / "good.zip", "w", ZIP_DEFLATED) as archive:
        archive.writestr("t.json", json.dumps(document_of(a_task(0))))
    good = (tmp_path / "good.zip").read_bytes()
    name, listed = good.index(b"t.json"), good.index(b"PK\1\2")
    damaged = good[: name + 6] + b"\xff" * 40 + good[name + 46 :]
    encrypted = good[:6] + b"\1" + good[7 : listed + 8] + b"\1" + good[listed + 9 :]  # bit 0 of the flags
    for content, words in ((damaged, "invalid block type"), (encrypted, "encrypted"), (good[:60], "not a zip file")):
        (tmp_path / "bad.zip").write_bytes(content)
        with pytest.raises(ValueError, match="bad.zip: not a readable zip file: .*" + words) as refusal:
            read_tasks(tmp_path / "bad.zip")
        assert "\n" not in str(refusal.value)


# --- voting and scores


def ballot(*votes: tuple[np.ndarray, float]) -> Ballot:
    made = Ballot()
    for shape, confidence in votes:
        made.add(tokens_of(shape), identity(), confidence)
    return made


A, B, C = (np.full((2, 2), colour, np.uint8) for colour in (1, 2, 3))


def test_votes_come_first_then_mean_confidence_then_order():
    assert [g[0, 0] for g in ballot((A, 0.1), (A, 0.1), (B, 0.9)).attempts()] == [1, 2]
    assert [g[0, 0] for g in ballot((A, 0.1), (B, 0.9), (C, 0.5)).attempts()] == [2, 3]
    assert [g[0, 0] for g in ballot((C, 0.5), (B, 0.5), (A, 0.5)).attempts()] == [3, 2]


def test_answers_under_any_augmentation_vote_for_one_grid():
    rng, made = np.random.default_rng(7), Ballot()
    answer = grid(rng, 4, 3)
    for turn in range(8):
        row = np.array([turn, 0, *(1 + rng.permutation(9))], np.uint8)
        made.add(tokens_of(applied(answer, row)), row, 0.5)
    assert made.cast == 8 and len(made.ranking()) == 1 and np.array_equal(made.attempts()[0], answer)
    made.add(np.zeros(900, np.uint8), identity(), 1.0)  # an empty canvas is no vote
    assert made.cast == 8


def test_voting_is_decided_when_nothing_can_change():
    made = ballot(*[(A, 0.5)] * 5, *[(B, 0.5)] * 3)
    assert made.decided(1) and not made.decided(2)  # two more votes could make B equal to A
    assert not ballot(*[(A, 0.5)] * 5).decided(1)  # the second attempt is open


def brute_force(tasks: list[ArcTask], attempts: dict[str, list[dict]]) -> tuple[float, float, float]:
    """From a submission document, as the rules state it."""
    whole, points, found, asked = 0, 0.0, 0, 0
    for task in tasks:
        right = 0
        for entry, pair in zip(attempts[task.name], task.tests, strict=True):
            right += pair.output.tolist() in list(entry.values())
        whole += right == len(task.tests)
        points += right / len(task.tests)
        found, asked = found + right, asked + len(task.tests)
    return whole / len(tasks), points / len(tasks), found / asked


def test_the_scoring_rules_agree_with_a_scorer_of_submissions():
    rng = np.random.default_rng(11)
    tasks = [a_task(k, f"task{k}", tests=1 + k % 3) for k in range(12)]
    ballots = {}
    for task in tasks:
        for number, pair in enumerate(task.tests):
            if rng.random() < 0.1:
                continue  # never answered
            wrong = [grid(rng, 2, 2) for _ in range(3)]
            votes = [(pair.output, 0.5)] * int(rng.integers(0, 4)) + [(w, 0.5) for w in wrong for _ in range(2)]
            ballots[task.name, number] = ballot(*votes)
    found = scores(tasks, ballots)
    document = json.loads(json.dumps(submission(tasks, ballots)))
    assert tuple(found.values())[1:] == pytest.approx(brute_force(tasks, document))
    assert 0 < found["whole_task"] < found["share_of_all_test_inputs"] < found["share_of_test_inputs"] < 1
    assert all(set(e) == {"attempt_1", "attempt_2"} for entries in document.values() for e in entries)
    assert scores(tasks, ballots, k=10)["whole_task"] >= found["whole_task"]


RULES = ("whole_task", "share_of_test_inputs", "share_of_all_test_inputs")

# --- building


def source_of(folder: Path, training: list[ArcTask], evaluation: list[ArcTask]) -> str:
    for part, tasks in (("training", training), ("evaluation", evaluation)):
        (folder / part).mkdir(parents=True)
        for task in tasks:
            (folder / part / f"{task.name}.json").write_text(json.dumps(document_of(task)))
    return str(folder)


TRAINING, EVALUATION = [a_task(k, f"a{k}") for k in range(4)], [a_task(10 + k, f"b{k}", tests=2) for k in range(3)]


def test_the_same_seed_gives_the_same_bytes_and_identifiers(tmp_path):
    source = source_of(tmp_path / "s", TRAINING, EVALUATION)
    built = [
        build_arc(source=source, out=tmp_path / name, num_aug=5, seed=seed, layout=layout)
        for name, seed, layout in (("a", 0, "table"), ("b", 0, "table"), ("c", 1, "table"), ("d", 0, "reference"))
    ]
    assert built[0].hash == built[1].hash != built[2].hash
    names = [(tmp_path / name / "identifiers.json").read_text() for name in "abcd"]
    assert names[0] == names[1] == names[3] != names[2]
    assert built[0].counts == {"train": 7, "test": 3}


def test_the_table_gives_what_the_reference_layout_writes_out(tmp_path):
    source = source_of(tmp_path / "s", TRAINING, EVALUATION)
    for layout in ("table", "reference"):
        build_arc(source=source, out=tmp_path / layout, num_aug=5, layout=layout)
    brief, full = (load_split(str(tmp_path / layout), "test") for layout in ("table", "reference"))
    named = {}
    for p, number in enumerate(full.puzzle_identifiers):
        rows = slice(full.puzzle_indices[p], full.puzzle_indices[p + 1])
        named[int(number)] = full.inputs[rows]
    assert len(named) == 18
    for p, number in enumerate(brief.puzzle_identifiers):
        for k, row in enumerate(brief.table[brief.table_indices[p] : brief.table_indices[p + 1]]):
            inputs = torch.from_numpy(brief.inputs[brief.puzzle_indices[p] : brief.puzzle_indices[p + 1]])
            rows = torch.from_numpy(row).expand(len(inputs), -1)
            made = canvases(inputs, rows, torch.zeros(len(inputs), 2).long())
            assert (made.numpy() == named[int(number) + k]).all()


def test_both_references_can_read_a_build_and_all_but_one_example_of_a_puzzle_are_moved(tmp_path):
    source = source_of(tmp_path / "s", TRAINING, EVALUATION)
    build_arc(source=source, out=tmp_path / "d", num_aug=7, layout="reference")
    names, tasks = json.loads((tmp_path / "d" / "identifiers.json").read_text()), {t.name: t for t in TRAINING}
    moved = []
    for group in read_as_the_references_do(tmp_path / "d", "train", [*HRM_FIELDS, "total_puzzles"]):
        assert len(group) == 8
        for puzzle in group:
            name, *rest = names[int(puzzle[0][2])].split("|||")
            row = np.array([int(rest[0][1:]), *map(int, rest[1])], np.uint8) if rest else identity()
            corners = [np.argwhere((inputs >= 2).reshape(30, 30)).min(0) for inputs, _, _ in puzzle]
            stays = sum(not corner.any() for corner in corners)
            assert stays >= 1
            moved.append(stays < len(puzzle))
            if name in tasks:
                pairs = (*tasks[name].demos, *tasks[name].tests)
                for (inputs, labels, _), (r, c) in zip(puzzle, corners, strict=True):
                    back = (
                        np.roll(tokens.reshape(30, 30), (-r, -c), (0, 1)).reshape(-1) for tokens in (inputs, labels)
                    )
                    a, b = (undone(cropped(tokens), row) for tokens in back)
                    assert any(np.array_equal(a, p.input) and np.array_equal(b, p.output) for p in pairs)
    assert np.mean(moved) > 0.9
    asked = json.loads((tmp_path / "d" / "test_puzzles.json").read_text())  # which TRM's evaluator opens
    assert asked == {task.name: document_of(task) for task in EVALUATION}


def test_an_extra_task_is_dropped_only_where_it_is_the_one_of_its_name(tmp_path):
    extra = [TRAINING[0], a_task(77, TRAINING[1].name)]
    source = source_of(tmp_path / "s", TRAINING, EVALUATION)
    same, other = (source_of(tmp_path / name, [task], []) for name, task in zip("eo", extra, strict=True))
    plain = build_arc(source=source, out=tmp_path / "a", num_aug=2)
    assert build_arc(source=source, extra_training=same, out=tmp_path / "b", num_aug=2).hash == plain.hash
    with pytest.raises(ValueError, match=f"two tasks are named {TRAINING[1].name}"):
        build_arc(source=source, extra_training=other, out=tmp_path / "c", num_aug=2)


def test_batches_of_a_table_are_augmented_examples_with_their_identifiers(tmp_path):
    source = source_of(tmp_path / "s", TRAINING, EVALUATION)
    build_arc(source=source, out=tmp_path / "d", num_aug=5)
    names = json.loads((tmp_path / "d" / "identifiers.json").read_text())
    tasks = {task.name: task for task in (*TRAINING, *EVALUATION)}
    sampler = DeviceSampler(load_split(str(tmp_path / "d"), "train"), batch_size=16, seed=3)
    seen, moved = set(), 0
    for k in range(12):
        batch = sampler.batch(k)
        again = sampler.batch(k)
        assert all((batch[key] == again[key]).all() for key in batch)
        for inputs, labels, number in zip(*(batch[key].numpy() for key in batch), strict=True):
            name, *rest = names[number].split("|||")
            seen.add(int(number))
            row = np.array([int(rest[0][1:]), *map(int, rest[1])], np.uint8) if rest else identity()
            pairs = [(applied(p.input, row), applied(p.output, row)) for p in (*tasks[name].demos, *tasks[name].tests)]
            r, c = np.argwhere((inputs >= 2).reshape(30, 30)).min(0)
            moved += bool(r or c)
            held = [
                (tokens_of(a, r, c) == inputs).all() and (tokens_of(b, r, c) == np.maximum(labels, 0)).all()
                for a, b in pairs
                if r + max(a.shape[0], b.shape[0]) <= 30 and c + max(a.shape[1], b.shape[1]) <= 30
            ]
            assert any(held)
    assert len(seen) > 30 and 48 < moved < 192


def test_a_visit_to_a_table_takes_one_identifier_and_leaves_one_example_in_place(tmp_path):
    build_arc(source=source_of(tmp_path / "s", TRAINING, EVALUATION), out=tmp_path / "d", num_aug=20)
    split = load_split(str(tmp_path / "d"), "train")
    sampler = DeviceSampler(split, batch_size=len(split.inputs), seed=1)
    task_of = np.repeat(np.arange(len(split.puzzle_identifiers)), np.diff(split.table_indices))
    drawn = set()
    for epoch in range(20):
        batch = sampler.batch(epoch)
        numbers = batch["puzzle_identifiers"].numpy()
        drawn.add(tuple(sorted(set(numbers))))
        grids = (batch["inputs"] >= 2).view(-1, 30, 30)
        stays = grids[:, 0].any(1) & grids[:, :, 0].any(1)
        for task in set(task_of):
            mine = task_of[numbers - 1] == task
            assert mine.sum() == np.diff(split.puzzle_indices)[task] and len(set(numbers[mine])) == 1
            assert 1 <= stays.numpy()[mine].sum() < max(2, mine.sum())
    assert len(drawn) == 20


def test_small_canvases_hold_small_tasks(tmp_path):
    source = source_of(tmp_path / "s", TRAINING, EVALUATION)
    build_arc(source=source, out=tmp_path / "d", num_aug=4, side=9, asked_part="training", smallest=2)
    split = load_split(str(tmp_path / "d"), "test")
    size = {t.name: max(max(g.shape) for p in (*t.demos, *t.tests) for g in (p.input, p.output)) for t in TRAINING}
    names = json.loads((tmp_path / "d" / "identifiers.json").read_text())
    assert {names[k] for k in split.puzzle_identifiers} == set(sorted(size, key=lambda n: (size[n], n))[:2])
    assert split.inputs.shape[1] == 81
    batch = DeviceSampler(load_split(str(tmp_path / "d"), "train"), batch_size=8, seed=0).batch(0)
    assert batch["inputs"].shape == (8, 81) and ((batch["inputs"] >= 2).sum(1) >= 9).all()
    with pytest.raises(ValueError, match="larger than 4x4, .* for one: use"):
        build_arc(source=source, out=tmp_path / "e", side=4)
    with pytest.raises(ValueError, match="no part 'tests'"):
        build_arc(source=source, out=tmp_path / "e", asked_part="tests")


def test_concept_arc_is_its_repository_without_the_minimal_tasks(tmp_path):
    for k, folder in enumerate(("corpus/Copy", "corpus/Count", "MinimalTasks")):
        (tmp_path / "c" / folder).mkdir(parents=True)
        (tmp_path / "c" / folder / f"t{k}.json").write_text(json.dumps(document_of(TRAINING[k])))
    asked = ["data", "build", "arc", "--set", "concept", "--num-aug", "0", "--out", str(tmp_path / "d")]
    assert "--set concept" in refusal(*asked) and "give --source beside it" in refusal(*asked)
    ran = CliRunner().invoke(app, [*asked, "--source", str(tmp_path / "c")])
    assert ran.exit_code == 0 and "2 train, 2 test" in ran.output, ran.output


def test_policies_train_on_what_they_say(tmp_path):
    source = source_of(tmp_path / "s", TRAINING, EVALUATION)
    examples = {}
    for policy in ("transductive", "training", "evaluation-demos"):
        build_arc(source=source, out=tmp_path / policy, num_aug=0, policy=policy)
        examples[policy] = {row.tobytes() for row in load_split(str(tmp_path / policy), "train").inputs}
    trained = {tokens_of(p.input).tobytes() for task in TRAINING for p in (*task.demos, *task.tests)}
    demos = {tokens_of(p.input).tobytes() for task in EVALUATION for p in task.demos}
    assert examples == {"transductive": trained | demos, "training": trained, "evaluation-demos": demos}


def test_a_training_set_that_holds_the_questions_is_refused_by_name(tmp_path):
    source = source_of(tmp_path / "s", TRAINING, EVALUATION)
    other = source_of(tmp_path / "o", [ArcTask("c0", EVALUATION[1].demos, a_task(77).tests), a_task(78, "c1")], [])
    with pytest.raises(ValueError, match="b1 with c0.*--without-overlap"):
        build_arc(source=source, out=tmp_path / "d", extra_training=other)
    report = build_arc(source=source, out=tmp_path / "d", extra_training=other, without_overlap=True, num_aug=1)
    assert report.counts["train"] == 8 and "left out" in str(report)
    audit = json.loads((tmp_path / "d" / "hashes.json").read_text())["audit"]
    assert audit == {"tasks_that_share_an_example": [["c0", "b1"]], "demonstrations_that_are_tests": []}


def test_a_task_in_two_parts_of_a_source_is_refused_by_name(tmp_path):
    source = source_of(tmp_path / "s", [*TRAINING, EVALUATION[1]], EVALUATION)
    with pytest.raises(ValueError, match=r"1 asked tasks .*\(b1\): leave those out with --without-overlap"):
        build_arc(source=source, out=tmp_path / "d", num_aug=1)
    report = build_arc(source=source, out=tmp_path / "d", num_aug=1, without_overlap=True)
    assert report.counts == {"train": 7, "test": 3}  # of b1 the demonstrations alone
    (tmp_path / "s" / "test").mkdir()  # Kaggle's own test file repeats the evaluation tasks until the contest ends
    (tmp_path / "s" / "test" / "b0.json").write_text(json.dumps(document_of(EVALUATION[0])))
    with pytest.raises(
        ValueError, match="parts evaluation and test both hold a task b0: choose which is asked by --ask"
    ):
        build_arc(source=source, out=tmp_path / "e", num_aug=1)


def test_a_test_among_the_demonstrations_trained_on_is_named_and_can_be_left_out(tmp_path):
    first, second = EVALUATION[:2]
    row = np.array([5, 0, *(1 + np.random.default_rng(3).permutation(9))], np.uint8)
    disguised = Pair(*(applied(grid, row) for grid in (first.tests[1].input, first.tests[1].output)))
    source = source_of(tmp_path / "s", TRAINING, [first, replace(second, demos=(*second.demos, disguised))])
    held = {}
    for out, options in (("kept", {}), ("left", {"without_overlap": True}), ("none", {"policy": "training"})):
        report = build_arc(source=source, out=tmp_path / out, num_aug=1, **options)
        told = "1 asked tasks have a test among the demonstrations trained on (b0 with b1)"
        assert (told in str(report)) == (out != "none")
        held[out] = {row.tobytes() for row in load_split(str(tmp_path / out), "train").inputs}
    assert held["kept"] - held["left"] == {tokens_of(disguised.input).tobytes()} and held["left"] < held["kept"]


def test_two_tasks_of_one_name_are_refused(tmp_path):
    source, other = source_of(tmp_path / "s", TRAINING, EVALUATION), source_of(tmp_path / "o", [a_task(78, "b1")], [])
    with pytest.raises(ValueError, match="two tasks are named b1"):
        build_arc(source=source, out=tmp_path / "d", extra_training=other)
    assert not (tmp_path / "d").exists()
    with pytest.raises(ValueError, match="not with --policy evaluation-demos"):
        build_arc(source=source, out=tmp_path / "d", extra_training=other, policy="evaluation-demos")


def test_wide_grids_stand_below_each_other():
    grids = [("given", np.ones((3, 30), int)), ("gives", np.full((2, 30), 2))]
    for width, lines in ((140, 5), (80, 9)):
        console = Console(width=width, file=io.StringIO())
        console.print(arc_row(grids, console))
        text = console.file.getvalue()
        assert text.count("1 " * 30) == 3 and text.count("2 " * 30) == 2 and len(text.splitlines()) == lines


def test_grids_are_told_by_digits_where_a_terminal_has_no_colours():
    for setting, digits in (({"NO_COLOR": "1"}, 6), ({"TERM": "dumb"}, 6), ({"TERM": "xterm-256color"}, 0)):
        console = Console(file=io.StringIO(), force_terminal=True, _environ=setting)
        console.print(arc_row([("given", np.full((2, 3), 7))], console))
        assert console.file.getvalue().count("7 ") == digits


def arc_weights(folder: Path, split: Split, hash: str | None) -> Path:
    """Random weights for a data set, whose card says that a set of this hash was trained on."""
    meta = split.metadata
    shape = {"vocab_size": 12, "seq_len": meta.seq_len, "num_puzzle_identifiers": meta.num_puzzle_identifiers}
    save_weights(folder, HRM(tiny(**shape, halt_max_steps=1)), "arc", {"data_hash": hash} if hash else {})
    return folder


def test_weights_are_measured_on_no_other_identifiers_than_their_own(tmp_path):
    source = source_of(tmp_path / "s", TRAINING, EVALUATION)
    for name, seed, num_aug in (("own", 0, 1), ("other", 1, 1), ("larger", 0, 2)):
        build_arc(source=source, out=tmp_path / name, num_aug=num_aug, seed=seed, side=8)
    split = load_split(str(tmp_path / "own"), "train")
    ours = arc_weights(tmp_path / "ours", split, split.hash)
    ran = CliRunner().invoke(app, ["eval", str(ours), "--data", str(tmp_path / "own")])
    assert ran.exit_code == 0 and "tasks 3 of" in ran.output, ran.output
    ran = CliRunner().invoke(app, ["eval", str(ours), "--data", str(tmp_path / "own"), "--limit", "2"])
    assert "tasks 2 of" in ran.output
    for ignored in ("--passes 2", "--select votes", "--check", "--noise 1", "--pins 1"):
        line = refusal("eval", ours, "--data", tmp_path / "own", *ignored.split())
        assert line.startswith(f"{ignored.split()[0]}: not for ARC")
    assert "ARC needs a folder" in refusal("eval", ours, "--data", __file__)
    assert f"other: not the data set that {ours} was trained on" in refusal("eval", ours, "--data", tmp_path / "other")
    assert "trained with 15 puzzle identifiers, " in refusal("eval", ours, "--data", tmp_path / "larger")
    ran = CliRunner().invoke(app, ["eval", str(ours), "--data", str(tmp_path / "own"), "--ensemble", str(ours)])
    assert ran.exit_code == 0 and "an ensemble of 2 checkpoints votes" in ran.output, ran.output
    to_file = ["--json", str(tmp_path / "report.json")]
    assert CliRunner().invoke(app, ["eval", str(ours), "--data", str(tmp_path / "own"), *to_file]).exit_code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["weights"], report["ensemble"], report["data"]) == (str(ours), [], str(tmp_path / "own"))
    ensemble = ("eval", ours, "--data", tmp_path / "own", "--ensemble")
    assert "sudoku: these weights are not for ARC" in refusal(*ensemble, "sudoku")
    foreign = arc_weights(tmp_path / "foreign", split, load_split(str(tmp_path / "other"), "train").hash)
    assert f"not the data set that {foreign} was trained on" in refusal(*ensemble, foreign)
    unknown = arc_weights(tmp_path / "unknown", split, None)  # as a reference's converted checkpoint
    assert CliRunner().invoke(app, ["eval", str(unknown), "--data", str(tmp_path / "other")]).exit_code == 0


def test_canvases_are_counted_one_by_one_too(tmp_path):
    """As training does for its log, where no votes are taken."""
    build_arc(source=source_of(tmp_path / "s", TRAINING, EVALUATION), out=tmp_path / "d", num_aug=1)
    split = load_split(str(tmp_path / "d"), "test")
    report = evaluate(
        Reasoner(HRM(tiny(vocab_size=12, seq_len=900, num_puzzle_identifiers=99, halt_max_steps=1)), "arc"), split
    )
    assert report["rows"] == report["distinct_questions"] == 6


def test_tests_without_a_known_answer_are_asked_and_not_scored(tmp_path):
    documents = {task.name: document_of(task) for task in EVALUATION}
    answers = {name: [pair.pop("output") for pair in d["test"]] for name, d in documents.items()}
    source = tmp_path / "arc-agi_evaluation_challenges.json"
    source.write_text(json.dumps(documents))
    build_arc(source=str(source), out=tmp_path / "none", num_aug=2, policy="evaluation-demos")
    documents["b0"]["test"][1]["output"] = answers["b0"][1]  # one is known, and not the first
    source.write_text(json.dumps(documents))
    build_arc(source=str(source), out=tmp_path / "one", num_aug=2, policy="evaluation-demos")
    for name, scored in (("none", {}), ("one", {"scored_tasks": 1} | dict.fromkeys(RULES, 1.0))):
        names = json.loads((tmp_path / name / "identifiers.json").read_text())
        split = load_split(str(tmp_path / name), "test")
        report, document = evaluate_arc([Oracle(EVALUATION, names, 0.0)], split, names, split.puzzle_identifiers[1:])
        assert report["untrained_tasks"] == 1
        assert scored.items() <= report.items() and ("whole_task" in report) == bool(scored)
        assert report.get("right_tasks") == (["b0"] if scored else None) and report["most_votes"] <= 3
        given = {name: [entry["attempt_1"] for entry in entries] for name, entries in document.items()}
        assert given == answers
    with pytest.raises(ValueError, match="no rows with a known answer"):
        evaluate(Oracle(EVALUATION, names, 0.0), load_split(str(tmp_path / "none"), "test"))
    trained = load_split(str(tmp_path / "none"), "train")
    asked = ["eval", str(arc_weights(tmp_path / "weights", trained, trained.hash)), "--data", str(tmp_path / "none")]
    ran = CliRunner().invoke(app, [*asked, "--submission", str(tmp_path / "submission.json")])
    assert ran.exit_code == 0 and "not scored" in ran.output, ran.output
    assert json.loads((tmp_path / "submission.json").read_text()).keys() == answers.keys()


class Oracle:
    """Stands in for a Reasoner: knows the answers, and is wrong for the augmentations it is told."""

    task, halt, max_segments = Arc(), "never", 1

    def __init__(self, tasks: list[ArcTask], identifiers: list[str], wrong: float):
        self.tasks, self.identifiers, self.wrong, self.asked = {t.name: t for t in tasks}, identifiers, wrong, 0

    def run(self, tokens: np.ndarray, numbers: np.ndarray) -> Answers:
        found = Answers.empty(len(tokens), 900)
        for k, (canvas, number) in enumerate(zip(tokens, numbers, strict=True)):
            self.asked += 1
            name, *rest = self.identifiers[number].split("|||")
            row = np.array([int(rest[0][1:]), *map(int, rest[1])], np.uint8) if rest else identity()
            pair = next(p for p in self.tasks[name].tests if (tokens_of(applied(p.input, row)) == canvas).all())
            lost = np.random.default_rng(int(number)).random() < self.wrong
            found.tokens[k] = tokens_of(grid(np.random.default_rng(k), 2, 2) if lost else applied(pair.output, row))
            found.confidence[k] = 0.5
        return found


@pytest.mark.parametrize(("wrong", "right"), [(0.0, 1.0), (0.6, 1.0), (1.0, 0.0)])
def test_votes_over_augmentations_find_the_answer(tmp_path, wrong, right):
    source = source_of(tmp_path / "s", TRAINING, EVALUATION)
    build_arc(source=source, out=tmp_path / "d", num_aug=40)
    split, names = (
        load_split(str(tmp_path / "d"), "test"),
        json.loads((tmp_path / "d" / "identifiers.json").read_text()),
    )
    oracle = Oracle(EVALUATION, names, wrong)
    report, document = evaluate_arc([oracle], split, names, split.puzzle_identifiers)
    assert report["whole_task"] == report["share_of_test_inputs"] == right
    assert report["test_inputs"] == 6 and set(document) == {"b0", "b1", "b2"}
    assert evaluate_arc([oracle], split, names, split.puzzle_identifiers, votes=1)[0]["votes"] == 6
    assert oracle.asked <= 6 * 41 + 6
    pair = [oracle, Oracle(EVALUATION, names, 0.0)]  # of which one is always right
    report, _ = evaluate_arc(pair, split, names, split.puzzle_identifiers, votes=1)
    assert (report["checkpoints"], report["votes"], report["whole_task"]) == (2, 12, 1.0)
