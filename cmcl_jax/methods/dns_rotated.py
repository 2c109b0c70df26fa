"""The strength "exact" for linear heads: a step trains in coordinates in which the projection is a mask.

In the eigenbases `U` of what is protected, a head's kernel is `C = U_in^T K U_out` and its bias `c = b U_out`. Rows are
rotated once a step, `X U_in`, and all outputs are expressed in the output coordinates of the step's first head, by
`M = U_out^T U_out(first)`: scores are the same in any common coordinates. So an update has no product of two `d × d`
matrices, and for each head but the first two thin ones more than vanilla: `z = (x U_in C + c) M`, and its gradient.

To rounding it is the optax chain around `in_rotated_coordinates`: AdamW works elementwise, so that what is protected
may be set to zero after it alone.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from cmcl_jax.heads import Head, Heads
from cmcl_jax.methods.base import Batch, RowsByRole, pytree_dataclass
from cmcl_jax.methods.dns import DualNullSpace, ProjectedVanilla
from cmcl_jax.methods.dns_released import ReleasedDualNullSpace
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.null_space import Subspace
from cmcl_jax.precision import matmul
from cmcl_jax.stream import Step


class Axes(NamedTuple):
    """The coordinates of a head, and which of them are protected: `Subspaces` of which no side is open."""

    inputs: Subspace
    outputs: Subspace


class InCoordinates(NamedTuple):
    """What the loop carries.

    Attributes:
        axes: by role.
        to_first: by role but the first, `(d_out, d_out)`: from its output coordinates to those of the first head.
        optimizer: vanilla's, of kernels and biases in these coordinates.
    """

    axes: dict[str, Axes]
    to_first: dict[str, Float[Array, "d_out d_out"]]
    optimizer: PyTree


class RotatedTraining(ProjectedVanilla):
    """A method whose linear heads train in the coordinates of their projectors."""

    def optimizer(self) -> optax.GradientTransformation:
        return self._adamw_with_decay(project=None)

    def before_step(self, memory: PyTree, heads: Heads, step: Step, rows: Int[Array, ""]) -> InCoordinates:
        axes = {role: Axes(*sides) for role, sides in self.all_projectors(memory, heads, step).items()}
        first = axes["a"].outputs.vectors
        to_first = {role: matmul(of.outputs.vectors.T, first) for role, of in axes.items() if role != "a"}
        return InCoordinates(axes, to_first, Vanilla.before_step(self, memory, heads, step, rows))

    def enter(self, state: InCoordinates, active: Heads) -> Heads:
        return {role: self._in_coordinates(state.axes[role], head) for role, head in active.items()}

    def _in_coordinates(self, axes: Axes, head: Head) -> Head:
        u_in, u_out = axes.inputs.vectors, axes.outputs.vectors
        bias = matmul(head["bias"], u_out) if self.protects_biases else head["bias"]
        return {"kernel": matmul(u_in.T, matmul(head["kernel"], u_out)), "bias": bias}

    def enter_rows(self, state: InCoordinates, by_role: RowsByRole) -> RowsByRole:
        return {role: matmul(rows, state.axes[role].inputs.vectors) for role, rows in by_role.items()}

    def gradient(self, state: InCoordinates, trained: Heads, batch: Batch) -> tuple[Float[Array, ""], Heads]:
        def loss(trained: Heads) -> Float[Array, ""]:
            outputs = {role: self._outputs(state, role, trained[role], rows) for role, rows in batch.by_role.items()}
            return self.loss(outputs, batch.valid)

        return jax.value_and_grad(loss)(trained)

    def _outputs(
        self, state: InCoordinates, role: str, layer: Head, rows: Float[Array, "n d_in"]
    ) -> Float[Array, "n d_out"]:
        """A head's outputs in the output coordinates of the first head."""
        precision = self.training.precision
        z = matmul(rows, layer["kernel"], precision)
        if self.protects_biases:
            z += layer["bias"]
        if role in state.to_first:
            # Without the barrier, XLA on CPUs makes it the transpose that the scores read, a slower product.
            z = jax.lax.optimization_barrier(matmul(z, state.to_first[role], precision))
        return z if self.protects_biases else z + matmul(layer["bias"], state.axes["a"].outputs.vectors)

    def update(self, state: InCoordinates, gradients: Heads, trained: Heads) -> tuple[Heads, InCoordinates]:
        updates, optimizer = self.optimizer().update(gradients, state.optimizer, trained)
        free = {role: self._free(state.axes[role], update) for role, update in updates.items()}
        return optax.apply_updates(trained, free), state._replace(optimizer=optimizer)

    def _free(self, axes: Axes, update: Head) -> Head:
        """The update with exact zeros where it is protected."""
        bias = jnp.where(axes.outputs.protected, 0, update["bias"]) if self.protects_biases else update["bias"]
        return {"kernel": jnp.where(_protected(axes), 0, update["kernel"]), "bias": bias}

    def leave(self, state: InCoordinates, trained: Heads, active: Heads) -> Heads:
        return {role: self._in_features(state.axes[role], trained[role], head) for role, head in active.items()}

    def _in_features(self, axes: Axes, layer: Head, head: Head) -> Head:
        """The head after the step: what moved is rotated back, so that what is all protected keeps its bits."""
        moved = self._free(axes, jax.tree.map(jnp.subtract, layer, self._in_coordinates(axes, head)))
        back = matmul(axes.inputs.vectors, matmul(moved["kernel"], axes.outputs.vectors.T))
        bias = matmul(moved["bias"], axes.outputs.vectors.T) if self.protects_biases else moved["bias"]
        unrotated = _all_or_none(axes.inputs) & _all_or_none(axes.outputs)
        return {
            "kernel": jnp.where(unrotated, layer["kernel"], head["kernel"] + back),
            "bias": jnp.where(_all_or_none(axes.outputs), layer["bias"], head["bias"] + bias),
        }


@pytree_dataclass
class RotatedDualNullSpace(RotatedTraining, DualNullSpace):
    """`DualNullSpace` with `project="exact"`."""


@pytree_dataclass
class RotatedReleased(RotatedTraining, ReleasedDualNullSpace):
    """`ReleasedDualNullSpace` with `project="exact"`."""


def _protected(axes: Axes) -> Bool[Array, "d_in d_out"]:
    protected: Array = axes.inputs.protected[:, None] & axes.outputs.protected
    return protected


def _all_or_none(side: Subspace) -> Bool[Array, ""]:
    """Whether the basis is the identity, so that these coordinates are those of the head."""
    return jnp.all(side.protected == side.protected[0])
