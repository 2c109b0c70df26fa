"""Transfer and forgetting against a hand-worked stream and against loops."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cmcl_jax.metrics import transfer

# Three steps; tasks 0 and 1 belong to step 1, task 2 to step 2, task 3 to step 3.
LEARNED_AT = np.array([1, 1, 2, 3])
MATRIX = np.array(
    [
        [10.0, 20.0, 30.0, 40.0],
        [50.0, 60.0, 33.0, 41.0],
        [55.0, 50.0, 70.0, 46.0],
        [45.0, 58.0, 71.0, 80.0],
    ]
)
BY_HAND = {
    "final": (45 + 58 + 71 + 80) / 4,
    "zero_shot": (10 + 20 + 30 + 40) / 4,
    "gain": (35 + 38 + 41 + 40) / 4,
    "just_learned": (50 + 60 + 70 + 80) / 4,
    "backward_transfer": ((45 - 50) + (58 - 60) + (71 - 70)) / 3,
    "forgetting": ((55 - 45) + (60 - 58) + (70 - 71)) / 3,
    "forward_transfer": ((33 - 30) + (46 - 40)) / 2,
}


def loops(matrix: np.ndarray, learned_at: np.ndarray) -> dict[str, float]:
    """Definitions of one seed, read off the papers with plain loops."""
    last, tasks = len(matrix) - 1, range(matrix.shape[1])
    old = [i for i in tasks if learned_at[i] < last]
    later = [i for i in tasks if learned_at[i] > 1]
    mean = lambda values: sum(values) / len(values) if values else float("nan")  # noqa: E731
    return {
        "final": mean([matrix[last, i] for i in tasks]),
        "zero_shot": mean([matrix[0, i] for i in tasks]),
        "gain": mean([matrix[last, i] - matrix[0, i] for i in tasks]),
        "just_learned": mean([matrix[learned_at[i], i] for i in tasks]),
        "backward_transfer": mean([matrix[last, i] - matrix[learned_at[i], i] for i in old]),
        "forgetting": mean([max(matrix[t, i] for t in range(learned_at[i], last)) - matrix[last, i] for i in old]),
        "forward_transfer": mean([matrix[learned_at[i] - 1, i] - matrix[0, i] for i in later]),
    }


@pytest.mark.parametrize("name", BY_HAND)
def test_measures_agree_with_a_hand_worked_stream(name: str) -> None:
    assert getattr(transfer, name)(MATRIX, LEARNED_AT) == pytest.approx(BY_HAND[name])


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 5), st.integers(1, 6))
def test_measures_agree_with_loops_for_every_stream(data: st.DataObject, steps: int, tasks: int) -> None:
    matrix = data.draw(hnp.arrays(float, (steps + 1, tasks), elements=st.integers(0, 100).map(float)))
    learned_at = data.draw(hnp.arrays(int, tasks, elements=st.integers(1, steps)))
    for name, expected in loops(matrix, learned_at).items():
        assert getattr(transfer, name)(matrix, learned_at) == pytest.approx(expected, nan_ok=True)


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(float, (5, 4), elements=st.integers(0, 100).map(float)))
def test_forgetting_is_at_least_the_loss_since_learning(matrix: np.ndarray) -> None:
    learned_at = np.array([1, 2, 3, 4])
    assert transfer.forgetting(matrix, learned_at) >= -transfer.backward_transfer(matrix, learned_at) - 1e-9


@pytest.mark.parametrize("name", BY_HAND)
def test_seeds_are_a_leading_axis(name: str) -> None:
    seeds = np.stack([MATRIX, MATRIX**2, 100 - MATRIX])
    measure = getattr(transfer, name)
    assert measure(seeds, LEARNED_AT) == pytest.approx([measure(matrix, LEARNED_AT) for matrix in seeds])


@pytest.mark.parametrize("name", BY_HAND)
def test_tasks_without_the_metric_are_left_out(name: str) -> None:
    with_gap = np.insert(MATRIX, 1, np.nan, axis=1)
    assert getattr(transfer, name)(with_gap, np.insert(LEARNED_AT, 1, 2)) == pytest.approx(BY_HAND[name])


def test_a_single_failed_measurement_is_not_skipped() -> None:
    seeds = np.stack([MATRIX, MATRIX])
    seeds[1, 3, 0] = np.nan
    assert np.isnan(transfer.final(seeds, LEARNED_AT)).tolist() == [False, True]
    assert np.isnan(transfer.backward_transfer(seeds, LEARNED_AT)).tolist() == [False, True]


def test_one_step_has_neither_backward_nor_forward_transfer() -> None:
    matrix, learned_at = MATRIX[:2], np.ones(4, int)
    for measure in (transfer.backward_transfer, transfer.forgetting, transfer.forward_transfer):
        assert np.isnan(measure(matrix, learned_at))
    assert transfer.gain(matrix, learned_at) == pytest.approx(np.mean([40, 40, 3, 1]))


def test_inputs_are_left_as_they_were() -> None:
    matrix, learned_at = MATRIX.copy(), LEARNED_AT.copy()
    for name in BY_HAND:
        getattr(transfer, name)(matrix, learned_at)
    assert np.array_equal(matrix, MATRIX) and np.array_equal(learned_at, LEARNED_AT)


@pytest.mark.parametrize("learned_at", [[1, 1, 2, 4], [0, 1, 2, 3]])
def test_a_step_outside_the_stream_is_named(learned_at: list[int]) -> None:
    with pytest.raises(ValueError, match=r"from 1 to 3, but is \["):
        transfer.final(MATRIX, np.array(learned_at))


@pytest.mark.parametrize("matrix", [MATRIX[:, :3], MATRIX[:1], MATRIX[0]])
def test_a_matrix_of_another_shape_is_named_with_its_shape(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="shape"):
        transfer.final(matrix, LEARNED_AT)


def summary_matrices(seeds: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seeds)
    return {name: rng.uniform(0, 100, (seeds, 4, 4)) for name in transfer.HEADLINES}


def test_summary_holds_mean_sample_deviation_and_seeds_of_every_quantity() -> None:
    matrices = summary_matrices(3)
    summary = transfer.summarize(matrices, LEARNED_AT)
    expected = {
        "acc": ("accuracy", "final"),
        "bwt_a": ("accuracy", "backward_transfer"),
        "open_acc": ("open_accuracy", "final"),
        "bwt_open": ("open_accuracy", "backward_transfer"),
        "r1": ("r1", "final"),
        "r5": ("r5", "final"),
        "r10": ("r10", "final"),
        "bwt_r10": ("r10", "backward_transfer"),
        "forgetting_a": ("accuracy", "forgetting"),
        "forgetting_r10": ("r10", "forgetting"),
        "forward_a": ("accuracy", "forward_transfer"),
        "forward_r10": ("r10", "forward_transfer"),
        "gain_a": ("accuracy", "gain"),
        "gain_r10": ("r10", "gain"),
        "learned_a": ("accuracy", "just_learned"),
        "learned_r10": ("r10", "just_learned"),
        "zero_shot_acc": ("accuracy", "zero_shot"),
        "zero_shot_open_acc": ("open_accuracy", "zero_shot"),
        "zero_shot_r1": ("r1", "zero_shot"),
        "zero_shot_r5": ("r5", "zero_shot"),
        "zero_shot_r10": ("r10", "zero_shot"),
    }
    assert set(summary) == set(expected)
    for name, (matrix, measure) in expected.items():
        seeds = [loops(m, LEARNED_AT)[measure] for m in matrices[matrix]]
        assert summary[name]["seeds"] == pytest.approx(seeds)
        assert summary[name]["mean"] == pytest.approx(sum(seeds) / 3)
        deviation = (sum((s - sum(seeds) / 3) ** 2 for s in seeds) / 2) ** 0.5
        assert summary[name]["std"] == pytest.approx(deviation)


def test_one_seed_has_no_spread() -> None:
    assert all(entry["std"] == 0 for entry in transfer.summarize(summary_matrices(1), LEARNED_AT).values())


def test_a_stream_without_accuracy_tasks_becomes_null_in_json() -> None:
    matrices = summary_matrices(2) | {"accuracy": np.full((2, 4, 4), np.nan)}
    summary = json.loads(json.dumps(transfer.summarize(matrices, LEARNED_AT), allow_nan=False))
    assert summary["acc"] == {"mean": None, "std": None, "seeds": [None, None]}
    assert summary["r10"]["mean"] is not None


def test_steps_trained_at_once_have_levels_but_no_transfer_between_them() -> None:
    matrices = summary_matrices(2)
    summary, stepwise = (transfer.summarize(matrices, LEARNED_AT, stepwise=flag) for flag in (False, True))
    absent = {name for name, entry in summary.items() if entry == {"mean": None, "std": None, "seeds": [None, None]}}
    kinds = ("bwt", "forgetting", "forward", "learned")
    assert absent == {name for name in transfer.SUMMARY if name.startswith(kinds)}
    assert len(absent) == 8
    assert all(summary[name] == stepwise[name] for name in set(summary) - absent)


def test_a_failed_seed_shows_in_the_mean_and_stays_visible() -> None:
    matrices = summary_matrices(2)
    matrices["r10"][1, 3, 0] = np.nan
    entry = transfer.summarize(matrices, LEARNED_AT)["r10"]
    assert entry["mean"] is None and entry["seeds"][1] is None and entry["seeds"][0] is not None


def test_a_missing_matrix_is_named() -> None:
    matrices = summary_matrices(2)
    del matrices["r5"]
    with pytest.raises(ValueError, match="r5 is missing"):
        transfer.summarize(matrices, LEARNED_AT)
