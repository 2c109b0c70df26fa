"""Scores in blocks: the numbers of the whole matrix to the bit, in memory that does not grow with the square of n."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmcl_jax.metrics import scores as scores_module
from cmcl_jax.metrics.classification import accuracy
from cmcl_jax.metrics.ranking import count
from cmcl_jax.metrics.retrieval import mean_average_precision, retrieval_metrics
from cmcl_jax.metrics.scores import Outputs, map_rows, matrix_if_small, transposed

KEY = jax.random.key(0)
MIB = 2**20
Measure = Callable[..., dict[str, jax.Array]]


def problem(n: int, kind: str) -> tuple[Outputs, np.ndarray]:
    """Outputs of whole numbers, whose products are exact in every order of summation, and group ids."""
    rng = np.random.default_rng(n)
    levels = 2 if kind == "ties" else 1000
    a, b = rng.integers(-levels, levels + 1, (2, n, 3)).astype(np.float32)
    if kind == "nan":
        a[::7], b[3::5], b[1] = np.nan, np.nan, np.inf  # ∞ · 0 is a NaN of one score
    groups = {"alone": np.arange(n), "one group": np.zeros(n, int)}.get(kind, rng.integers(0, n // 4, n))
    return Outputs(jnp.asarray(a), jnp.asarray(b)), groups


@functools.cache
def evaluator(rows: int | None = None) -> Measure:
    """The evaluator with blocks of at most so many rows; a program of its own, for the size is a constant in it."""

    def measure(scores: scores_module.Scores, groups: jax.Array) -> dict[str, jax.Array]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(scores_module, "BLOCK_ROWS", rows or scores_module.BLOCK_ROWS)
            return retrieval_metrics(scores, groups, key=KEY, credit="any")

    return jax.jit(measure)


def floats(metrics: dict[str, jax.Array]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize("kind", ["alone", "groups", "one group", "ties", "nan"])
@pytest.mark.parametrize("rows", [1, 7, 16])
def test_no_number_of_a_search_depends_on_the_size_of_the_blocks(kind: str, rows: int) -> None:
    outputs, groups = problem(23, kind)  # no multiple of any size
    assert floats(evaluator(rows)(outputs, groups)) == floats(evaluator()(outputs.a @ outputs.b.T, groups))


def test_the_galleries_of_outputs_are_those_of_the_matrix() -> None:
    outputs, groups = problem(1030, "ties")
    assert matrix_if_small(outputs) is outputs  # so that the blocks are those of a run
    whole, in_blocks = (floats(evaluator()(scores, groups)) for scores in (outputs.a @ outputs.b.T, outputs))
    assert in_blocks == whole
    assert whole["r10_a2b_any_galleries"] != whole["r10_a2b_any_full"]


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_hand_worked_search(rows: int) -> None:
    """Scores [[2, 1, 3], [4, 2, 6], [2, 1, 3]], groups {0, 1} and {2}: the best column is 2, then 0, then 1."""
    outputs = Outputs(jnp.array([[1.0], [2.0], [1.0]]), jnp.array([[2.0], [1.0], [3.0]]))
    found = evaluator(rows)(outputs, np.array([0, 0, 1]))
    assert float(found["r1_a2b_diagonal_full"]) == pytest.approx(100 / 3)
    assert float(found["map_a2b"]) == pytest.approx(100 * ((1 / 2 + 2 / 3) / 2 * 2 + 1) / 3)
    # Columns are 2:4:2, 1:2:1 and 3:6:3: row 1 wins, rows 0 and 2 share the second place.
    assert float(found["r1_b2a_diagonal_full"]) == pytest.approx(100 / 3)
    assert float(found["r1_b2a_any_full"]) == pytest.approx(200 / 3)
    assert float(found["map_b2a"]) == pytest.approx(100 * ((1 + 2 / 3) / 2 * 2 + 1 / 3) / 3)


@pytest.mark.parametrize("rows", [1, 6, 64])
def test_no_accuracy_depends_on_the_size_of_the_blocks(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, _ = problem(40, "ties")
    classes = outputs._replace(b=outputs.b[:9])
    labels = jnp.arange(40) % 10 - 1
    whole = float(accuracy(classes.a @ classes.b.T, labels))
    monkeypatch.setattr(scores_module, "BLOCK_ROWS", rows)
    assert float(accuracy(classes, labels)) == whole > 0


def test_rows_come_back_in_their_order_whatever_the_order_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores_module, "BLOCK_ROWS", 4)
    outputs, _ = problem(11, "alone")
    order = jnp.asarray(np.random.default_rng(0).permutation(11))
    found = map_rows(lambda block, row: {"max": block.max(axis=1), "row": row}, outputs, jnp.arange(11), order)
    np.testing.assert_array_equal(found["row"], np.arange(11))
    np.testing.assert_array_equal(found["max"], np.max(np.asarray(outputs.a) @ np.asarray(outputs.b).T, axis=1))


def test_blocks_are_cut_by_bytes_where_rows_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores_module, "BLOCK_BYTES", 4 * 20 * 3)
    seen = []
    outputs = Outputs(jnp.ones((10, 2)), jnp.ones((20, 2)))
    for scores in (outputs, transposed(outputs)):
        map_rows(lambda block, _: seen.append(block.shape) or block[:, 0], scores, jnp.zeros(len(scores.a)))
    assert seen == [(3, 20), (5, 10)]  # at most 3 rows of 20 or 6 of 10, blocks of nearly equal size


@pytest.mark.parametrize("in_float64", [False, True])
def test_a_gallery_of_100_000_items_needs_a_few_blocks_of_memory(in_float64: bool) -> None:
    """Compiled, not run. A matrix of its scores would have 40 GB, in float64 80 GB."""
    with jax.enable_x64(in_float64):
        z = jax.ShapeDtypeStruct((100_000, 64), float)
        groups = jax.ShapeDtypeStruct((100_000,), jnp.int32)
        search = jax.jit(lambda a, b, g: retrieval_metrics(Outputs(a, b), g, key=KEY)).lower(z, z, groups).compile()
        needed = search.memory_analysis().temp_size_in_bytes
    assert scores_module.BLOCK_BYTES / 2 < needed < 2 * scores_module.BLOCK_BYTES + 32 * MIB


def test_counts_of_several_conditions_are_their_sums() -> None:
    scores = np.random.default_rng(0).integers(0, 4, (5, 9))
    for found, condition in zip(count(*(jnp.asarray(scores == i) for i in range(3))), range(3), strict=True):
        np.testing.assert_array_equal(found, (scores == condition).sum(axis=1))


def test_average_precision_costs_each_row_its_own_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are put into blocks by the size of their groups; one large group then costs its own blocks only."""
    rounds = []

    def counting(start: int, end: jax.Array, body: object, init: jax.Array) -> jax.Array:
        rounds.append(int(end))
        return init

    monkeypatch.setattr(scores_module, "BLOCK_ROWS", 4)
    monkeypatch.setattr(jax.lax, "fori_loop", counting)
    monkeypatch.setattr(jax.lax, "map", lambda f, xs: jnp.stack([f(x) for x in xs]))
    outputs, _ = problem(12, "alone")
    mean_average_precision(outputs, jnp.array([0, 1, 9, 2, 9, 3, 4, 9, 9, 5, 6, 7]))
    assert rounds == [1, 1, 4]
