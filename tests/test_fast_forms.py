"""Training by factors and in rotated coordinates against the optax chains that define them."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmcl_jax import train
from cmcl_jax.config import load_config
from cmcl_jax.heads import Heads
from cmcl_jax.methods import method_from_config
from cmcl_jax.methods.base import Batch
from cmcl_jax.methods.dns import DualNullSpace, ProjectedVanilla
from cmcl_jax.methods.dns_factored import FactoredDualNullSpace, FactoredReleased, _squared_norm
from cmcl_jax.methods.dns_released import ReleasedDualNullSpace
from cmcl_jax.methods.dns_rotated import RotatedDualNullSpace, RotatedReleased
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.runs import RunAxis
from cmcl_jax.train import begin_step, init_memory, learn, of_runs, train_epochs
from tests.streams import MODALITIES, Task, drift, heads_of_one_seed, learn_all, tasks, training

A, B, C, D = MODALITIES
STREAM = ((A, B), (B, C), (A, D), (A, B, C))  # the last of three modalities
OURS = (training(), "exact", "relative", 0.05, 0.05)
RELEASED = (training(), "gradients", "absolute", 0.01, 0.0)


def with_settings(build: type, settings: tuple[Any, ...], **changes: Any) -> ProjectedVanilla:
    method: ProjectedVanilla = dataclasses.replace(build(*settings), **changes)
    return method


FORMS = {
    "exact": (DualNullSpace, RotatedDualNullSpace, OURS, {}),
    "exact, free biases": (DualNullSpace, RotatedDualNullSpace, OURS, {"biases": "free"}),
    "exact, one-sided": (DualNullSpace, RotatedDualNullSpace, OURS, {"one_sided": True}),
    "gradients": (DualNullSpace, FactoredDualNullSpace, OURS, {"project": "gradients"}),
    "gradients, one-sided": (DualNullSpace, FactoredDualNullSpace, OURS, {"project": "gradients", "one_sided": True}),
    "released": (ReleasedDualNullSpace, FactoredReleased, RELEASED, {}),
    "released, two-sided": (ReleasedDualNullSpace, FactoredReleased, RELEASED, {"output_threshold": 0.5}),
    "released, exact": (ReleasedDualNullSpace, RotatedReleased, RELEASED, {"project": "exact"}),
}


def final_heads(method: ProjectedVanilla, stream: list[Task], heads: Heads) -> Heads:
    return learn_all(method, stream, heads)[-1][0]


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_ends_with_the_heads_of_the_optax_chain(form: str, x64: None) -> None:
    plain, fast, settings, changes = FORMS[form]
    stream, heads = tasks(*STREAM, noise=0.1), heads_of_one_seed()
    expected, found = (final_heads(with_settings(build, settings, **changes), stream, heads) for build in (plain, fast))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-9), found, expected)
    moved = jax.tree.map(lambda x, y: float(np.abs(x - y).max()), expected, heads)
    assert all(moved[modality]["kernel"] > 1e-3 for modality in MODALITIES)


def test_the_two_sides_are_not_the_identity_in_these_comparisons(x64: None) -> None:
    stream, heads = tasks(*STREAM, noise=0.1), heads_of_one_seed()
    method = DualNullSpace(*OURS)
    _, memory = learn_all(method, stream, heads)[-1]
    protected = method.projectors(memory, jax.tree.map(lambda leaf: leaf[0], heads), A)
    assert all(0 < int(side.protected.sum()) < side.protected.size for side in protected)


@pytest.mark.parametrize("name", ["pocket.py", "paper.py:imagebind"])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["dns.project=exact"], "Rotated"),
        (["dns.project=gradients"], "Factored"),
        (["dns.project=updates"], ""),
        (["dns.project=exact", "head.hidden=(8,)"], "Hidden"),
        (["dns.project=gradients", "dns.biases=stacked"], ""),
    ],
)
def test_configs_build_the_fast_form_where_there_is_one(name: str, settings: list[str], expected: str) -> None:
    if "paper" in name and not settings[-1].startswith("dns.project"):
        settings = [*settings, "dns.mode=ours", "dns.rule=relative"]
    method = method_from_config(load_config(f"configs/{name}", ["method=dns", *settings]))
    assert type(method).__name__.startswith(expected or ("DualNullSpace", "ReleasedDualNullSpace"))


@pytest.mark.parametrize(
    "method", [RotatedDualNullSpace(*OURS), FactoredReleased(*RELEASED)], ids=["exact", "released"]
)
def test_an_update_has_no_product_of_two_square_matrices(method: ProjectedVanilla, x64: None) -> None:
    rows, [(step, features)] = 5, tasks((A, B))
    one = jax.tree.map(lambda leaf: leaf[0], heads_of_one_seed())
    state = method.before_step(method.init(one, [(A, B)]), one, step, features.rows)
    batch = Batch({r: x[:rows] for r, x in method.enter_rows(state, features.by_role).items()}, jnp.ones(rows, bool))

    def update(state: Any, trained: Heads) -> Any:
        _, gradients = method.gradient(state, trained, batch)
        return method.update(state, gradients, trained)

    program = jax.jit(update).lower(state, {"a": one[A], "b": one[B]}).as_text()
    products = re.findall(r"dot_general.*?:\s*\(tensor<(\d+)x(\d+)xf64>, tensor<(\d+)x(\d+)xf64>\)", program)
    assert len(products) >= 6
    assert all(min(map(int, sizes)) <= 2 * rows for sizes in products)


def test_rotated_training_keeps_old_alignments_in_float32_to_rounding(x64: None) -> None:
    to_single = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32) if x.ndim else x, tree)  # noqa: E731
    stream = [(step, to_single(features)) for step, features in tasks((A, B), (B, C), (A, D))]
    heads = to_single(heads_of_one_seed())
    method = RotatedDualNullSpace(training(), "exact", "relative", 1e-4, 1e-4)
    dns, vanilla = ([heads for heads, _ in learn_all(of, stream, heads)] for of in (method, Vanilla(training())))
    assert dns[3][A]["kernel"].dtype == jnp.float32
    assert drift(dns[1], dns[3], stream[0]) < 1e-4 * drift(vanilla[1], vanilla[3], stream[0])


def test_other_numbers_for_hyperparameters_compile_nothing_new(x64: None) -> None:
    [(step, features)] = tasks((A, B))
    heads = heads_of_one_seed()
    train_epochs.clear_cache()
    ends = []
    for rate, threshold in ((1e-2, 0.1), (1e-3, 0.1), (1e-3, 0.2)):
        method = RotatedDualNullSpace(training(learning_rate=rate), "exact", "relative", threshold, threshold)
        memory = init_memory(method, heads, [(A, B)])
        ends.append(learn(method, heads, memory, step, features, jax.random.key(0)[None]).heads[A]["kernel"])
    assert train_epochs._cache_size() == 1
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


def test_runs_of_different_hyperparameters_train_side_by_side_as_they_do_alone(x64: None) -> None:
    stream, heads = tasks((A, B), (B, C), noise=0.1), heads_of_one_seed()
    key = jax.random.key(0)[None]
    methods = [
        RotatedDualNullSpace(training(learning_rate=rate), "exact", "relative", threshold, threshold)
        for rate, threshold in ((1e-2, 0.05), (3e-3, 0.2))
    ]
    together = jax.tree.map(lambda *numbers: jnp.asarray(numbers), *methods)
    twice = jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, 0), heads)

    def through(method: Any, heads: Heads, keys: jax.Array, axis: RunAxis) -> Heads:
        memory = init_memory(method, heads, [(A, B), (B, C)])
        for step, features in stream:
            heads, memory, _ = learn(method, heads, memory, step, features, keys, axis=axis)
        return heads

    alone = [through(method, heads, key, RunAxis(1)) for method in methods]
    for axis in (RunAxis(1), RunAxis(), RunAxis(2)):
        of_both = through(together, twice, jnp.repeat(key, 2), axis)
        for i, expected in enumerate(alone):
            jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[i], y[0], atol=1e-10), of_both, expected)


def test_epochs_in_two_calls_give_the_bits_of_one(x64: None) -> None:
    [(step, features)] = tasks((A, B))
    method, heads, axis = RotatedDualNullSpace(*OURS), heads_of_one_seed(), RunAxis.default()
    runs, memory, keys = of_runs(method, heads), init_memory(method, heads, [(A, B)]), jax.random.key(0)[None]

    def trained(*calls: tuple[int, int]) -> Any:
        in_step = begin_step(runs, heads, memory, step, features, axis)
        for epochs in calls:
            in_step = train_epochs(runs, in_step, features, keys, epochs, axis)
        return in_step

    jax.tree.map(np.testing.assert_array_equal, trained((0, 1), (1, 2)), trained((0, 2)))


def test_the_norm_of_gradients_that_cancel_is_no_root_of_less_than_zero() -> None:
    """The gradient of equal rows whose outputs' gradients add up to zero, of which float32 leaves a little."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        rows, delta = np.tile(rng.normal(size=32), (64, 1)), rng.normal(size=(64, 16))
        rows, delta = (jnp.asarray(x, jnp.float32) for x in (rows, delta - delta.mean(axis=0)))
        assert 0 <= _squared_norm(rows, delta) < 1e-3
    several = jnp.asarray(rng.normal(size=(64, 32)), jnp.float32)
    expected = np.linalg.norm(several.T @ delta) ** 2 + np.linalg.norm(delta.sum(axis=0)) ** 2
    np.testing.assert_allclose(_squared_norm(several, delta), expected, rtol=1e-5)


