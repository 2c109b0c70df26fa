import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmcl_jax.methods.base import active_heads
from cmcl_jax.methods.dns import DualNullSpace
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.optimizers import clip_by_global_norm
from cmcl_jax.stream import StepFeatures
from cmcl_jax.train import _shuffled, init_memory, learn, train_epochs
from tests.streams import MODALITIES, ROWS, heads_of_one_seed, learn_all, tasks, training

A, B, C, D = MODALITIES
DNS = DualNullSpace(training(), project="updates", rule="relative", input_threshold=1e-3, output_threshold=1e-3)


@pytest.mark.parametrize("method", [Vanilla(training()), DNS], ids=["vanilla", "dns"])
def test_one_executable_serves_a_stream_of_unequal_steps(method: Vanilla) -> None:
    with jax.enable_x64(True):
        stream = [
            (step, features._replace(rows=jnp.asarray(rows, jnp.int32)))
            for (step, features), rows in zip(tasks((A, B), (B, C), (A, D), (C, D)), (24, 7, 30, 11), strict=True)
        ]
        train_epochs.clear_cache()
        learn_all(method, stream, heads_of_one_seed())
    assert train_epochs._cache_size() == 1


@pytest.mark.parametrize("rows", [1, 9, 10, 11, 30])
def test_an_epoch_visits_every_row_once_and_the_padding_never(rows: int) -> None:
    features = StepFeatures({"a": jnp.zeros((30, 2)), "b": jnp.zeros((30, 2))}, jnp.asarray(rows))
    orders = [np.asarray(_shuffled(jax.random.key(seed), features, 10)) for seed in (0, 0, 1)]
    assert sorted(orders[0][:rows]) == list(range(rows))
    np.testing.assert_array_equal(orders[0], orders[1])
    assert rows < 9 or (orders[0] != orders[2]).any()


def test_training_equals_a_plain_loop_over_its_batches(x64: None) -> None:
    [(step, features)] = tasks((A, B))
    method = Vanilla(training(epochs=1, temperature=5.0))
    heads = heads_of_one_seed()
    learned = learn(method, heads, {}, step, features, jax.random.key(0)[None])
    order = _shuffled(jax.random.fold_in(jax.random.key(0), 0), features, 10)
    pair = jax.tree.map(lambda leaf: leaf[0], active_heads(heads, step))

    def loss(pair: dict, rows: jax.Array) -> jax.Array:
        z_a, z_b = (features.by_role[s][rows] @ pair[s]["kernel"] + pair[s]["bias"] for s in "ab")
        log_p = [jax.nn.log_softmax(scores, axis=1) for scores in (z_a @ z_b.T / 5, z_b @ z_a.T / 5)]
        return -sum(jnp.diag(p).mean() for p in log_p) / 2

    adamw = optax.adamw(
        lambda u: 1e-2 * (3.0 - u.astype(jnp.float64)) / 3.0,
        weight_decay=1e-3,
        mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p),
    )
    tx = optax.chain(clip_by_global_norm(1.0), adamw)
    state, losses = tx.init(pair), []
    for rows in (order[:10], order[10:20], order[20:ROWS]):
        value, gradient = jax.value_and_grad(loss)(pair, rows)
        updates, state = tx.update(gradient, state, pair)
        pair, losses = optax.apply_updates(pair, updates), [*losses, float(value)]
    for side, modality in step.roles.items():
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x[0], y, atol=1e-11), learned.heads[modality], pair[side])
    np.testing.assert_allclose(learned.losses[0, 0], np.mean(losses), atol=1e-11)


def test_seeds_side_by_side_train_as_they_do_alone(x64: None) -> None:
    [(step, features)] = tasks((A, B))
    heads = heads_of_one_seed()
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    together = learn(
        DNS,
        jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, 0), heads),
        init_memory(DNS, heads, [(A, B)]),
        step,
        features,
        keys,
    )
    for seed in range(3):
        alone = learn(DNS, heads, init_memory(DNS, heads, [(A, B)]), step, features, keys[seed : seed + 1])
        of_seed = jax.tree.map(operator.itemgetter(seed), together.heads)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y[0], atol=1e-12), of_seed, alone.heads)


def test_training_twice_gives_the_same_bits(x64: None) -> None:
    [(step, features)] = tasks((A, B))
    heads = heads_of_one_seed()
    memory = init_memory(DNS, heads, [(A, B)])
    runs = [learn(DNS, heads, memory, step, features, jax.random.key(0)[None]) for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, runs[0], runs[1])


def test_a_batch_larger_than_the_data_is_all_of_it(x64: None) -> None:
    [(step, features)] = tasks((A, B))
    large, all_rows = (
        learn(Vanilla(training(batch_size=size)), heads_of_one_seed(), {}, step, features, jax.random.key(0)[None])
        for size in (10**9, features.padded_rows)
    )
    jax.tree.map(np.testing.assert_array_equal, large.heads, all_rows.heads)


def test_clipping_is_torchs_rule() -> None:
    tx = clip_by_global_norm(1.0)
    large, _ = tx.update({"w": jnp.array([3.0, 4.0])}, tx.init(None))
    np.testing.assert_allclose(large["w"], np.array([3.0, 4.0]) / (5 + 1e-6), rtol=1e-6)
    small, _ = tx.update({"w": jnp.array([0.3, 0.4])}, tx.init(None))
    np.testing.assert_array_equal(small["w"], jnp.array([0.3, 0.4]))


def test_unknown_training_values_are_named() -> None:
    from feature_cache.errors import UserError

    with pytest.raises(UserError, match="config.training.epochs must be a number greater than 0, but it is 0"):
        training().from_config(dataclasses.asdict(training(epochs=0)))
    with pytest.raises(UserError, match="config.training.direction must be one of symmetric, a_to_b, but it is 'both'"):
        training().from_config(dataclasses.asdict(training(direction="both")))
