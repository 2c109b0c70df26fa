"""Heads with hidden layers: where they start, what they compute, and how a run with them behaves."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from cmcl_jax.config import ConfigError, check_config, load_config
from cmcl_jax.continual import run
from cmcl_jax.heads import Head, apply_head, init_heads
from cmcl_jax.methods import method_from_config
from cmcl_jax.methods.dns_hidden import HiddenDualNullSpace
from cmcl_jax.methods.dns_rotated import RotatedDualNullSpace
from feature_cache.errors import UserError
from tests.interrupted import run_that_dies_once
from tests.streams import WIDTH, heads_of_one_seed, outputs_of

POCKET = "configs/pocket.py"


def moved_head(hidden: tuple[int, ...], seed: int = 0) -> Head:
    return jax.tree.map(lambda leaf: leaf[0], heads_of_one_seed(seed, hidden)["text"])


@pytest.mark.parametrize("widths", [{"text": 6, "audio": 6}, {"text": 8, "audio": 6}], ids=["square", "rectangular"])
def test_heads_start_with_the_outputs_of_linear_ones(widths: dict[str, int]) -> None:
    linear, deep = (init_heads(jax.random.key(3), widths, hidden=hidden) for hidden in ((), (5, 7)))
    for modality, width in widths.items():
        rows = jnp.asarray(np.random.default_rng(0).normal(size=(4, width)), jnp.float32)
        expected = np.asarray(rows) @ np.asarray(linear[modality]["kernel"])
        np.testing.assert_allclose(apply_head(deep[modality], rows), expected, rtol=1e-5, atol=1e-6)
        shapes = jax.tree.map(jnp.shape, deep[modality])
        assert shapes["hidden_0"] == {"kernel": (width, 5), "bias": (5,)}
        assert shapes["hidden_1"] == {"kernel": (5, 7), "bias": (7,)}
        assert shapes["output"] == {"kernel": (width + 7, 6), "bias": (6,)}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-3, 1.0, 20.0]))
def test_outputs_equal_numpy_and_scale_with_the_features(seed: int, scale: float) -> None:
    with jax.enable_x64(True):
        head = moved_head((5, 7))
        rows = np.random.default_rng(seed).normal(size=(4, WIDTH))
        z, scaled = (np.asarray(apply_head(head, jnp.asarray(factor * rows))) for factor in (1, scale))
        np.testing.assert_allclose(scaled, outputs_of(head, scale * rows), atol=1e-12)
        bias = np.asarray(head["output"]["bias"])
        np.testing.assert_allclose(scaled - bias, scale * (z - bias), atol=1e-12)


def test_hidden_layers_make_the_head_nonlinear(x64: None) -> None:
    head = moved_head((16,))
    x, y = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, WIDTH)))
    linear = apply_head(head, x) + apply_head(head, y) - head["output"]["bias"]
    assert float(jnp.abs(apply_head(head, x + y) - linear).max()) > 0.05


def test_a_row_of_zeros_has_outputs_and_gradients(x64: None) -> None:
    head, row = moved_head((5,)), jnp.zeros((1, WIDTH))
    np.testing.assert_allclose(apply_head(head, row)[0], head["output"]["bias"])
    gradients = jax.grad(lambda head: jnp.sum(apply_head(head, row) ** 2))(head)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("hidden", ["(-1,)", "(8,0)", "(True,)", "(8.5,)", "('wide',)"])
def test_a_width_that_is_none_is_named(hidden: str) -> None:
    config = load_config(POCKET, [f"head.hidden={hidden}"])
    with pytest.raises(ConfigError, match=r"config.head.hidden must be a tuple of widths of at least 1, but it is"):
        check_config(config)


def test_one_width_without_a_tuple_is_named() -> None:
    with pytest.raises(ConfigError, match="head.hidden=256: the field is of type tuple, but this is of type int"):
        load_config(POCKET, ["head.hidden=256"])


def test_dns_protects_layer_by_layer_only_where_there_are_layers() -> None:
    chosen = {
        hidden: method_from_config(load_config(POCKET, ["method=dns", f"head.hidden={hidden}"]))
        for hidden in ("()", "(256,)")
    }
    assert [type(method) for method in chosen.values()] == [RotatedDualNullSpace, HiddenDualNullSpace]


def test_what_is_for_linear_heads_only_says_so(tiny_config: ConfigDict, tmp_path: Path) -> None:
    tiny_config.head.hidden, tiny_config.method = (8,), "dns"
    tiny_config.dns.mode = "released"
    with pytest.raises(UserError, match=r"hidden = \(8,\) does not go with config.dns.mode = 'released'.*mode ours"):
        method_from_config(tiny_config)
    tiny_config.dns.mode, tiny_config.evaluation.stability = "ours", True
    with pytest.raises(UserError, match=r"stability = True needs linear heads, but config.head.hidden is \(8,\)"):
        run(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_every_method_starts_from_the_zero_shot_of_linear_heads(tiny_config: ConfigDict, tmp_path: Path) -> None:
    tiny_config.training.epochs = 1
    run(tiny_config, tmp_path / "linear")
    tiny_config.head.hidden = (8,)
    matrices = {}
    for method in ("vanilla", "joint", "dns"):
        tiny_config.method = method
        run(tiny_config, tmp_path / method)
        matrices[method] = np.load(tmp_path / method / "matrices" / "map.npy")
    zero_shot = np.load(tmp_path / "linear" / "matrices" / "map.npy")[:, 0]
    for matrix in matrices.values():
        np.testing.assert_array_equal(matrix[:, 0], zero_shot)
        assert not np.array_equal(matrix[:, -1], zero_shot)
    np.testing.assert_array_equal(matrices["vanilla"][:, 1], matrices["dns"][:, 1])


@pytest.mark.slow
def test_a_run_that_dies_goes_on_to_the_same_results(
    tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config.method, tiny_config.training.epochs = "dns", 1
    tiny_config.head.hidden, tiny_config.dns.class_texts = (8, 6), True
    whole = run(tiny_config, tmp_path / "whole")
    assert run_that_dies_once(tiny_config, tmp_path / "broken", monkeypatch) == whole
