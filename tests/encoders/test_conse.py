import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.encoders.pocket.conse import conse, top_classes

seeds = st.integers(0, 2**32 - 1)


def random_case(seed: int, n: int = 3, classes: int = 30, dim: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((n, classes)), rng.normal(size=(classes, dim))


@given(seeds)
@settings(deadline=None)
def test_the_result_is_the_weighted_mean_over_the_best_classes(seed: int) -> None:
    probabilities, embeddings = random_case(seed)
    for row, actual in zip(probabilities, conse(probabilities, embeddings, 10), strict=True):
        best = sorted(range(30), key=lambda index: -row[index])[:10]
        mean = sum(row[index] * embeddings[index] for index in best) / sum(row[index] for index in best)
        np.testing.assert_allclose(actual, mean / np.linalg.norm(mean), atol=1e-12)


@given(seeds, st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_the_result_does_not_depend_on_what_the_scores_sum_to(seed: int, factor: float) -> None:
    probabilities, embeddings = random_case(seed)
    np.testing.assert_allclose(conse(probabilities * factor, embeddings), conse(probabilities, embeddings), atol=1e-9)


def test_a_certain_class_gives_its_own_embedding() -> None:
    _, embeddings = random_case(0)
    actual = conse(np.eye(30)[[4]], embeddings)
    np.testing.assert_allclose(actual[0], embeddings[4] / np.linalg.norm(embeddings[4]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_go_to_the_class_that_is_listed_first(dtype: type) -> None:
    assert top_classes(np.zeros((1, 600), dtype), 4).tolist() == [[0, 1, 2, 3]]
