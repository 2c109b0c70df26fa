"""Joint: all steps' data at once. Not continual: the level that a method would reach if it forgot nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from cmcl_jax.heads import Heads
from cmcl_jax.methods.base import Learner, Training, active_heads, pytree_dataclass, with_heads
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.optimizers import clip_by_global_norm, dns_adamw, linear_decay
from cmcl_jax.runs import RunAxis
from cmcl_jax.stream import Step, Stream
from cmcl_jax.train_joint import AllAtOnce


@pytree_dataclass
class Joint(Vanilla):
    """Vanilla's loss, clipping and AdamW on batches of all steps, with one AdamW per head and one decay for the run.

    A step that is drawn brings its heads' own moments along, so a head counts its own updates; the decay counts
    everybody's. The memory is `{"adamw": {modality: state}, "decay": LinearDecayState}`.
    """

    @property
    def memory_per_run(self) -> Any:
        return True

    def optimizer(self) -> optax.GradientTransformation:
        """One head's optimizer, without the clipping, which looks at all active heads, and without the decay."""
        return dns_adamw(
            self.training.learning_rate, weight_decay=self.training.weight_decay, clip_norm=None, project=None
        )

    def init(self, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
        del pairs
        adamw = {modality: self.optimizer().init(head) for modality, head in heads.items()}
        return {"adamw": adamw, "decay": linear_decay().init(heads)}

    def before_step(self, memory: PyTree, heads: Heads, step: Step, rows: Int[Array, ""]) -> PyTree:
        del heads, rows
        return {**memory, "adamw": active_heads(memory["adamw"], step)}

    def update(self, state: PyTree, gradients: Heads, active: Heads) -> tuple[Heads, PyTree]:
        clipped, _ = clip_by_global_norm(self.training.clip_norm).update(gradients, optax.EmptyState())
        stepped = {
            role: self.optimizer().update(clipped[role], state["adamw"][role], head) for role, head in active.items()
        }
        updates, decay = linear_decay().update({role: update for role, (update, _) in stepped.items()}, state["decay"])
        return optax.apply_updates(active, updates), {
            "adamw": {role: adamw for role, (_, adamw) in stepped.items()},
            "decay": decay,
        }

    def after_update(self, memory: PyTree, state: PyTree, step: Step) -> PyTree:
        return {**state, "adamw": with_heads(memory["adamw"], state["adamw"], step)}

    def learner(self, stream: Stream, dtype: Any, axis: RunAxis) -> Learner:
        return AllAtOnce(self, stream, jnp.dtype(dtype), axis)


def from_config(config: Any, training: Training) -> Joint:
    """Joint has no settings of its own."""
    del config
    return Joint(training)
