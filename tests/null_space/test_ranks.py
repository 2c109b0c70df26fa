"""Which directions the threshold rules keep, against planted ranks, hand-worked spectra and quadrature in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmcl_jax import empty_memory, projector, projectors_from, update_memory
from cmcl_jax.config import load_config
from cmcl_jax.methods import method_from_config
from cmcl_jax.null_space.ranks import THRESHOLD_RULES, directions_kept, marchenko_pastur_median
from feature_cache.errors import UserError

THRESHOLDS = {"absolute": 1e-3, "relative": 1e-3, "energy": 1e-2, "gap": 1e-3, "noise": 1.1}
SCALE_FREE = tuple(sorted(set(THRESHOLD_RULES) - {"absolute"}))
jitted = jax.jit(projector, static_argnames="rule")
jitted_directions = jax.jit(directions_kept, static_argnames="rule")


def rank(moment: np.ndarray, threshold: float, rule: str, rows: int | None = None) -> int:
    return round(float(np.trace(projector(jnp.asarray(moment), threshold, rule, rows=rows))))


def planted(seed: int, n: int, d: int, signals: int, strength: float) -> np.ndarray:
    """Second moment of white noise of variance 1 plus `signals` directions of variance about `strength` each."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(d, signals)))[0]
    factors = np.linalg.qr(rng.normal(size=(n, signals)))[0] * np.sqrt(n)
    x = np.sqrt(strength) * factors @ directions.T + rng.normal(size=(n, d))
    return x.T @ x / n


@pytest.mark.parametrize(
    ("spectrum", "threshold", "kept"),
    [
        ([8, 4, 0.4, 0.1], 0.01, 2),  # ratios 2, 10, 4, and 0.1 / 0.08
        ([8, 4, 0.4, 0.1], 0.04, 2),  # the floor 0.32 hides the last: 2, 10, 0.4 / 0.32
        ([8, 4, 0.4, 0.1], 0.001, 4),  # the drop to the floor, 0.1 / 0.008 = 12.5, is wider than 10
        ([8, 1, 0.125, 0], 0.015625, 1),  # 8, 8, 1: the first of equal ones
        ([8, 4, 2, 0], 0.0, 3),  # without a floor, rounding is the floor
        ([3, 3, 3, 3], 0.1, 4),  # flat: nothing to cut
        ([8, 8, 0, 0], 0.5, 2),
    ],
)
def test_gap_keeps_what_stands_before_the_widest_ratio(spectrum: list[float], threshold: float, kept: int) -> None:
    assert rank(np.diag(np.array(spectrum, np.float32)), threshold, "gap") == kept


@pytest.mark.parametrize(
    ("n", "d", "law"), [(400, 100, 0.25), (100, 400, 0.25), (200, 200, 1.0)], ids=["tall", "wide", "square"]
)
def test_noise_keeps_what_exceeds_the_edge_of_the_law(n: int, d: int, law: float, x64: None) -> None:
    # Median 1 and the edge worked by hand: (1 + √β)² / μ_β, with the published μ_1 = 0.6528 and μ_0.25 = 0.9161.
    edge = {0.25: 2.25 / 0.9161, 1.0: 4 / 0.6528}[law]
    spectrum = np.zeros(d)
    spectrum[: min(n, d)] = 1
    spectrum[:3] = 1.01 * edge, 1.005 * edge, 0.99 * edge
    assert int(jitted_directions(jnp.asarray(spectrum), 1.0, "noise", rows=n).sum()) == 2


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 0.9, 1.0])
def test_half_of_the_marchenko_pastur_law_is_below_its_median(beta: float) -> None:
    low, high = (1 - beta**0.5) ** 2, (1 + beta**0.5) ** 2
    x = np.linspace(float(marchenko_pastur_median(beta)), high, 400_001)
    density = np.sqrt(np.maximum((high - x) * (x - low), 0)) / (2 * np.pi * beta * x)
    assert np.trapezoid(density, x) == pytest.approx(0.5, abs=2e-4)


