"""Deviation of old alignment scores and its bounds, against scores computed in numpy from the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_jax.memory import FeatureMemory
from cmcl_jax.metrics.stability import (
    covered,
    deviation_from_memory,
    deviation_on_rows,
    dropped_norms,
    projected_bound,
)
from cmcl_jax.null_space import NullSpaceProjector, projector
from cmcl_jax.null_space.ranks import directions_kept
from tests.metrics.pairs import OldPair, moved, old_pair, projected, projectors_of, rms, scores

WIDTHS = st.sampled_from([(2, 2, 2), (5, 3, 4)])
INSTANCES = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "widths": WIDTHS,
        "n": st.sampled_from([2, 12]),
        "rank": st.sampled_from([1, 2, None]),
        "scale": st.sampled_from([1e-3, 1.0, 1e3]),
    }
)
bound_of = jax.jit(projected_bound, static_argnames="stacked")
from_memory, on_rows = jax.jit(deviation_from_memory), jax.jit(deviation_on_rows)
SQRT_EPS = float(np.sqrt(np.finfo(float).eps))


def tolerance(old: OldPair) -> float:
    """What a second moment cannot see: √eps of the largest score that the heads and their change could make."""
    size = lambda head: sum(np.linalg.norm(leaf) for leaf in head.values())  # noqa: E731
    of_rows = lambda x: 1 + rms(x) * x.shape[1] ** 0.5  # noqa: E731
    factors = [(size(old.before[s]) + size(old.change[s])) * of_rows(old.features[s]) for s in "ab"]
    return SQRT_EPS * float(np.prod(factors))


@settings(max_examples=25, deadline=None)
@given(instance=INSTANCES, sides=st.sampled_from(["a", "b", "ab"]), rate=st.sampled_from([1e-3, 1.0]))
def test_moments_and_means_give_the_deviation_itself_and_its_terms_bound_it(
    instance: dict, sides: str, rate: float
) -> None:
    with jax.enable_x64(True):
        old = old_pair(**instance)
        after = moved(old.before, old.change, rate, sides)
        actual = rms(scores(old.features, after) - scores(old.features, old.before))
        for found in (from_memory(old.memories, old.before, after), on_rows(old.features, old.before, after)):
            assert float(found.rms) == pytest.approx(actual, rel=1e-6, abs=tolerance(old))
            assert float(found.scale) == pytest.approx(rms(scores(old.features, old.before)), rel=1e-6)
            assert float(found.terms.bound) >= actual * (1 - 1e-9) - tolerance(old)
            if len(sides) == 1:
                assert float(found.terms.second) == 0 == float(found.terms[1 - "ab".index(sides)])
                assert float(found.terms.bound) == pytest.approx(float(found.rms))


@settings(max_examples=40, deadline=None)
@given(
    instance=INSTANCES,
    sides=st.sampled_from(["a", "ab"]),
    rate=st.sampled_from([1e-3, 1.0]),
    threshold=st.sampled_from([1e-10, 1e-2, 0.5, 0.99]),
    one_sided=st.booleans(),
    project=st.booleans(),
)
def test_the_projected_bound_holds_on_every_instance(
    instance: dict, sides: str, rate: float, threshold: float, one_sided: bool, project: bool
) -> None:
    with jax.enable_x64(True):
        old = old_pair(**instance)
        projectors = projectors_of(old, threshold, one_sided=one_sided)
        change = projected(old.change, projectors) if project else old.change
        after = moved(old.before, change, rate, sides)
        actual = on_rows(old.features, old.before, after)
        bound = bound_of(old.memories, old.before, after, projectors)
        assert float(actual.rms) == pytest.approx(
            rms(scores(old.features, after) - scores(old.features, old.before)),
            rel=1e-6,
            abs=1e-4 * tolerance(old),
        )
        assert float(actual.rms) <= float(bound.bound) * (1 + 1e-9)
        assert all(float(term) <= float(limit) * (1 + 1e-9) for term, limit in zip(actual.terms, bound, strict=True))


@settings(max_examples=15, deadline=None)
@given(instance=INSTANCES, threshold=st.sampled_from([1e-20, 0.1, 0.9]), rate=st.sampled_from([1e-3, 1.0]))
def test_the_projected_bound_holds_with_stacked_biases(instance: dict, threshold: float, rate: float) -> None:
    with jax.enable_x64(True):
        old = old_pair(**instance)
        stacked = projectors_of(old, threshold, stacked=True)
        after = moved(old.before, projected(old.change, stacked, stacked=True), rate)
        actual = on_rows(old.features, old.before, after)
        bound = bound_of(old.memories, old.before, after, stacked, stacked=True)
        assert all(float(term) <= float(limit) * (1 + 1e-9) for term, limit in zip(actual.terms, bound, strict=True))
        if threshold < 1e-3:  # nothing is dropped, not even small rows beside the ones
            assert float(actual.terms.first_a) <= rate * tolerance(old)


@pytest.mark.parametrize("d", [6, 48])
@pytest.mark.parametrize("share", [1, 3])
@pytest.mark.parametrize("threshold", [1e-9, 0.1, 0.5])
def test_on_gaussian_instances_the_bounds_are_within_the_stated_factors(
    d: int, share: int, threshold: float, x64: None
) -> None:
    for seed in range(3):
        old = old_pair(seed, widths=(d, d, d), n=3 * d, rank=d // share)
        projectors = projectors_of(old, threshold)
        after = moved(old.before, projected(old.change, projectors), 0.01)
        actual = on_rows(old.features, old.before, after)
        if float(actual.relative) < 1e-12:
            assert share == 1 and threshold == 1e-9  # full rank, nothing dropped: nothing can move
            continue
        assert float(actual.rms) <= float(actual.terms.bound) <= 2 * float(actual.rms)
        assert float(bound_of(old.memories, old.before, after, projectors).bound) <= 25 * float(actual.rms)


def test_a_bound_with_too_little_dropped_mass_would_be_broken(x64: None) -> None:
    # One input direction of size 0.1 is dropped and the change is all in it: the deviation is known by hand.
    x, z = np.diag([1.0, 0.1]), np.eye(2)
    features = {"a": x, "b": z}
    eye = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    before = {"a": eye, "b": eye}
    after = {"a": {"kernel": jnp.array([[1.0, 0.0], [0.0, 3.0]]), "bias": jnp.zeros(2)}, "b": eye}
    memories = {s: FeatureMemory(*map(jnp.asarray, (f.T @ f / 2, f.mean(0), 2.0))) for s, f in features.items()}
    kept = jnp.diag(jnp.array([1.0, 0.0]))
    projectors = {"a": NullSpaceProjector(kept, jnp.eye(2)), "b": NullSpaceProjector(jnp.eye(2), jnp.eye(2))}
    actual = rms(scores(features, after) - scores(features, before))
    assert actual == pytest.approx(0.1 * 2 * 1 / 2)
    assert float(projected_bound(memories, before, after, projectors).bound) == pytest.approx(actual, rel=1e-6)
    smaller = FeatureMemory(memories["a"].moment.at[1, 1].mul(0.9), memories["a"].mean, memories["a"].rows)
    assert float(projected_bound({**memories, "a": smaller}, before, after, projectors).bound) < 0.96 * actual


def test_the_second_order_term_by_hand(x64: None) -> None:
    # Scalar heads: z_a = 2 → 3, z_b = 5 → 4, so 10 became 12 = 10 + 1·5 − 2·1 − 1·1.
    memory = FeatureMemory(jnp.array([[1.0]]), jnp.array([1.0]), jnp.array(1.0))
    head = lambda kernel: {"kernel": jnp.array([[kernel]]), "bias": jnp.zeros(1)}  # noqa: E731
    found = deviation_from_memory(
        {"a": memory, "b": memory}, {"a": head(2.0), "b": head(5.0)}, {"a": head(3.0), "b": head(4.0)}
    )
    np.testing.assert_allclose(found.terms, [5, 2, 1], rtol=1e-7)
    assert [float(found.rms), float(found.scale), float(found.relative)] == pytest.approx([2, 10, 0.2])


def test_one_sided_protection_leaves_no_term_and_two_sided_only_the_second(x64: None) -> None:
    old = old_pair(0, widths=(6, 6, 6), n=9, rank=3)
    for one_sided in (True, False):
        projectors = projectors_of(old, 1e-9, one_sided=one_sided)
        after = moved(old.before, projected(old.change, projectors), 1.0)
        actual = on_rows(old.features, old.before, after)
        assert max(float(actual.terms.first_a), float(actual.terms.first_b)) < 1e-12
        assert (float(actual.terms.second) < 1e-12) is one_sided
        bound = bound_of(old.memories, old.before, after, projectors)
        assert max(float(bound.first_a), float(bound.first_b)) < 1e-5 * float(actual.scale)  # the rounding of moments
        assert (float(bound.second) < 1e-9) is one_sided


def test_stale_partner_projectors_are_seen_by_the_bound(x64: None) -> None:
    old = old_pair(1, n=9, rank=3)
    projectors = projectors_of(old, 1e-9)  # with the head of b as it was, not as it is
    today = {"a": old.before["a"], "b": moved(old.before, old.change, 0.5)["b"]}
    after = moved(today, projected(old.change, projectors), 0.1, "a")
    actual = on_rows(old.features, today, after)
    bound = bound_of(old.memories, today, after, projectors)
    assert 1e-3 < float(actual.terms.first_a) <= float(bound.first_a)
    fresh = projectors_of(old._replace(before=today), 1e-9)
    repaired = moved(today, projected(old.change, fresh), 0.1, "a")
    assert float(bound_of(old.memories, today, repaired, fresh).first_a) < 1e-3 * float(bound.first_a)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from([1e-3, 0.1, 0.7]), pairs=st.sampled_from([1, 3]))
def test_what_a_projector_leaves_of_the_rows_is_what_the_spectrum_drops(
    seed: int, threshold: float, pairs: int
) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        rows = [rng.normal(size=(7, 5)) @ rng.normal(size=(5, 5)) for _ in range(pairs)]
        pooled = jnp.asarray(sum(x.T @ x for x in rows) / (7 * pairs))
        s = jnp.linalg.svd(pooled, compute_uv=False)
        p = np.asarray(projector(pooled, threshold, "relative"))
        limit = dropped_norms(s, directions_kept(s, threshold, "relative"), 1 / pairs)
        squares = 0.0
        for x in rows:
            outside = x @ (np.eye(5) - p) / np.sqrt(7)
            found = covered(jnp.asarray(x.T @ x / 7), jnp.asarray(p)).outside
            for name, order in (("spectral", 2), ("frobenius", None)):
                actual = np.linalg.norm(outside, order)
                assert float(getattr(found, name)) == pytest.approx(actual, rel=1e-5, abs=1e-6)
                assert actual <= float(getattr(limit, name)) + 1e-9
            squares += np.linalg.norm(outside) ** 2
        assert squares == pytest.approx(float(limit.frobenius) ** 2, rel=1e-6, abs=1e-9)


def test_everything_runs_under_jit_and_vmap_in_float32() -> None:
    pairs = [old_pair(seed, n=9, rank=3) for seed in range(3)]
    projectors = [projectors_of(old, 1e-3) for old in pairs]
    after = [moved(old.before, projected(old.change, p), 0.1) for old, p in zip(pairs, projectors, strict=True)]
    olds, afters, protect = (
        jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), jnp.float32), *trees)
        for trees in (pairs, after, projectors)
    )
    measured = jax.jit(jax.vmap(deviation_from_memory))(olds.memories, olds.before, afters)
    bounds = jax.jit(jax.vmap(projected_bound))(olds.memories, olds.before, afters, protect)
    assert measured.rms.dtype == bounds.bound.dtype == jnp.float32
    for i, old in enumerate(pairs):
        actual = rms(scores(old.features, after[i]) - scores(old.features, old.before))
        assert float(measured.rms[i]) == pytest.approx(actual, abs=1e-3 * float(measured.scale[i]))
        assert 0 < actual < float(bounds.bound[i])


def test_heads_that_did_not_move_deviate_by_zero_even_with_scores_of_zero() -> None:
    memory = FeatureMemory(jnp.zeros((2, 2)), jnp.zeros(2), jnp.zeros(()))
    head = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    pair, memories = {"a": head, "b": head}, {"a": memory, "b": memory}
    found = deviation_from_memory(memories, pair, pair)
    assert [float(found.rms), float(found.relative), float(found.terms.bound)] == [0, 0, 0]
