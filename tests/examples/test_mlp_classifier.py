"""The example of a plain continual classifier, in a quick form."""

import numpy as np
import pytest

from benchmarks import nonlinear
from cmcl_jax.metrics.transfer import backward_transfer
from examples import mlp_classifier


def test_protected_layer_by_layer_the_classifier_forgets_less(capsys: pytest.CaptureFixture[str]) -> None:
    mlp_classifier.main(["--scenario=domain", "--seeds=1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("domain-incremental")
    rows = {cells[1].strip(): cells for cells in (line.split("|") for line in lines if line.startswith("|"))}
    assert set(rows) == {"method", "---", *mlp_classifier.METHODS}
    bwt = {name: float(rows[name][-2].split("±")[0]) for name in mlp_classifier.METHODS}
    assert bwt["vanilla"] < -5
    for method in ("dns, gradients", "dns, updates", "dns, one-sided"):
        assert bwt[method] > bwt["vanilla"] + 4


def test_tasks_are_two_digits_each_and_their_pictures_are_not_shared() -> None:
    for scenario, width, k in (("task", 10, 2), ("domain", 2, 2), ("class", 10, 10)):
        stream = mlp_classifier.tasks(scenario)
        assert {(task.train[0].shape, task.test[0].shape) for task in stream} == {((280, 64), (70, 64))}
        assert {(task.logits.shape, task.scores.shape) for task in stream} == {((width,), (k, width))}
        for task in stream:
            assert len(np.unique(np.concatenate([task.train[1], task.test[1]]))) == 2
            assert np.all(task.logits[np.asarray(task.train[1])])
    pictures = np.concatenate([np.asarray(part[0]) for task in stream for part in (task.train, task.test)])
    assert len(np.unique(pictures, axis=0)) == len(pictures)


def test_the_table_has_means_over_seeds_and_the_backward_transfer() -> None:
    matrix = np.zeros((2, 6, 5))
    matrix[:, 1:, 0] = 90
    matrix[0, -1, 0], matrix[1, -1, 0] = 50, 70
    bwt = backward_transfer(matrix, np.arange(1, 6))
    np.testing.assert_allclose(bwt, [-10, -5])
    assert "| x | 60.0 | 0.0 | 0.0 | 0.0 | 0.0 | 12.0 ± 2.8 | -7.5 ± 3.5 |" in mlp_classifier.table({"x": matrix})


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_nonlinear_heads_on_real_features_keep_their_scores_one_sided() -> None:
    found = nonlinear.measure(rows=40, rates=(1e-4, 1e-3))
    for rate in (0, 1):
        vanilla, two_sided, one_sided = (found[name][1][rate] for name in ("vanilla", "two-sided, 1e-2", "one-sided"))
        assert one_sided.drift < 1e-10 < two_sided.drift < vanilla.drift / 5
        assert one_sided.loss < vanilla.loss + 0.3
