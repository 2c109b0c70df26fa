"""DNS as the public reference of arXiv 2503.14963 does it, operation by operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from cmcl_jax.heads import Heads
from cmcl_jax.methods.dns import ProjectedVanilla
from cmcl_jax.null_space import HIGHEST, NullSpaceProjector, projector
from cmcl_jax.stream import PairFeatures, Step, Stream
from feature_cache.errors import UserError


@dataclass(frozen=True)
class ReleasedDualNullSpace(ProjectedVanilla):
    """The published arithmetic, its departures from the theory included.

    * One sample counter for all modalities: `C ← (n̄ C + X^T X) / n̄'` deflates whatever was absent for a while.
    * Partner outputs without bias, with the heads of the step in which they were met: stale once the partner trains on.
    * Biases are free. With the output threshold at 0, `P_out` is the identity in floating point: one-sided.

    The memory is `{"inputs": {modality: (d, d)}, "partner_outputs": {modality: (d_out, d_out)}, "count": ()}`.

    Attributes:
        released_columns: feed the moments from the first two stored modalities, whatever the pair, as the
          released code does; wrong in 5 of the paper's 11 steps, so it is off by default.
    """

    released_columns: bool = False
    biases: ClassVar[str] = "free"
    memory_per_seed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule == "noise":
            raise UserError(
                "config.dns.rule = 'noise' needs the rows of each modality, which config.dns.mode = 'released' does "
                "not count apart. Use the mode ours or another rule."
            )

    def init(self, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
        del pairs
        widths = {modality: head["kernel"].shape for modality, head in heads.items()}
        dtype = next(iter(heads.values()))["kernel"].dtype
        return {
            "inputs": {modality: jnp.zeros((d_in, d_in), dtype) for modality, (d_in, _) in widths.items()},
            "partner_outputs": {modality: jnp.zeros((d_out, d_out), dtype) for modality, (_, d_out) in widths.items()},
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
        met = {"inputs": {a: features.a, b: features.b}, "partner_outputs": {a: outputs_b, b: outputs_a}}
        blended = {
            kind: {m: _blend(memory[kind][m], memory["count"], rows, features.valid) for m, rows in of_pair.items()}
            for kind, of_pair in met.items()
        }
        moments = {kind: {**memory[kind], **of_pair} for kind, of_pair in blended.items()}
        return {**moments, "count": memory["count"] + features.rows}

    def remembered_modalities(self, step: Step, stream: Stream) -> tuple[str, str]:
        if not self.released_columns:
            return step.pair
        stored = stream.caches[step.dataset].modalities
        first, second, *_ = stored
        if [stored[first].dim, stored[second].dim] != [stored[modality].dim for modality in step.pair]:
            raise UserError(
                f"config.dns.released_columns = True needs equal widths: step {step.name} would remember {first} and "
                f"{second} in the place of {' and '.join(step.pair)}. Leave it at None."
            )
        return first, second


_projector = jax.jit(projector, static_argnames="rule")


@jax.jit
def _blend(
    old: Float[Array, "d d"], count: Float[Array, ""], rows: Float[Array, "n d"], valid: Bool[Array, " n"]
) -> Float[Array, "d d"]:
    rows = jnp.where(valid[:, None], rows, 0)
    added = jnp.matmul(rows.T, rows, precision=HIGHEST)
    return (count * old + added) / (count + jnp.sum(valid))
