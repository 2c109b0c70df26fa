"""Run by test_devices.py in a process of its own: the same updates on eight devices, in every way of spreading them."""

import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cmcl_jax import NullSpaceProjector, dual_null_space, replace_projectors
from cmcl_jax.null_space.rotation import in_rotated_coordinates

D_IN, D_OUT, ROWS = 16, 8, 32
rng = np.random.default_rng(0)
old_x, old_z, x, y = (rng.normal(size=shape) for shape in ((3, D_IN), (2, D_OUT), (ROWS, D_IN), (ROWS, D_OUT)))
params = {"head": {"kernel": jnp.asarray(rng.normal(size=(D_IN, D_OUT)), jnp.float32), "bias": jnp.zeros(D_OUT)}}
onto = lambda rows: jnp.asarray(rows.T @ np.linalg.solve(rows @ rows.T, rows), jnp.float32)  # noqa: E731
protect = {"head": NullSpaceProjector(onto(old_x), onto(old_z))}
x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean((jnp.matmul(x, params["head"]["kernel"], precision="highest") + params["head"]["bias"] - y) ** 2)


def step(tx: Any, params: Any, state: Any, x: jax.Array, y: jax.Array, axis: str | None = None) -> Any:
    gradients = jax.grad(loss)(params, x, y)
    if axis is not None:
        gradients = jax.lax.pmean(gradients, axis)
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates), state


def on_one(tx: Any) -> Any:
    state = replace_projectors(tx.init(params), protect)
    update = jax.jit(partial(step, tx))
    after, _ = update(*update(params, state, x, y), x, y)
    return after


def check(name: str, after: Any, expected: Any) -> None:
    after = jax.tree.map(np.asarray, after)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, err_msg=name), after, expected)
    change = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), after, params)["head"]
    moved = (old_x @ change["kernel"] + change["bias"]) @ old_z.T
    assert np.linalg.norm(change["kernel"]) > 1e-2 and np.linalg.norm(moved) < 1e-5, (name, np.linalg.norm(moved))
    print(name)


def data_parallel_by_shard_map(tx: Any, mesh: Any) -> Any:
    shard = partial(jax.shard_map, mesh=mesh, in_specs=(P(), P(), P("x"), P("x")), out_specs=P(), check_vma=False)
    update = jax.jit(shard(partial(step, tx, axis="x")))
    state = replace_projectors(tx.init(params), protect)
    return update(*update(params, state, x, y), x, y)[0]


def data_parallel_by_pmap(tx: Any) -> Any:
    copies = lambda tree: jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (8, *leaf.shape)), tree)  # noqa: E731
    update = jax.pmap(partial(step, tx, axis="x"), axis_name="x")
    rows = (x.reshape(8, -1, D_IN), y.reshape(8, -1, D_OUT))
    state = replace_projectors(tx.init(params), protect)
    after = update(*update(copies(params), copies(state), *rows), *rows)[0]
    return jax.tree.map(lambda leaf: leaf[3], after)


def sharded_by_the_compiler(tx: Any, mesh: Any, kernel: P, projectors: P) -> Any:
    """Parameters, moments and projectors in pieces; the compiler puts in what they have to tell each other."""

    def place(spec: P, leaf: jax.Array) -> jax.Array:
        return jax.device_put(leaf, NamedSharding(mesh, spec if leaf.ndim == 2 else P(None)))

    spread = jax.tree.map(partial(place, kernel), params)
    state = replace_projectors(jax.jit(tx.init)(spread), jax.tree.map(partial(place, projectors), protect))
    update = jax.jit(partial(step, tx))
    after, state = update(spread, state, x, y)
    return update(after, state, x, y)[0]


def check_refresh(name: str, tx: Any, mesh: Any) -> None:
    """Projectors that are nowhere in particular leave a sharded state sharded as it was, and compile nothing again."""
    spread = lambda tree: jax.tree.map(  # noqa: E731
        lambda leaf: jax.device_put(leaf, NamedSharding(mesh, P("x", None) if leaf.shape == (D_IN, D_IN) else P())),
        tree,
    )
    state, update, on_mesh = spread(tx.init(params)), jax.jit(tx.update), spread(params)
    update(on_mesh, state, on_mesh)
    refreshed = replace_projectors(state, protect)
    assert jax.tree.map(lambda leaf: leaf.sharding, refreshed) == jax.tree.map(lambda leaf: leaf.sharding, state)
    update(on_mesh, refreshed, on_mesh)
    assert update._cache_size() == 1
    print(f"{name} refresh")


def check_explicit_types(tx: Any, mesh: Any, spec: P) -> None:
    """Of optax's own tests: the state has the same types from init, jitted or not, and from update."""
    with jax.set_mesh(mesh):
        spread = jax.device_put(params["head"]["kernel"], NamedSharding(mesh, spec))
        state = tx.init(spread)
        assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, jax.jit(tx.init)(spread))
        state = replace_projectors(state, protect["head"])
        updates, after = tx.update(spread, state, spread)
        assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
        jitted, _ = jax.jit(tx.update)(spread, state, spread)
        assert jax.typeof(updates) == jax.typeof(jitted) == jax.typeof(spread)
    alone, _ = tx.update(
        params["head"]["kernel"], replace_projectors(tx.init(jnp.zeros((D_IN, D_OUT))), protect["head"])
    )
    np.testing.assert_allclose(updates, alone, atol=1e-5)
    print("explicit types", spec)


def main() -> int:
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    chains = {
        "updates": optax.chain(optax.adam(1e-2), dual_null_space()),
        "exact": in_rotated_coordinates(optax.adam(1e-2)),
    }
    for strength, tx in chains.items():
        expected = on_one(tx)
        check_refresh(strength, tx, mesh)
        check(f"{strength} shard_map", data_parallel_by_shard_map(tx, mesh), expected)
        check(f"{strength} pmap", data_parallel_by_pmap(tx), expected)
        for kernel, projectors in ((P("x"), P("x")), (P(None, "x"), P(None, "x")), (P("x"), P())):
            name = f"{strength} kernel {kernel}, projectors {projectors}"
            check(name, sharded_by_the_compiler(tx, mesh, kernel, projectors), expected)
    explicit = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    for spec in (P(None, None), P("x", None), P(None, "x")):
        check_explicit_types(dual_null_space(), explicit, spec)
    return 0


if __name__ == "__main__":
    sys.exit(main())
