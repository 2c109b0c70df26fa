"""The picture of a sweep: a panel for each swept field, a score against its values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmcl_jax.report.figures import COLOURS, MARKERS, layout, legend, style
from cmcl_jax.sweeps.report import Setting


def against_fields(settings: Sequence[Setting], metric: str, best: bool) -> Figure:
    """Dots are settings; with `best`, a line joins the best setting of each value.

    Args:
        settings: of the sweep.
        metric: which score.
        best: whether the best may be chosen.
    """
    fields = list(dict.fromkeys(field for setting in settings for field in setting.values)) or ["method"]
    methods = list(dict.fromkeys(setting.method for setting in settings))
    with style():
        figure = Figure(figsize=(1.2 + 4.2 * len(fields), 4.6), layout=layout())
        for axes, field in zip(np.ravel(figure.subplots(1, len(fields), sharey=True)), fields, strict=True):
            _draw(axes, field, settings, methods, metric, best)
            axes.set_title(field)
        figure.axes[0].set_ylabel(f"{metric}, %")
        legend(figure, figure.axes[0])
    return figure


def _draw(axes: Axes, field: str, settings: Sequence[Setting], methods: Sequence[str], metric: str, best: bool) -> None:
    value_of = lambda setting: setting.method if field == "method" else setting.values.get(field)  # noqa: E731
    values = _sorted({value for setting in settings if (value := value_of(setting)) is not None})
    looks = dict(zip(methods, zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))
    for method, (colour, marker) in looks.items():
        points = [
            (values.index(value_of(setting)), setting.scores(metric).mean())
            for setting in settings
            if setting.method == method and value_of(setting) is not None
        ]
        points = [point for point in points if np.isfinite(point[1])]
        axes.plot(*np.reshape(points, (-1, 2)).T, marker, color=colour, alpha=0.55, ls="", label=method)
        if best and points:
            tops = {x: max(y for at, y in points if at == x) for x, _ in sorted(points)}
            axes.plot(list(tops), list(tops.values()), color=colour)
    axes.set_xticks(range(len(values)), [f"{value}" for value in values])
    axes.margins(x=0.1)


def _sorted(values: set[Any]) -> list[Any]:
    numbers = all(isinstance(value, int | float) for value in values)
    return sorted(values) if numbers else sorted(values, key=str)
