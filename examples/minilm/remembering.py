"""What is remembered of captions and their pictures: moments of what the layer under training sees and of where it acts.

Rows are tokens: a caption's embedding stays if each of its tokens leaves the layer as before. Padding is not remembered.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmcl_jax import NullSpaceProjector
from cmcl_jax.layer_memory import (
    LayerMemory,
    capture_layers,
    empty_layer_memories,
    layer_projectors,
    update_layer_memories,
)
from examples.minilm.data import Pairs
from examples.minilm.model import SentenceOutput

BATCH = 64  # captions of which the directions are held at once
PARTNERS = 16  # drawn anew for each batch: their mean over all batches is that over all partners, at a 50th of the price


def remember(sentence: PyTree, pairs: Pairs, seed: int) -> LayerMemory:
    """The memory of the layer `sentence["output"]` after seeing each caption once, and `PARTNERS` drawn partners."""
    rng = np.random.default_rng(seed)
    memory = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), _empty_like(sentence, pairs))
    for start in range(0, len(pairs.groups), BATCH):
        rows = np.arange(start, start + BATCH)
        drawn = pairs.partners[rng.integers(len(pairs.partners), size=PARTNERS)]
        memory = _see(memory, sentence, _rows_of(pairs, rows), drawn)
    return memory


def protection(memory: LayerMemory, energy: float, one_sided: bool) -> NullSpaceProjector:
    """Onto the fewest directions of either side that hold the share `energy` of the remembered second moment."""
    found: NullSpaceProjector = layer_projectors(memory, (1 - energy, 1 - energy), "energy", one_sided)
    return found


def free_share(protect: NullSpaceProjector) -> float:
    """Share of the kernel's dimensions that may still move: 1 − rank · rank / (d_in · d_out)."""
    ranks = [float(jnp.trace(side)) / side.shape[0] for side in protect if side is not None]
    return 1 - float(np.prod(ranks))
