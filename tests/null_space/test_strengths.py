"""Three strengths, three promises: what each keeps, and where each fails."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmcl_jax import NullSpaceProjector, WeightDimensionNumbers, dns_adamw, replace_projectors
from cmcl_jax.methods.dns import DualNullSpace
from cmcl_jax.methods.vanilla import Vanilla
from tests.streams import MODALITIES, drift, heads_of_one_seed, learn_all, tasks, training

STRENGTHS = ("gradients", "updates", "exact")
RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class Head:
    """A random head, a gradient of it, and what is protected as orthonormal columns in float64."""

    params: dict[str, jax.Array]
    gradients: dict[str, jax.Array]
    q_in: np.ndarray
    q_out: np.ndarray

    @property
    def projector(self) -> NullSpaceProjector:
        """Rounded as one that is made in the head's precision: of full rank, it is the identity but for that."""
        dtype = self.params["kernel"].dtype
        return NullSpaceProjector(*(jnp.asarray(q @ q.T) for q in (self.q_in.astype(dtype), self.q_out.astype(dtype))))

    def protected(self, updates: Any) -> tuple[float, float]:
        """`‖P_in ΔK P_out‖` and `‖Δb P_out‖`, in float64."""
        kernel, bias = (np.asarray(updates[name], np.float64) for name in ("kernel", "bias"))
        return np.linalg.norm(self.q_in.T @ kernel @ self.q_out), np.linalg.norm(bias @ self.q_out)


def head(width: int, ranks: tuple[int, int], dtype: Any = np.float32, seed: int = 0) -> Head:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    leaves = [{"kernel": draw(width, width), "bias": draw(width)} for _ in range(2)]
    q_in, q_out = (np.linalg.qr(rng.normal(size=(width, rank)))[0] for rank in ranks)
    return Head(leaves[0], leaves[1], q_in, q_out)


def first_update(of: Head, project: str, **settings: Any) -> dict[str, jax.Array]:
    tx = dns_adamw(RATE, project=project, **settings)
    state = replace_projectors(tx.init(of.params), of.projector)
    updates, _ = jax.jit(tx.update)(of.gradients, state, of.params)
    return {name: np.asarray(leaf, np.float64) for name, leaf in updates.items()}


@pytest.mark.parametrize("project", STRENGTHS)
def test_adam_after_the_projection_leaves_the_protected_space_and_before_it_does_not(project: str) -> None:
    of = head(32, (8, 12))
    updates = first_update(of, project)
    leak, of_bias = of.protected(updates)
    share, share_of_bias = leak / np.linalg.norm(updates["kernel"]), of_bias / np.linalg.norm(updates["bias"])
    if project == "gradients":
        assert share > 0.05 and share_of_bias > 0.05
    else:
        assert share < 1e-6 and share_of_bias < 1e-6


def test_decay_after_projected_gradients_leaves_the_protected_space_even_without_adam() -> None:
    of = head(32, (8, 12))
    quiet = dataclasses.replace(of, gradients=jax.tree.map(jnp.zeros_like, of.gradients))
    leaks = {project: quiet.protected(first_update(quiet, project, weight_decay=0.1))[0] for project in STRENGTHS}
    decayed = RATE * 0.1 * of.protected(of.params)[0]
    assert leaks["gradients"] == pytest.approx(decayed, rel=1e-5)
    assert max(leaks["updates"], leaks["exact"]) < 1e-6 * decayed


@pytest.mark.parametrize("project", STRENGTHS)
def test_a_head_of_which_everything_is_protected_keeps_its_bits_in_float32(project: str) -> None:
    of = head(64, (64, 64))
    tx = dns_adamw(RATE, project=project, weight_decay=0.0)
    state = replace_projectors(tx.init(of.params), of.projector)
    update, zeros = jax.jit(tx.update), jax.tree.map(jnp.zeros_like, of.params)
    params, total = of.params, zeros
    for _ in range(10):
        updates, state = update(of.gradients, state, params)
        params, total = optax.apply_updates(params, updates), optax.apply_updates(total, updates)
    jax.tree.map(np.testing.assert_array_equal, params, of.params)
    jax.tree.map(np.testing.assert_array_equal, total, zeros)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("project", ["updates", "exact"])
