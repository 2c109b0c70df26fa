"""DNS as the public reference of arXiv 2503.14963 does it, operation by operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cmcl_jax.heads import Heads
from cmcl_jax.methods.base import PyTree
from cmcl_jax.methods.dns import ProjectedVanilla
from cmcl_jax.null_space import HIGHEST, NullSpaceProjector, projector
from cmcl_jax.stream import PairFeatures, Step, Stream


@dataclass(frozen=True)
class ReleasedDualNullSpace(ProjectedVanilla):
    """The published arithmetic, its departures from the theory included.

    * One sample counter for all modalities: `C ← (n̄ C + X^T X) / n̄'` deflates whatever was absent for a while.
    * Partner outputs without bias, with the heads of the step in which they were met: stale once the partner trains on.
    * Biases are free. With the output threshold at 0, `P_out` is the identity in floating point: one-sided.

    The memory is `{"inputs": {modality: (d, d)}, "partner_outputs": {modality: (d_out, d_out)}, "count": ()}`.

    Attributes:
      released_columns: feed the moments from the first two stored modalities of the dataset, whatever the pair, as the
        released code does; wrong in 5 of the paper's 11 steps, so it is off by default.
    """

    released_columns: bool = False
    protect_biases: ClassVar[bool] = False
    memory_per_seed: ClassVar[bool] = True

    def init(self, heads: Heads, stream: Stream) -> PyTree:
        del stream
        zeros = lambda width: jnp.zeros((width, width), next(iter(heads.values()))["bias"].dtype)  # noqa: E731
        return {
            "inputs": {modality: zeros(head["kernel"].shape[0]) for modality, head in heads.items()},
            "partner_outputs": {modality: zeros(head["kernel"].shape[1]) for modality, head in heads.items()},
            "count": jnp.zeros(()),
        }

    def projectors(self, memory: PyTree, heads: Heads, modality: str) -> NullSpaceProjector:
        del heads
        return NullSpaceProjector(
            _projector(memory["inputs"][modality], self.input_threshold, self.rule),
            _projector(memory["partner_outputs"][modality], self.output_threshold, self.rule),
        )

    def after_step(self, memory: PyTree, heads: Heads, step: Step, features: PairFeatures) -> PyTree:
        a, b = step.pair
        outputs_a = jnp.matmul(features.a, heads[a]["kernel"], precision=HIGHEST)
        outputs_b = jnp.matmul(features.b, heads[b]["kernel"], precision=HIGHEST)
        count = memory["count"]
        blend = lambda old, rows: _blend(old, count, rows, features.valid)  # noqa: E731
        inputs, partners = memory["inputs"], memory["partner_outputs"]
        return {
            "inputs": {**inputs, a: blend(inputs[a], features.a), b: blend(inputs[b], features.b)},
            "partner_outputs": {**partners, a: blend(partners[a], outputs_b), b: blend(partners[b], outputs_a)},
            "count": count + features.count,
        }

    def remembered_modalities(self, step: Step, stream: Stream) -> tuple[str, str]:
        if not self.released_columns:
            return step.pair
        first, second, *_ = stream.caches[step.dataset].modalities
        return first, second


_projector = jax.jit(projector, static_argnames="rule")


@jax.jit
def _blend(
    old: Float[Array, "d d"], count: Float[Array, ""], rows: Float[Array, "n d"], valid: Bool[Array, " n"]
) -> Float[Array, "d d"]:
    rows = jnp.where(valid[:, None], rows, 0)
    added = jnp.matmul(rows.T, rows, precision=HIGHEST)
    return (count * old + added) / (count + jnp.sum(valid))