@pytest.mark.parametrize("rule", ["gap", "noise"])
@pytest.mark.parametrize(
    ("n", "d", "signals", "strength"),
    [(400, 40, 5, 10), (400, 40, 5, 100), (120, 60, 3, 30), (60, 120, 4, 50), (90, 90, 1, 40)],
)
def test_planted_rank_is_recovered(rule: str, n: int, d: int, signals: int, strength: float, x64: None) -> None:
    # What is below the largest noise, (1 + √β)², is noise to the gap rule.
    floor = 0.5 * (1 + (d / n) ** 0.5) ** 2 / (strength + (1 + (d / n) ** 0.5) ** 2)
    threshold = {"noise": 1.2, "gap": floor}[rule]
    for seed in range(5):
        moment = jnp.asarray(planted(seed, n, d, signals, strength))
        found = jitted(moment, threshold, rule, rows=n)
        assert round(float(jnp.trace(found))) == signals


@pytest.mark.parametrize("threshold", [1e-3, 5e-3, 2e-2, 0.2])
def test_gap_finds_the_rank_wherever_the_floor_is_near_the_noise(threshold: float) -> None:
    moment = planted(0, 400, 40, 5, 100)
    assert rank(moment, threshold, "gap") == 5
    assert rank(moment, 1e-6, "gap") == 40  # far below the noise, which is then kept with the signal


def test_noise_keeps_nothing_of_noise_alone() -> None:
    assert not jitted(jnp.asarray(planted(0, 2000, 30, 0, 1), jnp.float32), 1.1, "noise", rows=2000).any()


def test_noise_keeps_a_clean_low_rank_signal_whole_and_warns_of_a_clean_full_one() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(50, 3)) @ rng.normal(size=(3, 12))).astype(np.float32)
    assert rank(rows.T @ rows / 50, 1.0, "noise", 50) == 3
    assert rank(np.diag(np.array([9, 1e-3, 0, 0, 0], np.float32)), 1.0, "noise", 50) == 2  # the median is 0
    for full in ([1.0, 1.0, 1.0, 1.0], [8.0, 1.5, 0.4, 0.1]):
        with pytest.warns(UserWarning, match="may be signal. Use the rule relative or energy"):
            projector(jnp.diag(jnp.array(full)), 1.0, "noise", rows=1000)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.sampled_from([4, 30]), scale=st.sampled_from([400.0, 1e-12, 1e12]))
def test_all_rules_but_absolute_are_blind_to_scale(seed: int, n: int, scale: float) -> None:
    x = np.random.default_rng(seed).normal(size=(n, 8)) * 2.0 ** -np.arange(8)
    moment = x.T @ x / n
    with jax.enable_x64(True):
        for rule in SCALE_FREE:
            small, large = (jitted(jnp.asarray(m), THRESHOLDS[rule], rule, rows=n) for m in (moment, scale * moment))
            assert round(float(np.trace(small))) >= (rule != "noise" or n > 8)
            np.testing.assert_allclose(small, large, atol=1e-8)
        absolute = [float(np.trace(jitted(jnp.asarray(m), 1e-3))) for m in (1e-6 * moment, 1e6 * moment)]
    assert absolute[0] < absolute[1]


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_awkward_moments_give_a_projector_under_every_rule(rule: str, scale: float) -> None:
    rng = np.random.default_rng(3)
    q = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    spectra = {
        "deficient": [5, 2, 1, *[0] * 7],
        "repeated": [4] * 3 + [1] * 7,
        "flat": [1] * 10,
        "one": [1, *[0] * 9],
        "none": [0] * 10,
    }
    for name, spectrum in sorted(spectra.items()):
        moment = jnp.asarray(scale * (q * spectrum) @ q.T, jnp.float32)
        threshold = THRESHOLDS[rule] * (scale if rule == "absolute" else 1)
        found = np.asarray(jitted(moment, threshold, rule, rows=200))
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found, found.T, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(found @ found, found, atol=1e-5, err_msg=name)
        expected = {"none": 0, "one": 1, "deficient": 3, "repeated": 3 if rule == "noise" else 10}
        assert round(float(np.trace(found))) == expected.get(name, 0 if rule == "noise" else 10), name


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
def test_jit_and_vmap_give_the_same_projectors_with_traced_thresholds_and_rows(rule: str, x64: None) -> None:
    moments = jnp.stack([planted(seed, 200, 12, 3, 30) for seed in range(3)])
    rows, threshold = jnp.full(3, 200), THRESHOLDS[rule]
    each = [projector(moment, threshold, rule, rows=200) for moment in moments]
    batched = jax.vmap(lambda m, t, n: projector(m, t, rule, rows=n))(moments, jnp.full(3, threshold), rows)
    np.testing.assert_allclose(batched, each, atol=1e-12)
    for moment, alone in zip(moments, each, strict=True):
        np.testing.assert_allclose(jitted(moment, threshold, rule, rows=200), alone, atol=1e-12)
        assert np.trace(alone) > 0.5


