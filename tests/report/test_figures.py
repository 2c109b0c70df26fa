"""The figures draw the numbers of the matrices; whether they are beautiful is for eyes."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import imread

from cmcl_jax.report import Run, load_run
from cmcl_jax.report.figures import COLOURS, MARKERS, accuracy_and_recall, png, tasks

MakeRun = Callable[..., Path]


@pytest.fixture
def runs(make_run: MakeRun) -> dict[str, Run]:
    return {name: load_run(make_run(name, forgets)) for name, forgets in (("vanilla", 3.0), ("dns", 0.5))}


def curve(axes: Axes, label: str) -> np.ndarray:
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(line.get_xydata())


def bands(axes: Axes) -> list[PolyCollection]:
    return [collection for collection in axes.collections if isinstance(collection, PolyCollection)]


def test_two_panels_show_the_mean_over_tasks_from_zero_shot_to_the_last_step(runs: dict[str, Run]) -> None:
    panels = accuracy_and_recall(runs).axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "Accuracy, mean over 4 test tasks",
        "R@10, mean over 5 test tasks",
    ]
    for axes, matrix in zip(panels, ("accuracy", "r10"), strict=True):
        ticks = [tick.get_text() for tick in axes.get_xticklabels()]
        assert ticks == ["zero-shot", *runs["dns"].steps]
        for label, run in runs.items():
            expected = np.nanmean(run.matrices[matrix], axis=(0, 2))
            np.testing.assert_allclose(curve(axes, label), np.column_stack([np.arange(6), expected]))


def test_the_band_is_one_standard_deviation_over_seeds(runs: dict[str, Run]) -> None:
    axes = accuracy_and_recall(runs).axes[1]
    over_tasks = runs["vanilla"].matrices["r10"].mean(axis=2)
    mean, std = over_tasks.mean(axis=0), over_tasks.std(axis=0, ddof=1)
    outline = np.asarray(bands(axes)[0].get_paths()[0].vertices)
    for step in range(6):
        heights = outline[outline[:, 0] == step, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [mean[step] - std[step], mean[step] + std[step]])


def test_one_seed_has_no_band(make_run: MakeRun) -> None:
    run = load_run(make_run(seeds=1))
    assert not any(bands(axes) for axes in accuracy_and_recall({"vanilla": run}).axes)


def test_every_task_and_metric_has_a_panel_with_a_line_where_it_is_trained(runs: dict[str, Run]) -> None:
    panels = [axes for axes in tasks(runs).axes if axes.axison]
    wanted = [
        (i, task, m) for m in ("accuracy", "recall") for i, task in enumerate(runs["dns"].tasks) if m in task.metrics
    ]
    assert len(panels) == len(wanted) == 9
    for axes, (index, task, metric) in zip(panels, wanted, strict=True):
        assert axes.get_title(loc="left") == task.name
        assert set(curve(axes, "trained here")[:, 0]) == {task.step}
        for label, run in runs.items():
            values = run.matrices["accuracy" if metric == "accuracy" else "r10"][:, :, index].mean(axis=0)
            np.testing.assert_allclose(curve(axes, label)[:, 1], values)


def test_a_stream_without_accuracy_has_no_empty_panel(runs: dict[str, Run]) -> None:
    run = runs["dns"]
    recall_only = replace(
        run,
        tasks=tuple(replace(task, metrics=("recall",)) for task in run.tasks),
        matrices={**run.matrices, "accuracy": np.full_like(run.matrices["accuracy"], np.nan)},
    )
    assert len(accuracy_and_recall({"dns": recall_only}).axes) == 1
    assert len([axes for axes in tasks({"dns": recall_only}).axes if axes.axison]) == 5


def test_many_methods_stay_distinguishable(runs: dict[str, Run]) -> None:
    many = {f"method {i}": runs["dns"] for i in range(12)}
    lines = accuracy_and_recall(many).axes[0].lines
    looks = {
        (line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines if line.get_marker() in MARKERS
    }
    assert len(looks) == 12 > len(COLOURS)


def test_noise_is_not_blown_up_to_the_height_of_the_panel(make_run: MakeRun) -> None:
    run = load_run(make_run())
    flat = replace(run, matrices={**run.matrices, "r10": 50 + run.matrices["r10"] * 1e-4})
    low, high = accuracy_and_recall({"vanilla": flat}).axes[1].get_ylim()
    assert high - low >= 5


@pytest.mark.parametrize("draw", [accuracy_and_recall, tasks])
def test_a_figure_of_synthetic_data_says_so(make_run: MakeRun, draw: Callable[..., Figure]) -> None:
    real, made_up = load_run(make_run()), load_run(make_run("dns", synthetic=True))
    for runs, title in (({"vanilla": real, "dns": made_up}, "Synthetic data"), ({"vanilla": real}, "")):
        (legend,) = draw(runs).legends
        assert legend.get_title().get_text() == title


@pytest.mark.parametrize("draw", [accuracy_and_recall, tasks])
def test_png_has_150_dots_per_inch(runs: dict[str, Run], draw: Callable[..., object]) -> None:
    figure = draw(runs)
    picture = imread(io.BytesIO(png(figure)), format="png")
    width, height = figure.get_size_inches()
    assert picture.shape[:2] == pytest.approx((height * 150, width * 150), abs=1)
    assert picture[..., :3].std() > 0.05
