"""Vanilla: fine-tune the active heads and hope. Every other method starts from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jaxtyping import Array, Int, PyTree

from cmcl_jax.heads import Heads, apply_head
from cmcl_jax.losses import all_pairs_info_nce
from cmcl_jax.methods.base import Batch, Learner, Training, active_heads
from cmcl_jax.optimizers import dns_adamw, linear_decay, start_decay
from cmcl_jax.stream import Step, StepFeatures, Stream
from cmcl_jax.train import StepByStep


@dataclass(frozen=True)
class Vanilla:
    """AdamW on the contrastive loss of the step's own data, with a fresh optimizer and a linear decay each step."""

    training: Training

    @property
    def memory_per_seed(self) -> Any:
        return False

    @property
    def class_texts(self) -> bool:
        return False

    def optimizer(self) -> optax.GradientTransformation:
        """One step's optimizer."""
        return self._adamw_with_decay(project=None)

    def _adamw_with_decay(self, project: str | None, biases: str = "leafwise") -> optax.GradientTransformation:
        adamw = dns_adamw(
            self.training.learning_rate,
            weight_decay=self.training.weight_decay,
            clip_norm=self.training.clip_norm,
            project=project,
            protect_biases=biases != "free",
        )
        return optax.chain(adamw, linear_decay())

    def init(self, heads: Heads, tuples: Sequence[tuple[str, ...]]) -> PyTree:
        del heads, tuples
        return {}

    def before_step(self, memory: PyTree, heads: Heads, step: Step, rows: Int[Array, ""]) -> PyTree:
        del memory
        return start_decay(self.optimizer().init(active_heads(heads, step)), self.training.total_updates(rows))

    def gradient(self, state: PyTree, active: Heads, batch: Batch) -> tuple[jax.Array, Heads]:
        del state
        return jax.value_and_grad(self._loss)(active, batch)

    def _loss(self, active: Heads, batch: Batch) -> jax.Array:
        z = {role: apply_head(active[role], rows) for role, rows in batch.by_role.items()}
        return all_pairs_info_nce(z, batch.valid, self.training.temperature, self.training.direction)

    def update(self, state: PyTree, gradients: Heads, active: Heads) -> tuple[Heads, PyTree]:
        updates, state = self.optimizer().update(gradients, state, active)
        return optax.apply_updates(active, updates), state

    def after_step(self, memory: PyTree, heads: Heads, step: Step, features: StepFeatures) -> PyTree:
        del heads, step, features
        return memory

    def remembered_modalities(self, step: Step, stream: Stream) -> tuple[str, ...]:
        del stream
        return step.modalities

    def learner(self, stream: Stream, dtype: Any) -> Learner:
        return StepByStep(self, stream, dtype)


def from_config(config: Any, training: Training) -> Vanilla:
    """Vanilla has no settings of its own."""
    del config
    return Vanilla(training)
