"""Runs of streams with steps of three modalities: their test tasks, results, reports, and configs that are wrong."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from cmcl_jax.checkpoint import Checkpoints
from cmcl_jax.config import load_config
from cmcl_jax.continual import run
from cmcl_jax.open_stream import open_stream
from cmcl_jax.report import write_report
from cmcl_jax.report.comparison import load_comparison
from cmcl_jax.report.comparison_tasks import tasks_table
from cmcl_jax.stream import StreamError
from feature_cache import open_cache
from feature_cache.errors import UnknownNameError
from tests.tiny_caches import WIDTHS, write_tiny_caches
from tests.tiny_config import get_config

ROOMS = ("rooms", ("depth", "vision", "text"), ("accuracy", "recall"))
STEPS = (
    ("birds", ("text", "vision"), ("accuracy", "recall")),
    ROOMS,
    ("rooms", ("text", "depth"), ("recall",)),
    ("notes", ("audio", "text"), ("recall",)),
)
TASKS = [
    ("birds vision–text", 1, ["accuracy", "recall"]),
    ("rooms vision–text", 2, ["accuracy", "recall"]),
    ("rooms vision–depth", 2, ["recall"]),
    ("rooms text–depth", 2, ["accuracy", "recall"]),
    ("rooms text–depth", 3, ["recall"]),
    ("notes text–audio", 4, ["recall"]),
]


@pytest.fixture(scope="module")
def finished(tiny_caches: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict]]:
    """The folder and summary of an undisturbed run by a method; each is run once."""

    @functools.cache
    def of(method: str) -> tuple[Path, dict]:
        config, folder = get_config(), tmp_path_factory.mktemp(method)
        config.cache_dir, config.stream.steps, config.method = str(tiny_caches), STEPS, method
        return folder, run(config, folder)

    return of


@pytest.fixture
def config(tiny_config: ConfigDict) -> ConfigDict:
    tiny_config.stream.steps = STEPS
    return tiny_config


def test_a_step_of_n_modalities_has_a_test_task_for_each_pair_with_the_metrics_that_it_can_have(
    tiny_caches: Path,
) -> None:
    stream = open_stream(STEPS, tiny_caches, "tiny")
    assert [(task.name, task.step, list(task.metrics)) for task in stream.tasks] == TASKS
    assert stream.steps[1].modalities == ("vision", "text", "depth")
    assert stream.steps[1].name == "2 rooms vision–text–depth"
    assert stream.pairs == (("vision", "text"), ("vision", "depth"), ("text", "depth"), ("text", "audio"))
    features = stream.training_features(stream.steps[1], stream.steps[1].modalities)
    for role, modality in stream.steps[1].roles.items():
        stored = stream.caches["rooms"].features("train", modality)
        np.testing.assert_array_equal(features.by_role[role][:24], stored)


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (
            ("rooms", ("vision", "text", "vision"), ("recall",)),
            StreamError,
            r"Step 1 \(rooms\) must have different modalities, but they are \('vision', 'text', 'vision'\)",
        ),
        (("rooms", ("vision",), ("recall",)), StreamError, "Step 1 .* with at least two modalities, such as"),
        (("rooms", ("vision", "text", 3), ("recall",)), StreamError, "Step 1 of config.stream.steps is"),
        (("rooms", ("vision", "text", "dept"), ("recall",)), UnknownNameError, "'dept'; did you mean depth"),
        (
            ("rooms", ("vision", "text", "audio"), ("recall",)),
            UnknownNameError,
            r"modality of step 1 \(rooms\) 'audio'",
        ),
        (
            ("rooms", ("vision", "text", "depth"), ("accuracy",)),
            StreamError,
            r"\('accuracy',\) of step 1 .* its pair \('vision', 'depth'\) would not be measured. Add 'recall'",
        ),
        (
            ("rooms", ("vision", "text", "depth"), ("open_accuracy", "recall")),
            StreamError,
            "'open_accuracy' of step 1 .*cache with open classes; .* the cache has 0 of them",
        ),
    ],
)
def test_what_a_tuple_gets_wrong_is_named(tiny_caches: Path, step: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_stream([step], tiny_caches, "tiny")


@pytest.mark.parametrize("method", ["dns", "joint"])
def test_a_run_measures_every_pair_and_counts_it_as_learned_in_its_step(
    method: str, finished: Callable[[str], tuple[Path, dict]]
) -> None:
    tmp_path, summary = finished(method)
    content = json.loads((tmp_path / "tasks.json").read_text())
    assert content["steps"][1] == "2 rooms vision–text–depth"
    assert [(task["name"], task["step"], task["metrics"]) for task in content["tasks"]] == TASKS
    r10, accuracy = (np.load(tmp_path / f"{name}_matrix.npy") for name in ("r10", "accuracy"))
    assert r10.shape == accuracy.shape == (2, 5, 6) and not np.isnan(r10).any()
    assert np.isnan(accuracy).all(axis=(0, 1)).tolist() == ["accuracy" not in metrics for _, _, metrics in TASKS]
    assert summary["r10"]["mean"] == pytest.approx(r10[:, -1].mean())
    own = [step for _, step, _ in TASKS]
    since = (r10[:, -1] - r10[:, own, np.arange(6)])[:, :5]  # the last task is of the last step
    bwt = [None, None] if method == "joint" else pytest.approx(since.mean(axis=1).tolist(), abs=1e-4)
    assert summary["bwt_r10"]["seeds"] == bwt
    assert summary["gain_r10"]["mean"] > 5


def test_the_zero_shot_scores_and_chance_levels_of_a_tuples_tasks_are_those_of_its_pairs(
    config: ConfigDict, tmp_path: Path
) -> None:
    config.evaluation.credit = "any"
    summary = run(config, tmp_path)
    cache = open_cache(Path(config.cache_dir) / "tiny" / "rooms")
    for column, (a, b) in enumerate((("vision", "text"), ("vision", "depth"), ("text", "depth")), start=1):
        scores = cache.features("test", a) @ cache.features("test", b).T
        shared = 2 if "text" in (a, b) else 1  # every caption twice
        hits = [oriented.argmax(1) // shared == np.arange(16) // shared for oriented in (scores, scores.T)]
        np.testing.assert_allclose(np.load(tmp_path / "r1_matrix.npy")[:, 0, column], 100 * np.mean(hits), rtol=1e-6)
    labels = (cache.features("test", "depth") @ cache.class_features.T).argmax(1)
    found = np.load(tmp_path / "accuracy_matrix.npy")[:, 0, 3]
    np.testing.assert_allclose(found, 100 * np.mean(labels == cache.labels("test")), rtol=1e-6)
    assert summary["chance_r1"]["mean"] == pytest.approx((5 * 100 * 2 / 16 + 100 / 16) / 6)
    assert summary["chance_acc"]["mean"] == 25.0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dns", "joint"])
def test_a_run_with_tuples_that_dies_ends_with_the_bits_of_an_undisturbed_one(
    method: str,
    finished: Callable[[str], tuple[Path, dict]],
    config: ConfigDict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config.method = method
    undisturbed, whole = finished(method)
    save = Checkpoints.save

    def dying(self: Checkpoints, steps_done: int, state: object) -> None:
        save(self, steps_done, state)
        if steps_done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Checkpoints, "save", dying)
        run(config, tmp_path / "broken")
    assert run(config, tmp_path / "broken") == whole
    for file in undisturbed.rglob("*.npy"):
        assert file.read_bytes() == (tmp_path / "broken" / file.relative_to(undisturbed)).read_bytes()


@pytest.mark.slow
def test_unequal_widths_and_the_released_mode_train_tuples(config: ConfigDict, tmp_path: Path) -> None:
    write_tiny_caches(tmp_path / "caches" / "tiny", {**WIDTHS, "audio": 20, "depth": 9})
    config.cache_dir, config.method, config.dns.mode = str(tmp_path / "caches"), "dns", "released"
    assert run(config, tmp_path / "run")["gain_r10"]["mean"] > 5


def test_task_by_task_a_pair_that_two_steps_train_has_a_row_for_each(config: ConfigDict, tmp_path: Path) -> None:
    folders: dict[str, list[str | Path]] = {"vanilla": []}
    for order in (0, 1):
        config.stream.order_seed = order
        folders["vanilla"].append(tmp_path / str(order))
        run(config, tmp_path / str(order))
    comparison = load_comparison(folders)
    rows = [row for row in tasks_table(comparison).rows if row.label == "rooms text–depth · R@10"]
    expected = set()
    for modalities in (3, 2):
        levels = []
        for run_ in comparison.runs["vanilla"]:
            [column] = [
                i
                for i, task in enumerate(run_.tasks)
                if task.name == "rooms text–depth" and run_.steps[task.step - 1].count("–") == modalities - 1
            ]
            of_task = run_.matrices["r10"][:, :, column].mean(axis=0)
            levels.append([of_task[run_.tasks[column].step], of_task[-1]])
        expected.add("{:.1f} → {:.1f}".format(*np.mean(levels, axis=0)))
    assert len(rows) == 2 and {row.cells[1] for row in rows} == expected


@pytest.mark.slow
def test_the_pocket_suite_with_tuples_is_trained_and_reported(tmp_path: Path) -> None:
    few = ["stream.row_limit=64", "seeds=1", "training.epochs=1", "method=dns"]
    config = load_config("configs/pocket_tuples.py", few)
    assert [len(step[1]) for step in config.stream.steps] == [2, 2, 3, 2, 2, 2, 3, 2]
    config.stream.steps = [step for step in config.stream.steps if step[0] in ("furniture", "emoji_clips")]
    run(config, tmp_path / "run")
    report = write_report([tmp_path / "run"], tmp_path)
    assert {file.name for file in report.files} == {"report.md", "accuracy_and_recall.png", "tasks.png"}
    assert "2 steps on pocketbind, 1 seed" in (tmp_path / "report.md").read_text()
    tasks = json.loads((tmp_path / "run" / "tasks.json").read_text())["tasks"]
    assert [(task["name"], task["step"]) for task in tasks] == [
        ("furniture vision–text", 1),
        ("furniture vision–depth", 1),
        ("furniture text–depth", 1),
        ("emoji_clips vision–text", 2),
        ("emoji_clips vision–video", 2),
        ("emoji_clips text–video", 2),
    ]
    assert [task["metrics"] for task in tasks[:2]] == [["open_accuracy", "recall"], ["recall"]]
