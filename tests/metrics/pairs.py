"""Random old pairs for the tests of stability: rows, heads, and a change of both. In numpy: nothing to compile."""

from typing import NamedTuple

import jax
import numpy as np

from cmcl_jax.memory import FeatureMemory
from cmcl_jax.null_space import NullSpaceProjector

OTHER = {"a": "b", "b": "a"}
Pair = dict[str, dict[str, np.ndarray]]


class OldPair(NamedTuple):
    """Rows of both modalities, what is remembered of them, the heads, and a change of both."""

    features: dict[str, np.ndarray]
    memories: dict[str, FeatureMemory]
    before: Pair
    change: Pair


def old_pair(
    seed: int, *, widths: tuple[int, int, int] = (6, 6, 6), n: int = 18, rank: int | None = None, scale: float = 1.0
) -> OldPair:
    """Gaussian rows of a rank, Gaussian heads and a Gaussian change of both; `widths` are d_a, d_b and d_out."""
    rng = np.random.default_rng(seed)
    d_in, d_out = dict(zip("ab", widths, strict=False)), widths[2]

    def rows(width: int) -> np.ndarray:
        kept = min(rank or width, width)
        return scale * rng.normal(size=(n, kept)) @ rng.normal(size=(kept, width)) / kept**0.5

    def heads() -> Pair:
        return {
            side: {"kernel": rng.normal(size=(width, d_out)) / width**0.5, "bias": rng.normal(size=d_out)}
            for side, width in d_in.items()
        }

    features = {side: rows(width) for side, width in d_in.items()}
    memories = {side: FeatureMemory(x.T @ x / n, x.mean(0), np.asarray(float(n))) for side, x in features.items()}
    return OldPair(features, memories, heads(), heads())


def onto(rows: np.ndarray, threshold: float) -> np.ndarray:
    """Projector onto the right singular vectors with `s² > threshold · s[0]²`."""
    s, v = np.linalg.svd(rows)[1:]
    kept = v[: np.sum(s**2 > threshold * s[0] ** 2)]
    return kept.T @ kept


def outputs(old: OldPair, side: str) -> np.ndarray:
    """`Z` of one side before the change."""
    return old.features[side] @ old.before[side]["kernel"] + old.before[side]["bias"]


def projectors_of(
    old: OldPair, threshold: float, one_sided: bool = False, stacked: bool = False
) -> dict[str, NullSpaceProjector]:
    """Projectors of both heads, from the rows and with the partners' heads before the change."""
    ones = np.ones((len(old.features["a"]), 1))
    return {
        side: NullSpaceProjector(
            onto(np.hstack([old.features[side], ones]) if stacked else old.features[side], threshold),
            np.eye(len(old.before[other]["bias"])) if one_sided else onto(outputs(old, other), threshold),
        )
        for side, other in OTHER.items()
    }


def projected(change: Pair, projectors: dict[str, NullSpaceProjector], stacked: bool = False) -> Pair:
    """What of a change may pass: kernel and bias each for itself, or as one matrix."""
    through = {}
    for side, head in change.items():
        p, kernel, bias = projectors[side], head["kernel"], head["bias"]
        if stacked:
            matrix = np.vstack([kernel, bias])
            matrix = matrix - p.inputs @ matrix @ p.outputs
            through[side] = {"kernel": matrix[:-1], "bias": matrix[-1]}
        else:
            through[side] = {"kernel": kernel - p.inputs @ kernel @ p.outputs, "bias": bias - bias @ p.outputs}
    return through


def moved(before: Pair, change: Pair, rate: float, sides: str = "ab") -> Pair:
    """The heads after `rate` times the change of some of them."""
    return {
        side: jax.tree.map(lambda w, dw: w + rate * dw, head, change[side]) if side in sides else head
        for side, head in before.items()
    }


def scores(features: dict[str, np.ndarray], pair: Pair) -> np.ndarray:
    """`Z_a Z_b^T`."""
    a, b = (features[side] @ np.asarray(pair[side]["kernel"]) + np.asarray(pair[side]["bias"]) for side in "ab")
    return a @ b.T


def rms(matrix: np.ndarray) -> float:
    """Root mean square of all entries."""
    return float(np.sqrt(np.mean(matrix**2)))