@pytest.mark.parametrize("rule", THRESHOLD_RULES)
@pytest.mark.parametrize("sizes", [(60,), (1, 59), (7, 13, 40)])
def test_projectors_of_a_memory_in_parts_equal_those_at_once(rule: str, sizes: tuple[int, ...], x64: None) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 8)) * 5 + rng.normal(size=(60, 8))
    memory = empty_memory(8, jnp.float64)
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        memory = update_memory(memory, jnp.asarray(part), jnp.ones(len(part), bool))
    head = {"kernel": jnp.eye(8), "bias": jnp.zeros(8)}
    threshold = THRESHOLDS[rule]
    found = projectors_from([memory], [(memory, head)], (threshold, threshold), rule)
    at_once = jitted(jnp.asarray(x.T @ x / 60), threshold, rule, rows=60)
    np.testing.assert_allclose(memory.moment, x.T @ x / 60, rtol=0, atol=1e-12 * np.abs(x.T @ x / 60).max())
    for side in found:
        np.testing.assert_allclose(side, at_once, atol=1e-12)


def test_noise_counts_the_rows_of_all_pairs(x64: None) -> None:
    # One direction between the edge of 20 rows and that of 40: it passes only if both memories' rows count.
    spectrum = np.array([2.5, *[1.0] * 9])
    assert [int(jitted_directions(jnp.asarray(spectrum), 1.0, "noise", n)[0]) for n in (20, 40)] == [0, 1]
    x = np.linalg.qr(np.random.default_rng(5).normal(size=(20, 10)))[0] * np.sqrt(20 * spectrum)
    memory = update_memory(empty_memory(10, jnp.float64), jnp.asarray(x), jnp.ones(20, bool))
    head = {"kernel": jnp.eye(10), "bias": jnp.zeros(10)}
    for times, kept in ((1, 0), (2, 1)):
        found = projectors_from([memory] * times, [(memory, head)] * times, (1.0, 1.0), "noise")
        assert [round(float(jnp.trace(side))) for side in found] == [kept, kept]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_moment_that_is_not_finite_is_refused_outside_jit_only(wrong: float) -> None:
    moment = jnp.eye(3).at[0, 1].set(wrong)
    for rule in THRESHOLD_RULES:
        with pytest.raises(ValueError, match=r"1 of 9 entries that are NaN or infinite.*Check the features"):
            projector(moment, 0.1, rule, rows=3)
    assert jitted(moment, 0.1).shape == (3, 3)


def test_noise_without_rows_is_an_error_that_names_them() -> None:
    with pytest.raises(ValueError, match="noise needs rows"):
        projector(jnp.eye(2), 1.0, "noise")


def test_rules_are_chosen_by_the_config_and_thresholds_of_another_rule_refused() -> None:
    pocket, given = "configs/pocket.py", ["method=dns"]
    assert method_from_config(load_config(pocket, [*given, "dns.rule=gap"])).rule == "gap"
    both = ["dns.input_threshold=1.1", "dns.output_threshold=1.1"]
    assert method_from_config(load_config(pocket, [*given, "dns.rule=noise", *both])).input_threshold == 1.1
    with pytest.raises(UserError, match=r"input_threshold must be at least 1 by the noise rule, but it is 0\.003"):
        method_from_config(load_config(pocket, [*given, "dns.rule=noise"]))
    with pytest.raises(UserError, match="needs the rows of each modality.*Use the mode ours or another rule"):
        method_from_config(load_config(pocket, [*given, "dns.rule=noise", "dns.mode=released", *both]))
