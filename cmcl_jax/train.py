"""Learning one step of the stream; its training is one jitted program, for all seeds at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from cmcl_jax.heads import Heads
from cmcl_jax.methods.base import Batch, Learned, Method, OnEpoch, active_heads, with_heads
from cmcl_jax.stream import Step, StepFeatures, Stream

Carry = tuple[Heads, PyTree, Float[Array, ""]]  # the active heads, the method's state, the sum of the losses


@dataclass(frozen=True)
class StepByStep:
    """The `Learner` of continual learning: each step sees its own data and what the method remembers."""

    method: Method
    stream: Stream
    dtype: Any
    stepwise: ClassVar[bool] = True

    def start(self, heads: Heads) -> PyTree:
        return init_memory(self.method, heads, self.stream.tuples)

    def learn(
        self, heads: Heads, memory: PyTree, step: Step, keys: PRNGKeyArray, on_epoch: OnEpoch | None = None
    ) -> Learned:
        features = self.stream.training_features(step, step.modalities, self.dtype)
        names = self.method.remembered_modalities(step, self.stream)
        remembered = features if names == step.modalities else self.stream.training_features(step, names, self.dtype)
        if self.method.class_texts:
            remembered = remembered._replace(class_texts=self.stream.class_texts(step, self.dtype))
        return learn(
            self.method,
            heads,
            memory,
            step,
            features,
            keys=step_keys(keys, step),
            remembered=remembered,
            on_epoch=on_epoch,
        )


def step_keys(keys: PRNGKeyArray, step: Step) -> PRNGKeyArray:
    """A step's keys, one per seed, from the run's."""
    return jax.vmap(lambda key: jax.random.fold_in(key, step.number))(keys)


def init_memory(method: Method, heads: Heads, tuples: Sequence[tuple[str, ...]]) -> PyTree:
    """The method's memory before the first step, for heads with a leading seed axis."""
    memory: PyTree = jax.vmap(lambda heads: method.init(heads, tuples), out_axes=_memory_axis(method))(heads)
    return memory


def learn(
    method: Method,
    heads: Heads,
    memory: PyTree,
    step: Step,
    features: StepFeatures,
    keys: PRNGKeyArray,
    remembered: StepFeatures | None = None,
    on_epoch: OnEpoch | None = None,
) -> Learned:
    """One step of the stream: prepare, train the step's heads, remember.

    Args:
        method: see `Method`.
        heads: all heads, with a leading seed axis.
        memory: from `init_memory` or the step before.
        step: which heads to train.
        features: the step's rows, shared by all seeds.
        keys: one per seed; decides the order of the batches.
        remembered: what the method gets to remember, if that is not `features`.
        on_epoch: see `train_heads`.
    """
    axes = (_memory_axis(method), 0)
    before = jax.vmap(lambda m, h: method.before_step(m, h, step, features.rows), in_axes=axes)
    state = before(memory, heads)
    active, losses = train_heads(method, active_heads(heads, step), state, features, keys, on_epoch)
    heads = with_heads(heads, active, step)
    seen = features if remembered is None else remembered
    after = jax.vmap(lambda m, h: method.after_step(m, h, step, seen), in_axes=axes, out_axes=axes[0])
    return Learned(heads, after(memory, heads), losses)


def _memory_axis(method: Method) -> PyTree:
    return jax.tree.map(lambda per_seed: 0 if per_seed else None, method.memory_per_seed)


@functools.partial(jax.jit, static_argnames=("method", "on_epoch"))
def train_heads(
    method: Method,
    active: Heads,
    state: PyTree,
    features: StepFeatures,
    keys: PRNGKeyArray,
    on_epoch: OnEpoch | None = None,
) -> tuple[Heads, Float[Array, "seeds epochs"]]:
    """Trains the active heads on one step's data.

    Rows are padded to the longest step of the stream and their number is data, not shape, so that one executable
    serves all steps of as many modalities and equal widths: a scan over epochs, in it a loop over as many batches as
    the step has. (A scan over the padding's batches as well would compute them only to throw them away.)

    Args:
        method: see `Method`.
        active: `{"a": head, "b": head, …}` with a leading seed axis.
        state: from `method.before_step`, with a leading seed axis.
        features: the step's rows, shared by all seeds.
        keys: one per seed; decides the order of the batches.
        on_epoch: called on the host with (epoch, mean loss) after each epoch; it should return at once, for the device
          may wait for it. Without it the program never turns to the host.

    Returns:
        The trained heads, and the losses `(seeds, epochs)`, means over the epoch's batches.
    """
    train_epoch = jax.vmap(functools.partial(_train_epoch, method, features), in_axes=(0, 0, None))

    def epoch(carry: tuple[Heads, PyTree], number: Int[Array, ""]) -> tuple[tuple[Heads, PyTree], Array]:
        carry, losses = train_epoch(carry, keys, number)
        if on_epoch is not None:
            jax.debug.callback(on_epoch, number, jnp.mean(losses))
        return carry, losses

    (active, _), losses = jax.lax.scan(epoch, (active, state), jnp.arange(method.training.epochs))
    return active, losses.T


def _train_epoch(
    method: Method, features: StepFeatures, carry: tuple[Heads, PyTree], key: PRNGKeyArray, number: Int[Array, ""]
) -> tuple[tuple[Heads, PyTree], Float[Array, ""]]:
    """One seed's pass over the step's rows, in an order of its own; the mean loss of its batches."""
    batches = -(-features.rows // _batch_size(method, features))
    order = epoch_order(method, features, key, number)
    update = functools.partial(train_batch, method, features, order)
    zero = jnp.zeros((), features.by_role["a"].dtype)
    active, state, total = jax.lax.fori_loop(0, batches, update, (*carry, zero))
    return (active, state), total / batches


def train_batch(
    method: Method, features: StepFeatures, order: Int[Array, " n"], i: Int[Array, ""], carry: Carry
) -> Carry:
    """One update of one seed, on batch `i` of an epoch's order of the rows."""
    active, state, total = carry
    size = _batch_size(method, features)
    rows = jax.lax.dynamic_slice(order, (i * size,), (size,))
    valid = i * size + jnp.arange(size) < features.rows
    batch = Batch({role: of_role[rows] for role, of_role in features.by_role.items()}, valid)
    loss, gradients = method.gradient(state, active, batch)
    active, state = method.update(state, gradients, active)
    return active, state, total + loss


def epoch_order(method: Method, features: StepFeatures, key: PRNGKeyArray, number: Int[Array, ""]) -> Int[Array, " n"]:
    """The order in which one seed's epoch visits the rows of a step; `key` is the seed's for this step."""
    return _shuffled(jax.random.fold_in(key, number), features, _batch_size(method, features))


def _batch_size(method: Method, features: StepFeatures) -> int:
    return min(method.training.batch_size, features.padded_rows)


def _shuffled(key: PRNGKeyArray, features: StepFeatures, batch_size: int) -> Int[Array, " n"]:
    """Row numbers in random order, padding last, their number rounded up to whole batches."""
    order = jax.random.permutation(key, features.padded_rows)
    order = order[jnp.argsort(order >= features.rows, stable=True)]
    return jnp.pad(order, (0, -order.shape[0] % batch_size))
