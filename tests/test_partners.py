"""What each way of remembering partners promises, and what its memory is."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from cmcl_jax import projectors_from
from cmcl_jax.checkpoint import Checkpoints
from cmcl_jax.config import load_config
from cmcl_jax.continual import run
from cmcl_jax.heads import Heads
from cmcl_jax.methods import Method, method_from_config
from cmcl_jax.methods.dns import DualNullSpace
from cmcl_jax.methods.dns_partners import PARTNERS, Rows
from cmcl_jax.null_space import NullSpaceProjector, Subspaces, as_matrix
from cmcl_jax.train import init_memory, learn
from feature_cache.errors import UnknownNameError, UserError
from tests.interrupted import run_that_dies_once
from tests.streams import MODALITIES, ROWS, WIDTH, Task, drift, heads_of_one_seed, learn_all, tasks, training

A, B, C, D = MODALITIES
PAIRS = [(A, B), (B, C), (A, D)]
DNS = DualNullSpace(training(), project="updates", rule="relative", input_threshold=1e-10, output_threshold=1e-10)
pytestmark = pytest.mark.usefixtures("x64")


def one_seed(tree: Heads) -> Heads:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def rows_of(task: Task) -> dict[str, np.ndarray]:
    """The rows of a task without its padding, by modality."""
    step, features = task
    return {m: np.asarray(x)[:ROWS] for m, x in zip(step.modalities, features.by_role.values(), strict=True)}


def outputs_of(heads: Heads, modality: str, rows: np.ndarray) -> np.ndarray:
    head = heads[modality]
    return rows @ np.asarray(head["kernel"]) + np.asarray(head["bias"])


def assert_spans(found: jax.Array, rows: np.ndarray) -> None:
    """The projector keeps all rows, and has no direction beside them."""
    np.testing.assert_allclose(rows @ np.asarray(found), rows, atol=1e-8)
    np.testing.assert_allclose(np.trace(found), np.linalg.matrix_rank(rows), atol=1e-8)


@pytest.mark.parametrize("partners", PARTNERS)
def test_only_todays_heads_keep_an_old_alignment_while_the_partner_trains_on(partners: str) -> None:
    stream = tasks(*PAIRS)
    history = [
        heads for heads, _ in learn_all(dataclasses.replace(DNS, partners=partners), stream, heads_of_one_seed())
    ]
    drifts = {
        "first pair": drift(history[1], history[3], stream[0]),
        "second": drift(history[2], history[3], stream[1]),
    }
    if partners == "stale":
        assert drifts["first pair"] > 1e-5
    else:
        assert max(drifts.values()) < 1e-10
    trained = np.abs(np.asarray(history[3][A]["kernel"] - history[2][A]["kernel"])).max()
    assert trained > 1e-3, "or there was nothing to keep"


@pytest.mark.parametrize(("project", "biases"), [("updates", "stacked"), ("updates", "free")])
def test_every_form_that_protects_biases_keeps_old_alignments(project: str, biases: str) -> None:
    """Leafwise: the test before; exact: tests/null_space/test_strengths.py."""
    stream = tasks(*PAIRS)
    method = dataclasses.replace(DNS, project=project, biases=biases)
    history = [heads for heads, _ in learn_all(method, stream, heads_of_one_seed())]
    drifts = [drift(history[1], history[3], stream[0]), drift(history[2], history[3], stream[1])]
    if biases == "free":
        assert max(drifts) > 1e-4
    else:
        assert max(drifts) < 1e-10
    assert np.abs(np.asarray(history[3][A]["kernel"] - history[2][A]["kernel"])).max() > 1e-3


@pytest.mark.parametrize("partners", PARTNERS)
def test_projectors_span_exactly_what_was_met_and_what_the_partner_made_of_it(partners: str) -> None:
    (ab, ab_features), (bc, bc_features) = stream = tasks((A, B), (B, C), rank=2)
    method = dataclasses.replace(DNS, partners=partners)
    then, today = one_seed(heads_of_one_seed(0)), one_seed(heads_of_one_seed(1))
    memory = method.after_step(method.init(then, [(A, B), (B, C), (A, D)]), then, ab, ab_features)
    memory = method.after_step(memory, today, bc, bc_features)
    first, second = (rows_of(task) for task in stream)
    of_a, of_b, of_d = (as_matrices(method.projectors(memory, today, modality)) for modality in (A, B, D))
    expected = {
        "fresh": outputs_of(today, B, first[B]),
        "pooled": outputs_of(today, B, np.concatenate([first[B], second[B]])),
        "stale": outputs_of(then, B, first[B]),
    }
    assert_spans(of_a.inputs, first[A])
    assert_spans(of_a.outputs, expected[partners])
    assert_spans(of_b.inputs, np.concatenate([first[B], second[B]]))
    of_partner_a = outputs_of(then if partners == "stale" else today, A, first[A])
    assert_spans(of_b.outputs, np.concatenate([of_partner_a, outputs_of(today, C, second[C])]))
    assert not of_d.inputs.any()
    assert not of_d.outputs.any(), "a partner to come has not been met"


def test_what_pooled_protects_contains_what_fresh_protects() -> None:
    stream = tasks((A, B), (B, C), (A, D), (C, D), rank=2)
    heads, found = heads_of_one_seed(), {}
    for partners in ("fresh", "pooled"):
        method = dataclasses.replace(DNS, partners=partners)
        memory = method.init(one_seed(heads), [pair for step, _ in stream for pair in step.pairs])
        for step, features in stream:
            memory = method.after_step(memory, one_seed(heads), step, features)
        found[partners] = {m: as_matrices(method.projectors(memory, one_seed(heads), m)) for m in MODALITIES}
    for modality in MODALITIES:
        fresh, pooled = found["fresh"][modality], found["pooled"][modality]
        np.testing.assert_allclose(fresh.outputs @ pooled.outputs, fresh.outputs, atol=1e-8)
        np.testing.assert_allclose(fresh.inputs, pooled.inputs, atol=1e-8)
    ranks = {partners: sum(np.trace(p.outputs) for p in found[partners].values()) for partners in found}
    assert ranks["pooled"] > ranks["fresh"] + 1


def as_matrices(protected: Subspaces) -> NullSpaceProjector:
    return NullSpaceProjector(*map(as_matrix, protected))


def padded_parts(rows: np.ndarray, cuts: list[int]) -> list[Rows]:
    """The rows cut into parts, each with two rows of padding that must not count."""
    parts = np.split(rows, sorted(cuts))
    return [
        Rows(jnp.asarray(np.pad(part, ((0, 2), (0, 0)), constant_values=7.0)), jnp.arange(len(part) + 2) < len(part))
        for part in parts
    ]


@pytest.mark.parametrize("partners", PARTNERS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.sampled_from([1, 4, 9]), unique=True))
def test_remembering_in_parts_equals_recomputing_from_all_data(partners: str, seed: int, cuts: list[int]) -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        rows = {m: rng.normal(size=(12, WIDTH)) for m in (A, B, C)}
        heads = one_seed(heads_of_one_seed(seed % 7))
        strategy = PARTNERS[partners]
        memory = strategy.init(heads, [(A, B), (A, C)])
        for other in (B, C):
            for part_a, part_b in zip(padded_parts(rows[A], cuts), padded_parts(rows[other], cuts), strict=True):
                memory = strategy.remember(memory, heads, {A: [part_a], other: [part_b]})
        inputs, met = strategy.met(memory, heads, A)
        z = {m: outputs_of(heads, m, rows[m]) for m in (B, C)}
        totals = [float(memory.rows) for memory in inputs]
        pooled = sum(m.moment * n for m, n in zip(inputs, totals, strict=True)) / sum(totals)
        np.testing.assert_allclose(pooled, rows[A].T @ rows[A] / 12, atol=1e-12)
        assert sum(totals) == 24, "the same rows in two pairs"
        assert sum(float(memory.rows) for memory, _ in met) == 24
        if partners == "stale":
            both = np.concatenate([z[B], z[C]])
            np.testing.assert_allclose(met[0][0].moment, both.T @ both / 24, atol=1e-12)
            np.testing.assert_allclose(met[0][0].mean, both.mean(axis=0), atol=1e-12)
        else:
            for modality, (of_partner, head) in zip((B, C), met, strict=True):
                np.testing.assert_allclose(of_partner.moment, rows[modality].T @ rows[modality] / 12, atol=1e-12)
                np.testing.assert_allclose(of_partner.mean, rows[modality].mean(axis=0), atol=1e-12)
                assert head is heads[modality]


def test_a_step_of_three_modalities_is_all_of_its_pairs() -> None:
    rng = np.random.default_rng(3)
    heads = one_seed(heads_of_one_seed())
    rows = {m: rng.normal(size=(2, WIDTH)) for m in (A, B, C)}
    seen = {m: [Rows(jnp.asarray(x), jnp.ones(2, bool))] for m, x in rows.items()}
    z = {m: outputs_of(heads, m, rows[m]) for m in rows}
    for strategy in PARTNERS.values():
        memory = strategy.remember(strategy.init(heads, [(A, B), (A, C), (B, C), (C, D)]), heads, seen)
        for modality in (A, C):
            found = projectors_from(*strategy.met(memory, heads, modality), (1e-9, 1e-9), "relative")
            assert_spans(found.inputs, rows[modality])
            assert_spans(found.outputs, np.concatenate([z[other] for other in rows if other != modality]))


def test_what_does_not_depend_on_the_heads_is_remembered_once_for_all_seeds() -> None:
    [(step, features)] = tasks((A, B))
    heads = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), heads_of_one_seed(0), heads_of_one_seed(1))
    keys = jax.random.split(jax.random.key(0))
    after = {}
    for partners in PARTNERS:
        method = dataclasses.replace(DNS, partners=partners)
        memory = init_memory(method, heads, [(A, B)])
        after[partners] = jax.eval_shape(partial(learn, method, step=step), heads, memory, features=features, keys=keys)
        assert jax.tree.map(jnp.shape, memory) == jax.tree.map(jnp.shape, after[partners].memory)
    shapes = {partners: learned.memory for partners, learned in after.items()}
    for once in (shapes["fresh"][f"{A}-{B}"], shapes["pooled"]["features"], shapes["stale"]["inputs"]):
        assert once[A].moment.shape == (WIDTH, WIDTH)
    assert shapes["stale"]["partner_outputs"][A].moment.shape == (2, WIDTH, WIDTH)


@pytest.mark.parametrize("partners", PARTNERS)
def test_a_checkpoint_gives_the_memory_back_bit_by_bit(partners: str, tmp_path: Path) -> None:
    [(step, features)] = tasks((A, B))
    method, heads = dataclasses.replace(DNS, partners=partners), one_seed(heads_of_one_seed())
    empty = method.init(heads, PAIRS)
    memory = method.after_step(empty, heads, step, features)
    with Checkpoints(tmp_path, keep=1, run={}) as checkpoints:
        checkpoints.save(1, {"memory": memory})
        _, restored = checkpoints.restore_latest({"memory": empty})
    assert jax.tree.structure(restored["memory"]) == jax.tree.structure(memory)
    jax.tree.map(np.testing.assert_array_equal, restored["memory"], memory)
    assert any(np.any(old != new) for old, new in zip(*map(jax.tree.leaves, (empty, memory)), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("partners", "class_texts"), [("stale", True)])
def test_a_run_that_dies_goes_on_to_the_same_results(
    partners: str, class_texts: bool, tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config.method, tiny_config.training.epochs = "dns", 1
    tiny_config.dns.partners, tiny_config.dns.class_texts = partners, class_texts
    with jax.enable_x64(False):
        whole = run(tiny_config, tmp_path / "whole")
        assert run_that_dies_once(tiny_config, tmp_path / "broken", monkeypatch) == whole


def test_what_is_remembered_is_chosen_by_the_config() -> None:
    def method_of(*settings: str) -> Method:
        return method_from_config(load_config("configs/pocket.py", ["method=dns", *settings]))

    chosen = method_of("dns.partners=pooled", "dns.class_texts=True", "dns.biases=stacked", "dns.project=updates")
    assert isinstance(chosen, DualNullSpace)
    assert (chosen.partners, chosen.class_texts, chosen.biases) == ("pooled", True, "stacked")
    assert method_of("dns.project=exact").project == "exact"
    assert method_of("dns.mode=released", "dns.project=exact").project == "exact"
    with pytest.raises(UnknownNameError, match=r"value of config.dns.partners 'fesh'; did you mean fresh"):
        method_of("dns.partners=fesh")
    with pytest.raises(UnknownNameError, match=r"value of config.dns.biases 'leafwize'; did you mean leafwise"):
        method_of("dns.biases=leafwize")
    with pytest.raises(UnknownNameError, match=r"value of config.dns.project 'exct'; did you mean exact"):
        method_of("dns.project=exct")
    with pytest.raises(UserError, match=r"project = 'exact' does not go with config.dns.biases = 'stacked'.*leafwise"):
        method_of("dns.project=exact", "dns.biases=stacked")
    for setting in ("partners=fresh", "class_texts=True", "biases=free", "one_sided=True"):
        name = setting.split("=")[0]
        with pytest.raises(UserError, match=f"config.dns.{name} has no meaning with config.dns.mode = 'released'"):
            method_of("dns.mode=released", f"dns.{setting}")
