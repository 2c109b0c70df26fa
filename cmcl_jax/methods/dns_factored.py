"""The strength "gradients" for linear heads: the gradient is projected by its factors.

The gradient of a kernel is `X^T δ` with rows `X` and `δ` the gradient of the outputs, both as thin as the batch. Then

    X^T δ − P_in X^T δ P_out = [X; −X P_in]^T [δ; δ P_out]

needs no product of two `d × d` matrices: `X P_in` is found once a step, and `δ P_out` is one thin product. Where
`P_out` is the identity, as in the released method, it is `(X − X P_in)^T δ`, vanilla's product.

To rounding it is the optax chain clip → `dual_null_space` → AdamW. The norm that is clipped is that of the gradient
before its projection, `‖X^T δ‖² = Σ (X X^T) ∘ (δ δ^T)`.
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
from cmcl_jax.null_space import Subspaces, as_matrix
from cmcl_jax.null_space.free_part import largest_of_runs
from cmcl_jax.optimizers import clip_factor
from cmcl_jax.precision import matmul
from cmcl_jax.stream import Step


class Sides(NamedTuple):
    """What a head must not move.

    Attributes:
        inputs, outputs: the projectors' matrices.
        one_sided: whether that of the outputs is the identity.
    """

    inputs: Float[Array, "d_in d_in"]
    outputs: Float[Array, "d_out d_out"]
    one_sided: Bool[Array, ""]


class FactoredState(NamedTuple):
    """What the loop carries.

    Attributes:
        protect: by role.
        optimizer: that of what is clipped and projected already.
    """

    protect: dict[str, Sides]
    optimizer: PyTree


class FactoredGradients(ProjectedVanilla):
    """A method whose linear heads have the factors of their gradients projected."""

    def optimizer(self) -> optax.GradientTransformation:
        return self._adamw_with_decay(project=None, clip=False)

    def before_step(self, memory: PyTree, heads: Heads, step: Step, rows: Int[Array, ""]) -> FactoredState:
        protect = {role: _sides(of) for role, of in self.all_projectors(memory, heads, step).items()}
        return FactoredState(protect, Vanilla.before_step(self, memory, heads, step, rows))

    def enter_rows(self, state: FactoredState, by_role: RowsByRole) -> RowsByRole:
        """`[X, X P_in]` of each role."""
        return {
            role: jnp.concatenate([rows, matmul(rows, state.protect[role].inputs)], axis=-1)
            for role, rows in by_role.items()
        }

    def gradient(self, state: FactoredState, trained: Heads, batch: Batch) -> tuple[Float[Array, ""], Heads]:
        of_role = {role: _halves(rows) for role, rows in batch.by_role.items()}
        outputs = {role: self.outputs(trained[role], rows) for role, (rows, _) in of_role.items()}
        loss, deltas = jax.value_and_grad(self.loss)(outputs, batch.valid)
        squares = [_squared_norm(of_role[role][0], delta) for role, delta in deltas.items()]
        factor = clip_factor(jnp.sqrt(sum(squares[1:], squares[0])), self.training.clip_norm)
        return loss, {
            role: self._projected(state.protect[role], of_role[role], factor * delta) for role, delta in deltas.items()
        }

    def _projected(self, protect: Sides, halves: tuple[Array, Array], delta: Float[Array, "n d_out"]) -> Head:
        """A head's gradient."""
        rows, of_old = halves

        def one_sided() -> tuple[Array, Array]:
            return matmul((rows - of_old).T, delta, self.training.precision), delta

        def two_sided() -> tuple[
            Array, Array
        ]:  # in float32: what is left of a difference of rounded numbers is rounding
            protected = matmul(delta, protect.outputs)
            return matmul(jnp.concatenate([rows, -of_old]).T, jnp.concatenate([delta, protected])), protected

        # Of an identity, both forms are the same: runs side by side take the first if it serves all of them.
        kernel, protected = jax.lax.cond(largest_of_runs(~protect.one_sided), two_sided, one_sided)
        return {"kernel": kernel, "bias": jnp.sum(delta - protected if self.protects_biases else delta, axis=0)}

    def update(self, state: FactoredState, gradients: Heads, trained: Heads) -> tuple[Heads, FactoredState]:
        trained, optimizer = super().update(state.optimizer, gradients, trained)
        return trained, state._replace(optimizer=optimizer)


@pytree_dataclass
class FactoredDualNullSpace(FactoredGradients, DualNullSpace):
    """`DualNullSpace` with `project="gradients"`, biases leafwise or free."""


@pytree_dataclass
class FactoredReleased(FactoredGradients, ReleasedDualNullSpace):
    """`ReleasedDualNullSpace` with `project="gradients"`."""


def _sides(of: Subspaces) -> Sides:
    assert of.inputs is not None and of.outputs is not None
    return Sides(as_matrix(of.inputs), as_matrix(of.outputs), jnp.all(of.outputs.protected))


def _halves(rows: Float[Array, "n 2d"]) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    first, second = jnp.split(rows, 2, axis=-1)
    return first, second


def _squared_norm(rows: Float[Array, "n d_in"], delta: Float[Array, "n d_out"]) -> Float[Array, ""]:
    """Of the gradients `X^T δ` of the kernel and `1^T δ` of the bias together."""
    squared = jnp.sum((matmul(rows, rows.T) + 1) * matmul(delta, delta.T))
    return jnp.maximum(squared, 0)  # where its terms cancel, rounding may leave less
