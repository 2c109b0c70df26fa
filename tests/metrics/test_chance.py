"""Chance levels against enumeration of all rankings and galleries, and against the metrics on random scores."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmcl_jax.metrics.chance import LEVELS, chance_accuracy, chance_levels, chance_recall, summarize_chance
from cmcl_jax.metrics.classification import accuracy
from cmcl_jax.metrics.retrieval import retrieval_metrics

GROUPS = [[0], [0, 1], [0, 0, 0], [0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 2, 2], [3, 1, 3, 1, 1, 0, 7]]


def by_enumeration(groups: list[int], k: int, credit: str, gallery: int) -> float:
    """All galleries that hold the query, and in each all sets that can be its k best: equally likely."""
    n, hits = len(groups), []
    for query in range(n):
        correct = {i for i in range(n) if i == query or (credit == "any" and groups[i] == groups[query])}
        others = [i for i in range(n) if i != query]
        of_galleries = []
        for chosen in combinations(others, min(gallery, n) - 1):
            best = list(combinations((query, *chosen), min(k, len(chosen) + 1)))
            of_galleries.append(np.mean([bool(correct & set(top)) for top in best]))
        hits.append(np.mean(of_galleries))
    return 100 * float(np.mean(hits))


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("credit", ["diagonal", "any"])
@pytest.mark.parametrize("k", [1, 2, 5, 10])
@pytest.mark.parametrize("gallery", [1000, 4])
def test_chance_recall_is_the_mean_over_all_rankings_of_all_galleries(
    groups: list[int], credit: str, k: int, gallery: int
) -> None:
    found = chance_recall(np.array(groups), k, credit, gallery)
    assert found == pytest.approx(by_enumeration(groups, k, credit, gallery))


@pytest.mark.parametrize("credit", ["diagonal", "any"])
@pytest.mark.parametrize("n", [60, 1300])
def test_recall_of_random_scores_is_at_chance(credit: str, n: int) -> None:
    """Below and above the size of a gallery; within four standard errors."""
    rng = np.random.default_rng(0)
    groups = rng.integers(0, n // 4, n)
    measure = jax.jit(lambda scores, key: retrieval_metrics(scores, jnp.asarray(groups), key=key, credit=credit))
    draws = [
        measure(jnp.asarray(rng.normal(size=(n, n)), jnp.float32), jax.random.key(draw)) for draw in range(3000 // n)
    ]
    for k in (1, 5, 10):
        values = np.array([draw[f"r{k}"] for draw in draws])
        expected = chance_recall(groups, k, credit)
        error = np.sqrt(expected * (100 - expected) / (n * len(draws)))
        assert abs(values.mean() - expected) < 4 * error


def test_accuracy_of_collapsed_scores_is_at_chance() -> None:
    labels = jnp.array([0, 3, 4, -1])
    assert float(accuracy(jnp.zeros((4, 5)), labels)) == pytest.approx(chance_accuracy(5))


def test_a_task_has_the_levels_of_its_own_metrics() -> None:
    groups = np.array([0, 0, 1, 2])
    both = chance_levels(("accuracy", "open_accuracy", "recall"), groups, {"accuracy": 8, "open_accuracy": 2}, "any")
    assert both == {"accuracy": 12.5, "open_accuracy": 50.0, "r1": 37.5, "r5": 100.0, "r10": 100.0}
    assert chance_levels(("accuracy",), groups, {"accuracy": 8}, "any") == {"accuracy": 12.5}
    assert chance_levels(("recall",), groups, {}, "diagonal")["r1"] == 25.0


def test_a_summary_averages_over_the_tasks_that_have_the_metric() -> None:
    summary = summarize_chance([{"accuracy": 10.0, "r1": 1.0}, {"r1": 4.0}])
    assert set(summary) == set(LEVELS)
    assert summary["chance_acc"]["mean"] == 10.0 and summary["chance_r1"]["mean"] == 2.5
    assert summary["chance_r10"] == {"mean": None, "std": None, "seeds": []}


@pytest.mark.parametrize(
    ("groups", "credit", "message"), [([], "any", "at least one item"), ([0], "most", "one of diagonal, any")]
)
def test_input_that_makes_no_sense_is_named(groups: list[int], credit: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chance_recall(np.array(groups), 1, credit)
