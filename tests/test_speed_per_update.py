"""The benchmark of one update measures what it says."""

import numpy as np

from benchmarks.speed import per_update
from benchmarks.speed.peaks import bytes_moved, floor_seconds, measure_peaks, operations


def test_a_point_protects_as_many_dimensions_as_it_says() -> None:
    point = per_update.Point(width=16, batch=1, rank=5)
    assert {np.linalg.matrix_rank(np.asarray(rows)) for rows in per_update.rows_of_rank(point, 0).by_role.values()} == {
        5
    }
    state = per_update.training_of("exact", point).start.state
    protected = [int(np.sum(side.protected)) for axes in state.axes.values() for side in axes]
    assert protected == [5] * 4


def test_a_call_trains_for_as_many_epochs_as_it_is_told() -> None:
    training = per_update.training_of("vanilla", per_update.Point(width=8, batch=2, rank=4))
    assert training.seconds(2) > 0
    losses = np.asarray(training.run(training.start, 2).losses)[0]
    assert np.all(losses[:2] > 0) and np.all(losses[2:] == 0)


def test_the_floor_counts_what_an_update_must_do() -> None:
    assert operations(width=10, batch=3) == 2 * (2 * 3 * 100 + 2 * 3 * 100) + 3 * 2 * 9 * 10
    assert bytes_moved(width=10, batch=3) == 2 * (110 * 36 + 4 * 30)
    peaks = measure_peaks(16, gemm_size=32, repeats=1)
    assert min(peaks) > 0 and floor_seconds(peaks, 10, 3) > operations(10, 3) / peaks.flops
