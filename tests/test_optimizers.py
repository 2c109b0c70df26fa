"""What stands around the projection in a chain: clipping and the decay of the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmcl_jax import WeightDimensionNumbers, dns_adamw
from cmcl_jax.optimizers import clip_by_global_norm, linear_decay, start_decay


def test_clipping_scales_by_the_norm_of_all_leaves_and_keeps_the_dtype_of_each() -> None:
    updates = {"half": jnp.full((3,), 300.0, jnp.float16), "single": jnp.full((4,), -200.0)}
    clipped, _ = clip_by_global_norm(2.0).update(updates, optax.EmptyState())
    assert {name: leaf.dtype.name for name, leaf in clipped.items()} == {"half": "float16", "single": "float32"}
    factor = 2 / np.sqrt(3 * 300.0**2 + 4 * 200.0**2)  # 300² is more than float16 has
    np.testing.assert_allclose(clipped["half"], 300 * factor, rtol=1e-3)
    np.testing.assert_allclose(clipped["single"], -200 * factor, rtol=1e-6)


@pytest.mark.parametrize("project", ["gradients", "updates", "exact", None])
def test_a_kernel_in_half_precision_and_its_float32_bias_keep_their_dtypes(project: str | None) -> None:
    params = {"kernel": jnp.ones((3, 2), jnp.bfloat16), "bias": jnp.ones(2)}
    tx = dns_adamw(1e-2, project=project)
    updates, _ = tx.update(params, tx.init(params), params)
    assert {name: leaf.dtype.name for name, leaf in updates.items()} == {"kernel": "bfloat16", "bias": "float32"}


def test_linear_decay_ends_at_zero_and_stays_there() -> None:
    tx = linear_decay()
    state = start_decay(tx.init({}), 4)
    factors = []
    for _ in range(6):
        factor, state = tx.update(jnp.ones(()), state)
        factors.append(float(factor))
    assert factors == [1, 0.75, 0.5, 0.25, 0, 0]


def test_linear_decay_counts_further_than_half_precision_does() -> None:
    tx = linear_decay()
    state = start_decay(tx.init({}), 100_000)._replace(updates_done=jnp.asarray(75_000))  # float16 ends at 65,504
    factor, _ = tx.update(jnp.ones((), jnp.float16), state)
    assert factor.dtype == jnp.float16 and factor == 0.25


def test_inject_hyperparams_takes_dimension_numbers_that_are_a_function_as_static() -> None:
    numbers = {1: WeightDimensionNumbers((), (0,)), 2: WeightDimensionNumbers((1,), (0,))}
    layout = lambda params: jax.tree.map(lambda leaf: numbers[leaf.ndim], params)  # noqa: E731
    params = {"weight": jnp.ones((2, 5)), "bias": jnp.ones(2)}
    tx = optax.inject_hyperparams(dns_adamw, static_args="dimension_numbers")(1e-2, dimension_numbers=layout)
    projectors = optax.tree.get(tx.init(params), "projectors")
    assert [side.vectors.shape for side in projectors["weight"]] == [(5, 5), (2, 2)]
