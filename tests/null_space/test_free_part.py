"""Projection by the fewer of a basis' vectors, against the dense formula in numpy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmcl_jax import NullSpaceProjector, WeightDimensionNumbers, dual_null_space, protected_fraction, replace_projectors
from cmcl_jax.null_space import Subspace, Subspaces, as_matrix, free_part
from cmcl_jax.null_space import projectors as projectors_module
from cmcl_jax.null_space.projectors import as_subspace

D = 128
"""Wide enough for widths to be picked by rank."""


@functools.cache
def basis(seed: int, width: int = D, dtype: Any = np.float64) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(2, width, width))
    return np.linalg.qr(drawn[0] + 1j * drawn[1] if np.issubdtype(dtype, np.complexfloating) else drawn[0])[0]


def subspace_of(vectors: np.ndarray, rank: int, shuffle: int | None = None) -> Subspace:
    """The one that the first vectors span, in any order."""
    order = np.arange(len(vectors)) if shuffle is None else np.random.default_rng(shuffle).permutation(len(vectors))
    return Subspace(jnp.asarray(vectors[:, order]), jnp.asarray(order < rank))


def protection(ranks: tuple[int, int], seed: int = 0, dtype: Any = np.float64) -> Subspaces:
    sides = (subspace_of(basis(seed + side, dtype=dtype), rank, seed) for side, rank in enumerate(ranks))
    return Subspaces(*sides)


def in_single(p: Subspaces) -> Subspaces:
    """In float32, whether or not there are doubles."""
    as_single = lambda leaf: leaf if leaf.dtype == bool else jnp.asarray(leaf, jnp.float32)  # noqa: E731
    return Subspaces(*(jax.tree.map(as_single, side) for side in p))


def free_in_numpy(p: Subspaces, update: Any) -> np.ndarray:
    inputs, outputs = (
        np.asarray(side.vectors)[:, np.asarray(side.protected)] for side in p if isinstance(side, Subspace)
    )
    return np.asarray(update) - inputs @ (inputs.conj().T @ np.asarray(update) @ outputs) @ outputs.conj().T


def drawn(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(100 + seed).normal(size=shape))


@pytest.fixture(scope="module")
def head() -> dict[str, jax.Array]:
    with jax.enable_x64(True):
        return {"kernel": drawn(0, D, D), "bias": drawn(1, D)}


def test_at_every_rank_it_is_the_dense_projection_and_compiles_once(head: Any, x64: None) -> None:
    tx = dual_null_space()
    update, fraction = jax.jit(tx.update), jax.jit(protected_fraction)
    refresh = jax.jit(lambda state, p: replace_projectors(state, p))  # others that jit the function share its programs
    start = tx.init(head)
    for rank in range(D + 1):
        p = protection((rank, (3 * rank) % (D + 1)))
        free, state = update(head, refresh(start, p))
        np.testing.assert_allclose(free["kernel"], free_in_numpy(p, head["kernel"]), atol=1e-12)
        outputs = np.asarray(p.outputs.vectors)[:, np.asarray(p.outputs.protected)]
        bias = np.asarray(head["bias"])
        np.testing.assert_allclose(free["bias"], bias - bias @ outputs @ outputs.T, atol=1e-12)
        assert fraction(free, state) < 1e-13
    assert update._cache_size() == refresh._cache_size() == 1


@pytest.mark.parametrize(
    ("ranks", "picked"),
    [
        ((0, 0), [0, 0]),
        ((D, D), [0, 0]),
        ((1, D - 1), [8, 8]),
        ((9, D - 17), [16, 32]),
        ((D // 2, D // 2 + 1), [64, 64]),
        ((33, D - 48), [48, 48]),
    ],
)
def test_the_products_are_as_thin_as_the_ranks_allow(
    ranks: tuple[int, int], picked: list[int], monkeypatch: pytest.MonkeyPatch, head: Any, x64: None
) -> None:
    """Run one after the other, only the picked branch of a switch multiplies anything."""
    widths: list[int] = []
    monkeypatch.setattr(free_part, "_matmul", lambda a, b: widths.append(min(a.shape + b.shape)) or jnp.matmul(a, b))
    tx = dual_null_space()
    state = replace_projectors(tx.init(head["kernel"]), protection(ranks))
    with jax.disable_jit():
        tx.update(head["kernel"], state)
    inputs, outputs = picked
    assert widths == [outputs] * 2 * (outputs > 0) + [inputs] * 2 * (inputs > 0)


def test_runs_of_different_ranks_under_vmap_share_one_pick(head: Any, x64: None) -> None:
    tx = dual_null_space()
    ranks = [(0, 3), (D, D - 2), (80, 5), (D // 2, D)]
    stack = lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    each = [protection(pair, seed) for seed, pair in enumerate(ranks)]
    updates = stack(*(drawn(seed, D, D) for seed in range(4)))

    def free(p: Subspaces, update: jax.Array) -> jax.Array:
        return tx.update(update, replace_projectors(tx.init(update), p))[0]

    together = jax.jit(jax.vmap(free))
    for found, p, update in zip(together(stack(*each), updates), each, updates, strict=True):
        np.testing.assert_allclose(found, free_in_numpy(p, update), atol=1e-12)
    shared = jax.vmap(free, in_axes=(None, 0))(each[2], updates)
    np.testing.assert_allclose(shared[1], free_in_numpy(each[2], updates[1]), atol=1e-12)
    program = str(jax.make_jaxpr(jax.vmap(free))(stack(*each), updates))
    assert program.count("cond[") == 2  # one pick a side for all runs: none of them computes every width


def test_layers_of_different_ranks_in_one_leaf(x64: None) -> None:
    tx = dual_null_space(dimension_numbers=lambda leaf: WeightDimensionNumbers((1,), (2,)))
    each = [protection(pair, seed) for seed, pair in enumerate([(0, D), (D - 1, 7), (40, 90)])]
    sides = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    updates = drawn(0, 3, D, D)
    found, state = tx.update(updates, replace_projectors(tx.init(updates), sides))
    for layer, p, update in zip(found, each, updates, strict=True):
        np.testing.assert_allclose(layer, free_in_numpy(p, update), atol=1e-12)
    for_all, _ = tx.update(updates, replace_projectors(state, each[1]))
    np.testing.assert_allclose(for_all[2], free_in_numpy(each[1], updates[2]), atol=1e-12)


@pytest.mark.parametrize("ranks", [(5, 7), (100, D - 1)])
def test_complex_updates(ranks: tuple[int, int], x64: None) -> None:
    update = drawn(0, D, D) + 1j * drawn(1, D, D)
    tx, p = dual_null_space(), protection(ranks, dtype=np.complex128)
    found, _ = tx.update(update, replace_projectors(tx.init(update), p))
    np.testing.assert_allclose(found, free_in_numpy(p, update), atol=1e-12)


@pytest.mark.parametrize("ranks", [(0, D), (6, 80)])
def test_it_differentiates_in_both_modes_under_vmap(ranks: tuple[int, int], x64: None) -> None:
    """It is linear and self-adjoint, so that its derivative along `T` is itself of `T`, and `∇ ½‖F(U)‖² = F(U)`."""
    tx, p = dual_null_space(), protection(ranks)
    updates, tangents = drawn(0, 2, D, D), drawn(1, 2, D, D)
    state = replace_projectors(tx.init(updates[0]), p)
    free = lambda update: tx.update(update, state)[0]  # noqa: E731
    gradients = jax.jit(jax.vmap(jax.grad(lambda update: jnp.sum(free(update) ** 2) / 2)))(updates)
    _, moved = jax.jvp(jax.vmap(free), (updates,), (tangents,))
    for one, gradient, tangent, along in zip(updates, gradients, tangents, moved, strict=True):
        np.testing.assert_allclose(gradient, free_in_numpy(p, one), atol=1e-12)
        np.testing.assert_allclose(along, free_in_numpy(p, tangent), atol=1e-12)


def test_where_next_to_nothing_is_free_what_leaks_is_relative_to_that() -> None:
    """An update of which a millionth is free, less than float32 rounds of it."""
    p = in_single(protection((D - 1, D)))
    protected, free = np.split(basis(0), [D - 1], axis=1)
    drawn = np.random.default_rng(3).normal(size=(D, D))
    update = jnp.asarray(drawn - free @ (free.T @ drawn) * (1 - 1e-6), jnp.float32)
    tx = dual_null_space()
    found, _ = tx.update(update, replace_projectors(tx.init(update), p))
    assert 0 < np.linalg.norm(protected.T @ np.asarray(found, np.float64)) < 1e-5 * np.linalg.norm(found)


@pytest.mark.parametrize("ranks", [(D, D), (0, 0)])
def test_all_protected_is_zero_and_nothing_protected_is_the_update_bit_for_bit(ranks: tuple[int, int]) -> None:
    update = jnp.asarray(np.random.default_rng(0).normal(size=(D, D)), jnp.float32)
    tx = dual_null_space()
    found, _ = tx.update(update, replace_projectors(tx.init(update), in_single(protection(ranks))))
    np.testing.assert_array_equal(found, update if ranks == (0, 0) else 0)


def test_a_basis_with_a_nan_shows_though_nothing_is_protected() -> None:
    update = jnp.ones((D, D))
    tx = dual_null_space()
    vectors = jnp.eye(D).at[3, 7].set(jnp.nan)
    nothing = Subspace(vectors, jnp.zeros(D, bool))
    p = Subspaces(Subspace(jnp.eye(D), jnp.ones(D, bool)), nothing)
    assert np.isnan(tx.update(update, replace_projectors(tx.init(update), p))[0]).all()


def test_a_matrix_that_is_not_quite_a_projector_stands_for_the_nearest_one(x64: None) -> None:
    vectors = basis(0)
    soft = vectors @ np.diag([1.02, 0.9, 0.6, 0.4, 0.1, -0.05] + [0.0] * (D - 6)) @ vectors.T
    np.testing.assert_allclose(as_matrix(as_subspace(jnp.asarray(soft))), vectors[:, :3] @ vectors[:, :3].T, atol=1e-12)


def test_the_basis_of_a_matrix_is_found_once_for_all_leaves_and_states(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    original = projectors_module._eigenbasis
    monkeypatch.setattr(projectors_module, "_eigenbasis", lambda side: found.append(side) or original(side))
    heads = {m: {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)} for m in ("text", "audio", "depth")}
    tx = optax.chain(dual_null_space(), dual_null_space())
    p = NullSpaceProjector(jnp.diag(jnp.array([1.0, 0, 0])), jnp.diag(jnp.array([1.0, 0])))
    own = NullSpaceProjector(None, jnp.diag(jnp.array([0.0, 1])))
    state = replace_projectors(tx.init(heads), {"text": p, "audio": p, "depth": own})
    assert len(found) == 3
    updates, _ = tx.update(heads, state)
    np.testing.assert_array_equal(updates["audio"]["kernel"], [[0, 1], [1, 1], [1, 1]])
    np.testing.assert_array_equal(updates["depth"]["bias"], [1, 0])


def test_the_state_holds_a_basis_and_a_mask_a_side_and_no_more() -> None:
    state = dual_null_space().init(jnp.ones((6, 4), jnp.bfloat16))
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == 4 * (6**2 + 4**2) + 6 + 4
