"""What is remembered of captions and their pictures: two second moments of the layer under training, and no caption.

Rows are tokens. An embedding stays if each of its tokens leaves the layer as before; padding is not remembered. Input
side: the tokens' activations. Output side: the directions at the layer's output in which the cosine of a caption and a
picture moves, through layer norm, pooling and normalisation.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from cmcl_jax import NullSpaceProjector
from cmcl_jax.layer_memory import capture_layers, empty_layer_memories, layer_projectors, remember_layers
from examples.minilm.data import Pairs
from examples.minilm.model import Activations, SentenceOutput

BATCH = 64  # captions at once
PARTNERS = 16  # drawn anew for every batch: an unbiased estimate of the moment over all pairs, not exact but cheap


def remember(sentence: PyTree, pairs: Pairs, seed: int) -> PyTree:
    """The memory of the layer `sentence["output"]` once it has learned `pairs`, for `protection`.

    Args:
        sentence: `params["sentence"]` of `MiniLM`.
        pairs: what to remember; each caption is seen once, with `PARTNERS` random partners of the split.
        seed: of the draw of the partners.
    """
    rng = np.random.default_rng(seed)
    n = len(pairs.groups)
    scores = jax.ShapeDtypeStruct((PARTNERS, pairs.partners.shape[1]), pairs.partners.dtype)
    memory = empty_layer_memories(jax.eval_shape(_capture, sentence, pairs.seen, scores))
    for start in range(0, n, BATCH):
        numbers = np.arange(start, start + BATCH)
        seen = jax.tree.map(lambda array: array[np.minimum(numbers, n - 1)], pairs.seen)  # noqa: B023
        drawn = pairs.partners[rng.integers(n, size=PARTNERS)]
        memory = _see(memory, sentence, seen, drawn, seen.mask & (numbers < n)[:, None])
    return memory


def protection(memory: PyTree, kept: float | tuple[float, float], one_sided: bool = False) -> NullSpaceProjector:
    """What the layer must not move: the fewest directions that hold the share `kept` of a remembered moment.

    Args:
        memory: of `remember`.
        kept: of the trace, between 0 and 1, for both sides or for (inputs, outputs).
        one_sided: protect all outputs; `kept` counts for the inputs only.
    """
    inputs, outputs = kept if isinstance(kept, tuple) else (kept, kept)
    projectors = layer_projectors(memory, (1 - inputs, 1 - outputs), "energy", one_sided)
    found: NullSpaceProjector = projectors["output"]
    return found


def ranks(protect: NullSpaceProjector) -> tuple[int, ...]:
    """Number of protected directions of the inputs and of the outputs."""
    return tuple(round(float(jnp.trace(side))) for side in protect if side is not None)


def _capture(sentence: PyTree, seen: Activations, scores: Float[Array, "k width"]) -> PyTree:
    return capture_layers(_module(sentence), {"params": sentence}, seen, scores=scores)


@jax.jit
def _see(
    memory: PyTree, sentence: PyTree, seen: Activations, scores: Float[Array, "k width"], valid: Bool[Array, "n t"]
) -> PyTree:
    return remember_layers(memory, _module(sentence), {"params": sentence}, seen, scores=scores, valid=valid)


def _module(sentence: PyTree) -> SentenceOutput:
    return SentenceOutput(sentence["output"]["bias"].shape[0])
