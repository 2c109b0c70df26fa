"""Vanilla: fine-tune the two active heads and hope. Every other method starts from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import optax
from jaxtyping import Array, Int, PyTree

from cmcl_jax.heads import Heads, apply_head
from cmcl_jax.losses import info_nce
from cmcl_jax.methods.base import Batch, Learner, Training, active_pair
from cmcl_jax.optimizers import dns_adamw, linear_decay, start_decay
from cmcl_jax.stream import PairFeatures, Step, Stream
from cmcl_jax.train import StepByStep


@dataclass(frozen=True)
class Vanilla:
    """AdamW on the contrastive loss of the step's own data, with a fresh optimizer and a linear decay each step."""

    training: Training
    memory_per_seed: ClassVar[bool] = False

    def optimizer(self) -> optax.GradientTransformation:
        """One step's optimizer."""
        return self._adamw_with_decay(project=None)

    def _adamw_with_decay(self, project: str | None, biases: str = "leafwise") -> optax.GradientTransformation:
        adamw = dns_adamw(
            self.training.learning_rate,
            weight_decay=self.training.weight_decay,
            clip_norm=self.training.clip_norm,
            project=project,
            biases=biases,
        )
        return optax.chain(adamw, linear_decay())

    def init(self, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
        del heads, pairs
        return {}

    def before_step(self, memory: PyTree, heads: Heads, step: Step, rows: Int[Array, ""]) -> PyTree:
        del memory
        return start_decay(self.optimizer().init(active_pair(heads, step)), self.training.total_updates(rows))

    def gradient(self, state: PyTree, pair: Heads, batch: Batch) -> tuple[jax.Array, Heads]:
        del state
        return jax.value_and_grad(self._loss)(pair, batch)

    def _loss(self, pair: Heads, batch: Batch) -> jax.Array:
        return info_nce(
            apply_head(pair["a"], batch.a),
            apply_head(pair["b"], batch.b),
            batch.valid,
            self.training.temperature,
            self.training.direction,
        )

    def update(self, state: PyTree, gradients: Heads, pair: Heads) -> tuple[Heads, PyTree]:
        updates, state = self.optimizer().update(gradients, state, pair)
        return optax.apply_updates(pair, updates), state

    def after_step(self, memory: PyTree, heads: Heads, step: Step, features: PairFeatures) -> PyTree:
        del heads, step, features
        return memory

    def remembered_modalities(self, step: Step, stream: Stream) -> tuple[str, str]:
        del stream
        return step.pair

    def learner(self, stream: Stream, dtype: Any) -> Learner:
        return StepByStep(self, stream, dtype)


def from_config(config: Any, training: Training) -> Vanilla:
    """Vanilla has no settings of its own."""
    del config
    return Vanilla(training)
