"""The same promise whoever holds the parameters: Flax Linen and NNX, Equinox, or no library at all."""

import dataclasses
from typing import Any, NamedTuple

import equinox
import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from cmcl_jax import WeightDimensionNumbers, dual_null_space, protected_fraction, replace_projectors
from tests.optax_acceptance.company import WIDTHS, assert_nothing_protected_moves, difference, protection, tree, types


def chain(**options: Any) -> optax.GradientTransformationExtraArgs:
    return optax.chain(optax.adam(1e-2), dual_null_space(**options))


def test_it_trains_a_linen_train_state() -> None:
    model = flax.linen.Dense(WIDTHS[1])
    params = model.init(jax.random.key(0), jnp.ones((1, WIDTHS[0])))["params"]
    state = TrainState.create(apply_fn=model.apply, params={"head": params}, tx=chain())
    state = state.replace(opt_state=replace_projectors(state.opt_state, {"head": protection()}))
    after = state.apply_gradients(grads=tree(1))
    assert_nothing_protected_moves(difference(after.params, state.params))


def test_it_trains_linen_parameters_in_boxes_of_sharding_names() -> None:
    kernel_init = flax.linen.with_partitioning(flax.linen.initializers.lecun_normal(), ("in", "out"))
    model = flax.linen.Dense(WIDTHS[1], kernel_init=kernel_init)
    params = model.init(jax.random.key(0), jnp.ones((1, WIDTHS[0])))["params"]
    assert isinstance(params["kernel"], flax.linen.Partitioned)
    tx = chain()
    state = replace_projectors(tx.init(params), protection())
    updates, _ = tx.update(jax.tree.map(lambda leaf: leaf + 1, params), state, params)
    assert_nothing_protected_moves({"head": flax.linen.unbox(updates)})


def test_it_trains_frozen_dicts_whose_projectors_come_in_a_plain_dict() -> None:
    params = flax.core.freeze(tree(0))
    tx = chain()
    state = replace_projectors(tx.init(params), {"head": protection()})
    updates, _ = tx.update(flax.core.freeze(tree(1)), state, params)
    assert_nothing_protected_moves(updates)


