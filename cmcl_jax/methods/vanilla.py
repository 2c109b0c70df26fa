"""Vanilla: fine-tune the active heads and hope. Every other method starts from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from cmcl_jax.heads import Head, Heads, apply_head
from cmcl_jax.losses import all_pairs_info_nce
from cmcl_jax.methods.base import Batch, Learner, RowsByRole, Training, active_heads, pytree_dataclass
from cmcl_jax.optimizers import dns_adamw, linear_decay, start_decay
from cmcl_jax.runs import RunAxis
from cmcl_jax.stream import Step, StepFeatures, Stream
from cmcl_jax.train import StepByStep


@pytree_dataclass
class Vanilla:
    """AdamW on the contrastive loss of the step's own data, with a fresh optimizer and a linear decay each step."""

    training: Training

    @property
    def memory_per_run(self) -> Any:
        return False

    @property
    def class_texts(self) -> bool:
        return False

    def optimizer(self) -> optax.GradientTransformation:
        """One step's optimizer."""
        return self._adamw_with_decay(project=None)

    def _adamw_with_decay(
        self, project: str | None, biases: str = "leafwise", clip: bool = True
    ) -> optax.GradientTransformation:
        adamw = dns_adamw(
            self.training.learning_rate,
            weight_decay=self.training.weight_decay,
            clip_norm=self.training.clip_norm if clip else None,
            project=project,
            biases=biases,
        )
        return optax.chain(adamw, linear_decay())

    def init(self, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
        del heads, pairs
        return {}

    def before_step(self, memory: PyTree, heads: Heads, step: Step, rows: Int[Array, ""]) -> PyTree:
        del memory
        return start_decay(self.optimizer().init(active_heads(heads, step)), self.training.total_updates(rows))

    def enter(self, state: PyTree, active: Heads) -> Heads:
        del state
        return active

    def enter_rows(self, state: PyTree, by_role: RowsByRole) -> RowsByRole:
        del state
        return by_role

    def gradient(self, state: PyTree, trained: Heads, batch: Batch) -> tuple[Float[Array, ""], Heads]:
        del state

        def loss(heads: Heads) -> Float[Array, ""]:
            outputs = {role: self.outputs(heads[role], rows) for role, rows in batch.by_role.items()}
            return self.loss(outputs, batch.valid)

        return jax.value_and_grad(loss)(trained)

    def loss(self, outputs: RowsByRole, valid: Bool[Array, " n"]) -> Float[Array, ""]:
        """The contrastive loss of a batch, given the outputs of its heads."""
        options = self.training
        return all_pairs_info_nce(outputs, valid, options.temperature, options.direction, options.precision)

    def outputs(self, head: Head, rows: Float[Array, "n d_in"]) -> Float[Array, "n d_out"]:
        """A head's outputs in the precision of training."""
        return apply_head(head, rows, self.training.precision)

    def update(self, state: PyTree, gradients: Heads, trained: Heads) -> tuple[Heads, PyTree]:
        updates, state = self.optimizer().update(gradients, state, trained)
        return optax.apply_updates(trained, updates), state

    def leave(self, state: PyTree, trained: Heads, active: Heads) -> Heads:
        del state, active
        return trained

    def after_step(self, memory: PyTree, heads: Heads, step: Step, features: StepFeatures) -> PyTree:
        del heads, step, features
        return memory

    def remembered_modalities(self, step: Step, stream: Stream) -> tuple[str, ...]:
        del stream
        return step.modalities

    def learner(self, stream: Stream, dtype: Any, axis: RunAxis) -> Learner:
        return StepByStep(self, stream, dtype, axis)


def from_config(config: Any, training: Training) -> Vanilla:
    """Vanilla has no settings of its own."""
    del config
    return Vanilla(training)
