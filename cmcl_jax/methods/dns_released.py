"""DNS as the public reference of arXiv 2503.14963 does it, operation by operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from cmcl_jax.heads import Heads
from cmcl_jax.methods.base import STATIC, pytree_dataclass
from cmcl_jax.methods.dns import ProjectedVanilla
from cmcl_jax.null_space import HIGHEST, Subspaces, subspace
from cmcl_jax.stream import Step, StepFeatures, Stream
from feature_cache.errors import UserError


@pytree_dataclass
class ReleasedDualNullSpace(ProjectedVanilla):
    """The published arithmetic, its departures from the theory included.

    * One sample counter for all modalities: `C ← (n̄ C + X^T X) / n̄'` deflates whatever was absent for a while.
    * Partner outputs without bias, with the heads of the step in which they were met: stale once the partner trains on.
    * In steps of more than two modalities, which the reference does not have, the mean over the partners' moments.
    * Biases are free. With the output threshold at 0, `P_out` is the identity in floating point: one-sided.

    The memory is `{"inputs": {modality: (d, d)}, "partner_outputs": {modality: (d_out, d_out)}, "count": ()}`.

    Attributes:
        released_columns: feed the moments from the stored modalities that come first, two for a pair, as the released
          code does; wrong in 5 of the paper's 11 steps, so it is off by default.
    """

    released_columns: bool = field(default=False, metadata=STATIC)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule == "noise":
            raise UserError(
                "config.dns.rule = 'noise' needs the rows of each modality, which config.dns.mode = 'released' does "
                "not count apart. Use the mode ours or another rule."
            )

    @property
    def memory_per_run(self) -> Any:
        return {"inputs": False, "partner_outputs": True, "count": False}

    @property
    def protects_biases(self) -> bool:
        return False

    def optimizer(self) -> optax.GradientTransformation:
        return self._adamw_with_decay(self.project, biases="free")

    def init(self, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
        del pairs
        widths = {modality: head["kernel"].shape for modality, head in heads.items()}
        dtype = next(iter(heads.values()))["kernel"].dtype
        return {
            "inputs": {modality: jnp.zeros((d_in, d_in), dtype) for modality, (d_in, _) in widths.items()},
            "partner_outputs": {modality: jnp.zeros((d_out, d_out), dtype) for modality, (_, d_out) in widths.items()},
            "count": jnp.zeros(()),
        }

    def projectors(self, memory: PyTree, heads: Heads, modality: str) -> Subspaces:
        del heads
        return Subspaces(
            _subspace(memory["inputs"][modality], self.input_threshold, self.rule),
            _subspace(memory["partner_outputs"][modality], self.output_threshold, self.rule),
        )

    def after_step(self, memory: PyTree, heads: Heads, step: Step, features: StepFeatures) -> PyTree:
        inputs = {modality: features.by_role[role] for role, modality in step.roles.items()}
        outputs = {m: jnp.matmul(rows, heads[m]["kernel"], precision=HIGHEST) for m, rows in inputs.items()}
        partners = {m: [rows for other, rows in outputs.items() if other != m] for m in inputs}
        met = {"inputs": {m: [rows] for m, rows in inputs.items()}, "partner_outputs": partners}
        blended = {
            kind: {m: _blend(memory[kind][m], memory["count"], sets, features.valid) for m, sets in of_step.items()}
            for kind, of_step in met.items()
        }
        moments = {kind: {**memory[kind], **of_step} for kind, of_step in blended.items()}
        return {**moments, "count": memory["count"] + features.rows}

    def remembered_modalities(self, step: Step, stream: Stream) -> tuple[str, ...]:
        if not self.released_columns:
            return step.modalities
        stored = stream.caches[step.dataset].modalities
        first = tuple(stored)[: len(step.modalities)]
        if [stored[modality].dim for modality in first] != [stored[modality].dim for modality in step.modalities]:
            raise UserError(
                f"config.dns.released_columns = True needs equal widths: step {step.name} would remember "
                f"{' and '.join(first)} in the place of {' and '.join(step.modalities)}. Leave it at None."
            )
        return first


_subspace = jax.jit(subspace, static_argnames="rule")


@jax.jit
def _blend(
    old: Float[Array, "d d"], count: Float[Array, ""], sets: Sequence[Float[Array, "n d"]], valid: Bool[Array, " n"]
) -> Float[Array, "d d"]:
    """The running moment after the valid rows; of several sets of them, their mean, for the counter counts rows."""
    kept = [jnp.where(valid[:, None], rows, 0) for rows in sets]
    added = [jnp.matmul(rows.T, rows, precision=HIGHEST) for rows in kept]
    return (count * old + sum(added[1:], added[0]) / len(added)) / (count + jnp.sum(valid))
