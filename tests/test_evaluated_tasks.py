"""After a step, only tasks with a head that it trained are measured; the others keep their row, to the bit."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from cmcl_jax import continual, measuring
from cmcl_jax.evaluate import evaluate_task
from cmcl_jax.stream import Task
from cmcl_jax.train import StepByStep

ALL = ["birds vision–text", "notes text–audio", "rooms text–depth", "rooms vision–depth"]
WITH_TEXT_OR_AUDIO, WITH_VISION_OR_DEPTH = ALL[:3], [ALL[0], *ALL[2:]]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tasks that were measured, in order."""
    names = []

    def recording(heads: object, task: Task, *args: object, **kwargs: object) -> object:
        names.append(task.name)
        return evaluate_task(heads, task, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring, "evaluate_task", recording)
    return names


def matrices(workdir: Path) -> dict[str, np.ndarray]:
    return {file.stem: np.load(file) for file in workdir.glob("matrices/*.npy")}


def test_unchanged_tasks_are_copied_and_equal_the_full_evaluation(
    measured: list[str], tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps train vision and text, text and audio, text and depth, vision and depth."""
    tiny_config.seeds = 1
    continual.run(tiny_config, tmp_path / "changed")
    assert measured == [*ALL, *ALL, *WITH_TEXT_OR_AUDIO, *ALL, *WITH_VISION_OR_DEPTH]
    measured.clear()
    monkeypatch.setattr(StepByStep, "stepwise", False)  # a learner of which nothing is known trains all heads
    continual.run(tiny_config, tmp_path / "all")
    assert measured == ALL * 5
    changed, everything = matrices(tmp_path / "changed"), matrices(tmp_path / "all")
    assert changed.keys() == everything.keys()
    for name, matrix in everything.items():
        np.testing.assert_array_equal(changed[name], matrix)  # NaN where it is not the task's metric
    assert (everything["map"][:, 2, 3] == everything["map"][:, 1, 3]).all()
    assert (everything["map"][:, 3, 3] != everything["map"][:, 2, 3]).all()  # a task that moves is not copied


def test_joint_training_measures_every_task_after_every_step(
    measured: list[str], tiny_config: ConfigDict, tmp_path: Path
) -> None:
    tiny_config.method, tiny_config.seeds, tiny_config.training.epochs = "joint", 1, 1
    continual.run(tiny_config, tmp_path)
    assert measured == ALL * 5