class TwoLayers(flax.nnx.Module):
    """With a scale, which is neither kernel nor bias."""

    def __init__(self, rngs: flax.nnx.Rngs) -> None:
        self.head = flax.nnx.Linear(*WIDTHS, rngs=rngs)
        self.top = flax.nnx.Linear(WIDTHS[1], 4, rngs=rngs)
        self.scale = flax.nnx.Param(jnp.ones(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.scale * self.top(jnp.tanh(self.head(x)))


@flax.nnx.jit
def nnx_step(model: TwoLayers, optimizer: flax.nnx.Optimizer) -> Any:
    loss = lambda model: jnp.sum(jnp.sin(model(jnp.eye(WIDTHS[0]))))  # noqa: E731
    return optimizer.update(model, flax.nnx.grad(loss)(model))


def test_an_nnx_optimizer_steps_through_refreshed_projectors_with_one_compilation() -> None:
    model = TwoLayers(flax.nnx.Rngs(0))
    optimizer = flax.nnx.Optimizer(model, chain(), wrt=flax.nnx.Param)
    nnx_step(model, optimizer)
    first, compiled = types(optimizer.opt_state), nnx_step.jitted_fn._cache_size()
    for seed in range(3):
        projectors = {"head": protection(seed), "top": None, "scale": None}
        optimizer.opt_state = replace_projectors(optimizer.opt_state, projectors)
        before = flax.nnx.as_pure(flax.nnx.state(model, flax.nnx.Param)).raw_mapping
        for _ in range(2):
            updates = nnx_step(model, optimizer)
            assert protected_fraction(updates, optimizer.opt_state) < 1e-5
        after = flax.nnx.as_pure(flax.nnx.state(model, flax.nnx.Param)).raw_mapping
        change = difference(after, before)
        assert_nothing_protected_moves(change, seed=seed)
        assert np.linalg.norm(change["top"]["kernel"]) > 1e-2 and abs(change["scale"]) > 1e-3
        assert types(optimizer.opt_state) == first
    assert nnx_step.jitted_fn._cache_size() == compiled


def test_an_nnx_optimizer_does_without_jit_as_well() -> None:
    model = TwoLayers(flax.nnx.Rngs(0))
    optimizer = flax.nnx.Optimizer(model, chain(), wrt=flax.nnx.Param)
    protect = {"head": {"kernel": protection(), "bias": protection()}, "top": None, "scale": None}
    optimizer.opt_state = replace_projectors(optimizer.opt_state, protect)
    before = flax.nnx.as_pure(flax.nnx.state(model.head))
    for _ in range(2):
        optimizer.update(model, flax.nnx.grad(lambda model: jnp.sum(model(jnp.eye(WIDTHS[0]))))(model))
    change = difference(flax.nnx.as_pure(flax.nnx.state(model.head)), before)
    assert_nothing_protected_moves({"head": change})


def test_the_state_of_an_nnx_module_trains_without_an_nnx_optimizer() -> None:
    module, tx = flax.nnx.Linear(*WIDTHS, rngs=flax.nnx.Rngs(0)), chain()
    params = flax.nnx.state(module, flax.nnx.Param)
    state = replace_projectors(tx.init(params), protection())
    gradients = flax.nnx.grad(lambda module: jnp.sum(jnp.sin(module(jnp.eye(WIDTHS[0])))))(module)
    updates, _ = tx.update(gradients, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(gradients)
    flax.nnx.update(module, optax.apply_updates(params, updates))
    assert_nothing_protected_moves({"head": flax.nnx.as_pure(updates)})


class Callable_(equinox.Module):
    """A tree of parameters that is also a function, as Equinox models are."""

    head: equinox.nn.Linear
    activation: Any = equinox.field(static=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.activation(self.head(x))


def torch_layout(params: Any) -> Any:
    """Weights are (out, in)."""
    by_rank = {1: WeightDimensionNumbers((), (0,)), 2: WeightDimensionNumbers((1,), (0,))}
    return jax.tree.map(lambda leaf: by_rank[leaf.ndim], params)


@pytest.mark.parametrize("given", ["a function", "a tree, which can itself be called"])
def test_it_trains_an_equinox_module_in_jit(given: str) -> None:
    model = Callable_(equinox.nn.Linear(*WIDTHS, key=jax.random.key(0)), jnp.tanh)
    params, static = equinox.partition(model, equinox.is_array)
    tx = chain(dimension_numbers=torch_layout if given == "a function" else torch_layout(params))
    nothing = jax.tree.map(lambda _: None, params)
    protect = equinox.tree_at(lambda m: m.head, nothing, protection(), is_leaf=lambda node: node is None)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            return jnp.sum(jax.vmap(equinox.combine(params, static))(jnp.eye(WIDTHS[0])) ** 2)

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return equinox.apply_updates(params, updates), state

    after, state = params, replace_projectors(tx.init(params), protect)
    for _ in range(3):
        after, state = step(after, state)
    change = difference(after, params).head
    assert_nothing_protected_moves({"head": {"kernel": change.weight.T, "bias": change.bias}})
    assert step._cache_size() == 1


def test_what_equinox_filters_out_of_a_model_stays_out() -> None:
    """Its activations are leaves, and `None` after the filter; there the projectors and updates are `None` too."""
    model = equinox.nn.MLP(WIDTHS[0], 4, WIDTHS[1], 1, key=jax.random.key(0))
    params = equinox.filter(model, equinox.is_array)
    tx = chain(dimension_numbers=torch_layout)
    protect = equinox.tree_at(
        lambda m: m.layers[0], jax.tree.map(lambda _: None, params), protection(), is_leaf=lambda node: node is None
    )
    state = replace_projectors(tx.init(params), protect)
    updates, state = tx.update(jax.tree.map(jnp.cos, params), state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert_nothing_protected_moves({"head": {"kernel": updates.layers[0].weight.T, "bias": updates.layers[0].bias}})
    assert protected_fraction(updates, state) < 1e-5
    assert np.abs(updates.layers[1].weight).min() > 1e-3


class Layer(NamedTuple):
    kernel: Any
    bias: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class DataLayer:
    kernel: Any
    bias: Any


BARE = {"tuple": lambda *leaves: leaves, "list": lambda *leaves: [*leaves], "named tuple": Layer, "data": DataLayer}


@pytest.mark.parametrize("each", [False, True], ids=["one projector for the layer", "one for each leaf"])
@pytest.mark.parametrize("container", sorted(BARE))
def test_it_trains_bare_trees(container: str, each: bool) -> None:
    make, p, tx = BARE[container], protection(), chain()
    params, gradients = (make(*tree(seed)["head"].values()) for seed in (0, 1))
    state = replace_projectors(tx.init([params, params]), [make(p, p) if each else p, None])
    updates, _ = tx.update([gradients, gradients], state, [params, params])
    assert isinstance(updates[0], type(params))
    assert_nothing_protected_moves({"head": dict(zip(("kernel", "bias"), jax.tree.leaves(updates[0]), strict=True))})
    free, _ = optax.adam(1e-2).update(gradients, optax.adam(1e-2).init(params))
    jax.tree.map(np.testing.assert_array_equal, updates[1], free)


def test_a_lone_matrix_is_a_tree_too() -> None:
    kernel, tx = tree(0)["head"]["kernel"], chain()
    state = replace_projectors(tx.init(kernel), protection())
    updates, _ = tx.update(tree(1)["head"]["kernel"], state, kernel)
    assert protected_fraction(updates, state) < 1e-5
    assert protected_fraction(kernel, state) > 0.1
