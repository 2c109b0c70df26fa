"""The recipe keeps its first digits with one line more, as the program prints."""

import inspect
import re

import numpy as np
import pytest

from examples import optax_recipe as example


@pytest.fixture(scope="module")
def histories() -> list[np.ndarray]:
    tasks = example.load()
    return [example.train(tasks, protect, epochs=5) for protect in (False, True)]


def test_the_first_digits_are_kept_and_the_second_are_learned(histories: list[np.ndarray]) -> None:
    without, protected = histories
    np.testing.assert_allclose(without[0], protected[0], atol=0.5)  # nothing to protect in the first task
    assert without[0, 0] > 95
    assert without[1, 0] < without[0, 0] - 10  # it forgets
    assert protected[1, 0] > protected[0, 0] - 2
    assert protected[1, 1] > 30


def test_no_image_is_in_two_splits_and_both_tasks_have_their_digits() -> None:
    tasks = example.load()
    for task, digits in zip(tasks, example.TASKS, strict=True):
        for split in task:
            assert set(np.asarray(split.labels)) == set(digits)
    assert sum(len(split.labels) for task in tasks for split in task) == 1797


def test_the_lines_that_it_marks_are_one_and_three() -> None:
    marked = re.findall(r"# \((\d)\)", inspect.getsource(example.train))
    assert marked == ["1", "2", "2", "2"]


def test_the_program_prints_what_it_claims(capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main(["--epochs", "3"]) == 0
    rows = dict(re.findall(r"^(with.*?), after 5-9 +([\d.]+)", capsys.readouterr().out, re.MULTILINE))
    assert float(rows["with DNS"]) > float(rows["without DNS"])


def test_it_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        example.main(["--help"])
    assert "--epochs" in capsys.readouterr().out
