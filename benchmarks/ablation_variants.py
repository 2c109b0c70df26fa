"""The variants of `dns` that `benchmarks.ablation` compares: settings of `config.dns`, stage by stage.

Each stage starts from what the stage before it found best, so that their number stays a sum and not a product.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

Settings = Mapping[str, Any]
Variants = dict[str, Settings]

THRESHOLDS: Mapping[str, tuple[float, ...]] = {
    "absolute": (1e-4, 1e-3, 1e-2, 3e-2, 1e-1),
    "relative": (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "energy": (1e-4, 1e-3, 1e-2, 2e-2, 5e-2, 2e-1),
    "gap": (1e-4, 1e-2),
    "noise": (1.1, 2.0),
}
PUBLISHED = {"mode": "released", "project": "gradients", "rule": "absolute", "output_threshold": 0.0}


def released(best: Settings) -> Variants:
    """The public reference's arithmetic with several λ_min; 0.01 is the paper's, 0.1 the code's."""
    del best
    return {
        f"released, absolute {threshold:g}": {**PUBLISHED, "input_threshold": threshold}
        for threshold in (1e-3, 1e-2, 1e-1)
    }


def ranks(best: Settings) -> Variants:
    """Threshold rules, each with several thresholds, the same on both sides."""
    return {
        f"{rule} {threshold:g}": {**best, "rule": rule, "input_threshold": threshold, "output_threshold": threshold}
        for rule, thresholds in THRESHOLDS.items()
        for threshold in thresholds
    }


def promises(best: Settings) -> Variants:
    """What is projected × how biases are protected × one or two sides. Exact with stacked biases does not exist."""
    return {
        f"{project}, biases {biases}, {'one' if one_sided else 'two'}-sided": {
            **best,
            "project": project,
            "biases": biases,
            "one_sided": one_sided,
        }
        for project, biases, one_sided in itertools.product(
            ("gradients", "updates", "exact"), ("leafwise", "stacked", "free"), (False, True)
        )
        if (project, biases) != ("exact", "stacked")
    }


def memories(best: Settings) -> Variants:
    """Where the partner's outputs come from × whether class texts enter the memory."""
    return {
        f"{partners} partners{', class texts' * class_texts}": {
            **best,
            "partners": partners,
            "class_texts": class_texts,
        }
        for partners, class_texts in itertools.product(("fresh", "pooled", "stale"), (False, True))
    }


STAGES: Mapping[str, Callable[[Settings], Variants]] = {
    "released": released,
    "ranks": ranks,
    "promises": promises,
    "memories": memories,
}
BASELINES: Variants = {"vanilla": {"method": "vanilla"}, "joint": {"method": "joint"}}
START: Settings = {
    "mode": "ours",
    "project": "updates",
    "biases": "leafwise",
    "partners": "fresh",
    "one_sided": False,
    "class_texts": False,
}
