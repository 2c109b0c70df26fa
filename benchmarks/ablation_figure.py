"""The ablation as a picture: a panel for each stage, a dot and an interval for each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cmcl_jax.report.comparison_figures import ERROR_BAR
from cmcl_jax.report.figures import FAINT, INK, layout, style
from cmcl_jax.report.statistics import interval

BASELINE_STYLES = {"vanilla": (0, (1, 2)), "joint": (0, (4, 3))}


def stages_figure(
    scores: Mapping[str, Float[np.ndarray, " orders"]], stages: Sequence[tuple[str, Sequence[str]]]
) -> Figure:
    """Mean score of every variant with its 95 % interval over the orders; lines mark vanilla and joint.

    Args:
        scores: of each variant, one for each order.
        stages: titles and the variants below them, the best first.
    """
    heights = [len(variants) + 1.5 for _, variants in stages]
    with style():
        figure = Figure(figsize=(8.2, 1.2 + 0.26 * sum(heights)), layout=layout())
        panels = np.ravel(figure.subplots(len(stages), 1, sharex=True, height_ratios=heights))
        for axes, (title, variants) in zip(panels, stages, strict=True):
            axes.set_title(title)
            _draw(axes, scores, [variant for variant in variants if variant not in BASELINE_STYLES])
        panels[-1].set_xlabel("mean of Acc and R@10, % (95 % intervals over orders)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return figure


def _draw(axes: Axes, scores: Mapping[str, Float[np.ndarray, " orders"]], variants: Sequence[str]) -> None:
    for baseline in [name for name in BASELINE_STYLES if name in scores]:
        dashes = BASELINE_STYLES[baseline]
        axes.axvline(float(scores[baseline].mean()), color=FAINT, ls=dashes, lw=1.4, label=baseline)
    found = [interval(scores[variant][:, None]) for variant in variants]
    places = np.arange(len(variants))
    means, halves = ([float(value) for value in values] for values in zip(*found, strict=True))
    axes.errorbar(means, places, xerr=halves, fmt="o", color=INK, **{**ERROR_BAR, "ms": 6})
    axes.set_yticks(places, variants, fontsize=8)
    axes.set_ylim(len(variants) - 0.4, -0.6)