@pytest.mark.slow
def test_at_a_width_of_1024_nothing_protected_moves(project: str, dtype: Any, tolerance: float, x64: None) -> None:
    for width, ranks in ((128, (3, 1)), (1024, (300, 500)), (128, (128, 110))):
        of = head(width, ranks, dtype)
        updates = first_update(of, project)
        leak, of_bias = of.protected(updates)
        assert np.linalg.norm(updates["kernel"]) > 0 and np.linalg.norm(updates["bias"]) > 0
        assert leak <= tolerance * np.linalg.norm(updates["kernel"])
        assert of_bias <= tolerance * np.linalg.norm(updates["bias"])


@pytest.mark.slow
@pytest.mark.parametrize("project", ["updates", "exact"])
def test_with_one_dimension_left_free_what_leaks_is_small_next_to_that_one(project: str, x64: None) -> None:
    of = head(1024, (1023, 1023), np.float32)
    kernel = first_update(of, project)["kernel"]
    leak, _ = of.protected({"kernel": kernel, "bias": np.zeros(1024)})
    assert 0 < leak <= 1e-5 * np.linalg.norm(kernel)


@pytest.mark.parametrize("project", ["updates", "exact"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_all_is_protected_nothing_moves(dtype: Any, project: str, x64: None) -> None:
    for leaf in first_update(head(256, (256, 256), dtype), project).values():
        np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("project", [*STRENGTHS, None])
def test_a_bias_of_heads_is_not_decayed_and_leaves_without_numbers_are_from_two_axes_on(project: str | None) -> None:
    params = {
        "query": {"kernel": jnp.ones((4, 2, 3)), "bias": jnp.ones((2, 3))},
        "torch": {"weight": jnp.ones((3, 4)), "bias": jnp.ones(3)},
        "table": jnp.ones((5, 2)),
        "scale": jnp.ones(2),
    }
    numbers = {
        "query": {"kernel": WeightDimensionNumbers((0,), (1, 2)), "bias": WeightDimensionNumbers((), (0, 1))},
        "torch": {"weight": WeightDimensionNumbers((1,), (0,)), "bias": WeightDimensionNumbers((), (0,))},
        "table": None,
        "scale": None,
    }
    tx = dns_adamw(1.0, weight_decay=0.5, project=project, dimension_numbers=numbers)
    updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    decayed = jax.tree.map(lambda leaf: float(-leaf.ravel()[0]), updates)
    assert decayed == {
        "query": {"kernel": 0.5, "bias": 0.0},
        "torch": {"weight": 0.5, "bias": 0.0},
        "table": 0.5,
        "scale": 0.0,
    }


def test_biases_are_protected_leafwise_or_left_free_in_every_strength() -> None:
    of = head(32, (8, 32))  # all outputs protected, so that biases are frozen
    for project in STRENGTHS[1:]:
        free = first_update(of, project, biases="free")["bias"]
        np.testing.assert_allclose(np.abs(free), RATE, rtol=1e-4)
        assert np.abs(first_update(of, project)["bias"]).max() < 1e-4 * RATE


@pytest.mark.slow
def test_the_exact_form_keeps_old_alignments_through_a_stream_and_its_first_step_is_vanilla(x64: None) -> None:
    a, b, c, d = MODALITIES
    dns = DualNullSpace(training(), project="exact", rule="relative", input_threshold=1e-10, output_threshold=1e-10)
    stream = tasks((a, b), (b, c), (a, d))
    (_, after_ab, after_bc, after_ad) = (heads for heads, _ in learn_all(dns, stream, heads_of_one_seed()))
    assert drift(after_ab, after_ad, stream[0]) < 1e-10
    for modality, before, after in ((b, after_ab, after_bc), (a, after_bc, after_ad)):
        assert np.abs(np.asarray(after[modality]["kernel"] - before[modality]["kernel"])).max() > 1e-3
    vanilla = learn_all(Vanilla(training()), stream[:1], heads_of_one_seed())[1][0]
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, atol=1e-13), after_ab, vanilla)
