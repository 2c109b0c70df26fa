"""The towers forget less with the projection, as the program prints."""

import re

import jax
import numpy as np
import pytest

from cmcl_jax import empty_memory, replace_projectors, update_memory
from examples import two_towers as example


@pytest.fixture(scope="module")
def tasks() -> list[example.Task]:
    """Two of the three."""
    return example.load(example.TASKS[:2])


def test_with_the_projection_less_is_forgotten_and_the_new_is_learned(tasks: list[example.Task]) -> None:
    without, protected = (example.train(tasks, protect, epochs=4) for protect in (False, True))
    np.testing.assert_allclose(protected[:2], without[:2], atol=0.5)  # nothing to protect in the first task
    assert without[1, 0] > without[0, 0] + 5
    assert example.forgotten(protected) < example.forgotten(without) - 1
    assert protected[2, 1] > protected[1, 1] + 20


def test_with_the_projection_the_media_tower_moves_old_scores_by_a_tenth_at_most(tasks: list[example.Task]) -> None:
    """Of what it moves them by without; directions below the threshold are free. In float64 numpy."""
    first, second = (task.train for task in tasks)
    start = example.MODEL.init(jax.random.key(0), first.media[:2], first.text[:2])["params"]
    rows = {"media": first.media, "text": first.text}
    valid = np.ones(len(first.media), bool)
    memory = {side: update_memory(empty_memory(example.WIDTH), x, valid) for side, x in rows.items()}
    moved = {}
    for protect in (False, True):
        tx, params = example.make_optimizer(20, protect), start
        state = tx.init(params)
        if protect:
            state = replace_projectors(state, example.projectors_of(memory, params))
        for batch in range(6):
            part = slice(64 * batch, 64 * batch + 64)
            params, state = example.train_step(tx, params, state, second.media[part], second.text[part])
        change = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b), params, start)["media"]
        outputs = np.asarray(first.media, np.float64) @ change["kernel"] + change["bias"]
        moved[protect] = np.linalg.norm(outputs @ np.asarray(first.text, np.float64).T)
        assert np.linalg.norm(change["kernel"]) > 1e-2 and float(params["log_scale"]) != 0
    assert moved[True] < 0.1 * moved[False]


def test_the_scale_stops_at_the_limit(tasks: list[example.Task]) -> None:
    params = example.MODEL.init(jax.random.key(0), *(rows[:2] for rows in tasks[0].train[:2]))["params"]
    params = {**params, "log_scale": params["log_scale"] + 4.7}
    tx = example.make_optimizer(10, protect=False)
    after, _ = example.train_step(tx, params, tx.init(params), tasks[0].train.media[:8], tasks[0].train.text[:8])
    assert float(after["log_scale"]) == pytest.approx(np.log(100))


@pytest.mark.slow
def test_the_program_prints_what_it_claims(capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main(["--epochs", "4"]) == 0
    without, protected = map(float, re.findall(r"forgotten: (-?[\d.]+) points", capsys.readouterr().out))
    assert protected < without


def test_it_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        example.main(["--help"])
    assert "--epochs" in capsys.readouterr().out