def test_released_runs_side_by_side_compute_one_of_the_two_forms(x64: None) -> None:
    [(step, features)] = tasks((A, B))
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0], jnp.float32), heads_of_one_seed())
    method = FactoredReleased(*RELEASED)
    state = method.before_step(method.init(one, [(A, B)]), one, step, features.rows)
    rows = method.enter_rows(state, {r: jnp.asarray(x[:5], jnp.float32) for r, x in features.by_role.items()})
    twice = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree)  # noqa: E731
    gradient = jax.vmap(lambda state, heads: method.gradient(state, heads, Batch(rows, jnp.ones(5, bool))))
    assert str(jax.make_jaxpr(gradient)(twice(state), twice({"a": one[A], "b": one[B]}))).count("cond[") == 2


@pytest.mark.parametrize("form", ["exact", "released"])
def test_rows_enter_and_are_remembered_in_parts_as_they_are_at_once(
    form: str, x64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = RotatedDualNullSpace(*OURS) if form == "exact" else FactoredReleased(*RELEASED)
    stream, heads = tasks(*STREAM[:2], noise=0.1), heads_of_one_seed()
    whole = learn_all(method, stream, heads)[-1]
    monkeypatch.setattr(train, "ENTERED_AT_ONCE", 7)
    monkeypatch.setattr(train, "REMEMBERED_AT_ONCE", 7)
    train_epochs.clear_cache()
    in_parts = learn_all(method, stream, heads)[-1]
    train_epochs.clear_cache()
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-10), in_parts, whole)
