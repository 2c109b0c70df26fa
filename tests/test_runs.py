"""How a function of one run is applied to several."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmcl_jax.heads import Heads
from cmcl_jax.methods.dns_rotated import RotatedDualNullSpace
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.runs import RunAxis, with_run_axis
from cmcl_jax.train import init_memory, learn
from tests.streams import MODALITIES, heads_of_one_seed, tasks, training

AXES = {"turns": RunAxis(1), "all at once": RunAxis(), "two at once": RunAxis(2), "more than there are": RunAxis(9)}


def of_run(own: dict[str, jax.Array], shared: jax.Array, parts: dict[str, Any], key: jax.Array) -> dict[str, jax.Array]:
    noise = jax.random.normal(key, ())
    return {"sum": own["x"] @ shared + parts["own"] * parts["shared"]["y"], "noise": noise}


@pytest.mark.parametrize("axis", AXES.values(), ids=AXES)
def test_every_run_gets_its_own_part_and_what_is_shared(axis: RunAxis, x64: None) -> None:
    rng = np.random.default_rng(0)
    x, matrix, own, y = rng.normal(size=(5, 3)), rng.normal(size=(3, 2)), rng.normal(size=(5, 2)), rng.normal(size=2)
    parts = {"own": jnp.asarray(own), "shared": {"y": jnp.asarray(y), "absent": None}}
    keys = jax.random.split(jax.random.key(0), 5)
    mapped = axis.map(of_run, (0, None, {"own": 0, "shared": None}, 0))
    found = jax.jit(mapped)({"x": jnp.asarray(x)}, jnp.asarray(matrix), parts, keys)
    np.testing.assert_allclose(found["sum"], x @ matrix + own * y, atol=1e-12)
    np.testing.assert_array_equal(found["noise"], [jax.random.normal(key, ()) for key in keys])


def test_taking_turns_a_run_has_the_same_bits_whatever_the_number_of_runs() -> None:
    [(step, features)] = tasks(MODALITIES[:2], noise=0.1)
    heads = jax.tree.map(lambda x: x.astype(jnp.float32), heads_in_single())
    features = jax.tree.map(lambda x: x.astype(jnp.float32) if x.ndim else x, features)
    keys = jax.random.split(jax.random.key(0), 4)

    def trained(runs: int) -> Heads:
        of_runs = jax.tree.map(lambda leaf: jnp.repeat(leaf, runs, 0), heads)
        return learn(Vanilla(training()), of_runs, {}, step, features, keys[:runs], axis=RunAxis(1)).heads

    alone, together = trained(1), trained(4)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[0], y[0]), together, alone)


def heads_in_single() -> Heads:
    with jax.enable_x64(True):
        return jax.tree.map(lambda x: np.asarray(x, np.float32), heads_of_one_seed())


def test_hyperparameters_get_a_run_axis_and_keep_one(x64: None) -> None:
    method = RotatedDualNullSpace(training(learning_rate=jnp.array([1.0, 2.0])), "exact", "relative", 0.1, 0.2)
    runs = with_run_axis(method, 2, jnp.float64)
    np.testing.assert_array_equal(runs.training.learning_rate, [1.0, 2.0])
    np.testing.assert_array_equal(runs.output_threshold, [0.2, 0.2])
    assert runs.training.epochs == method.training.epochs


def test_hyperparameters_for_another_number_of_runs_are_refused(x64: None) -> None:
    [(step, features)] = tasks(MODALITIES[:2])
    method, heads = Vanilla(training(learning_rate=jnp.array([1.0, 2.0, 3.0]))), heads_of_one_seed()
    twice = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, 0), heads)
    with pytest.raises(ValueError, match=r"hyperparameter of shape \(3,\).*2 runs"):
        learn(
            method,
            twice,
            init_memory(Vanilla(training()), twice, []),
            step,
            features,
            jax.random.split(jax.random.key(0), 2),
        )
