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
from cmcl_jax.methods.base import Batch, Learned, Method, OnEpoch, active_pair, with_pair
from cmcl_jax.stream import PairFeatures, Step, Stream

Carry = tuple[Heads, PyTree, Float[Array, ""]]  # the pair, the method's state, the sum of the losses


@dataclass(frozen=True)
class StepByStep:
    """The `Learner` of continual learning: each step sees its own data and what the method remembers."""

    method: Method
    stream: Stream
    dtype: Any
    stepwise: ClassVar[bool] = True

    def start(self, heads: Heads) -> PyTree:
        return init_memory(self.method, heads, self.stream.pairs)

    def learn(
        self, heads: Heads, memory: PyTree, step: Step, keys: PRNGKeyArray, on_epoch: OnEpoch | None = None
    ) -> Learned:
        features = self.stream.training_features(step, step.pair, self.dtype)
        names = self.method.remembered_modalities(step, self.stream)
        remembered = features if names == step.pair else self.stream.training_features(step, names, self.dtype)
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


def init_memory(method: Method, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
    """The method's memory before the first step, for heads with a leading seed axis."""
    memory: PyTree = jax.vmap(lambda heads: method.init(heads, pairs), out_axes=_memory_axis(method))(heads)
    return memory


def learn(
    method: Method,
    heads: Heads,
    memory: PyTree,
    step: Step,
    features: PairFeatures,
    keys: PRNGKeyArray,
    remembered: PairFeatures | None = None,
    on_epoch: OnEpoch | None = None,
) -> Learned:
    """One step of the stream: prepare, train the step's two heads, remember.

    Args:
        method: see `Method`.
        heads: all heads, with a leading seed axis.
        memory: from `init_memory` or the step before.
        step: which heads to train.
        features: the step's rows, shared by all seeds.
        keys: one per seed; decides the order of the batches.
        remembered: what the method gets to remember, if that is not `features`.
        on_epoch: see `train_pair`.
    """
    axes = (_memory_axis(method), 0)
    before = jax.vmap(lambda m, h: method.before_step(m, h, step, features.rows), in_axes=axes)
    state = before(memory, heads)
    pair, losses = train_pair(method, active_pair(heads, step), state, features, keys, on_epoch)
    heads = with_pair(heads, pair, step)
    seen = features if remembered is None else remembered
    after = jax.vmap(lambda m, h: method.after_step(m, h, step, seen), in_axes=axes, out_axes=axes[0])
    return Learned(heads, after(memory, heads), losses)


def _memory_axis(method: Method) -> PyTree:
    return jax.tree.map(lambda per_seed: 0 if per_seed else None, method.memory_per_seed)


@functools.partial(jax.jit, static_argnames=("method", "on_epoch"))
def train_pair(
    method: Method,
    pair: Heads,
    state: PyTree,
    features: PairFeatures,
    keys: PRNGKeyArray,
    on_epoch: OnEpoch | None = None,
) -> tuple[Heads, Float[Array, "seeds epochs"]]:
    """Trains a pair of heads on one step's data.

    Rows are padded to the longest step of the stream and their number is data, not shape, so that one executable
    serves all steps: a scan over epochs, in it a loop over as many batches as the step has. (A scan over the padding's
    batches as well would compute them only to throw them away.)

    Args:
        method: see `Method`.
        pair: `{"a": head, "b": head}` with a leading seed axis.
        state: from `method.before_step`, with a leading seed axis.
        features: the step's rows, shared by all seeds.
        keys: one per seed; decides the order of the batches.
        on_epoch: called on the host with (epoch, mean loss) after each epoch; it should return at once, for the device
          may wait for it. Without it the program never turns to the host.

    Returns:
        The trained pair, and the losses `(seeds, epochs)`, means over the epoch's batches.
    """
    train_epoch = jax.vmap(functools.partial(_train_epoch, method, features), in_axes=(0, 0, None))

    def epoch(carry: tuple[Heads, PyTree], number: Int[Array, ""]) -> tuple[tuple[Heads, PyTree], Array]:
        carry, losses = train_epoch(carry, keys, number)
        if on_epoch is not None:
            jax.debug.callback(on_epoch, number, jnp.mean(losses))
        return carry, losses

    (pair, _), losses = jax.lax.scan(epoch, (pair, state), jnp.arange(method.training.epochs))
    return pair, losses.T


def _train_epoch(
    method: Method, features: PairFeatures, carry: tuple[Heads, PyTree], key: PRNGKeyArray, number: Int[Array, ""]
) -> tuple[tuple[Heads, PyTree], Float[Array, ""]]:
    """One seed's pass over the step's rows, in an order of its own; the mean loss of its batches."""
    batches = -(-features.rows // _batch_size(method, features))
    order = epoch_order(method, features, key, number)
    update = functools.partial(train_batch, method, features, order)
    pair, state, total = jax.lax.fori_loop(0, batches, update, (*carry, jnp.zeros((), features.a.dtype)))
    return (pair, state), total / batches


def train_batch(
    method: Method, features: PairFeatures, order: Int[Array, " n"], i: Int[Array, ""], carry: Carry
) -> Carry:
    """One update of one seed, on batch `i` of an epoch's order of the rows."""
    pair, state, total = carry
    size = _batch_size(method, features)
    rows = jax.lax.dynamic_slice(order, (i * size,), (size,))
    valid = i * size + jnp.arange(size) < features.rows
    loss, gradients = method.gradient(state, pair, Batch(features.a[rows], features.b[rows], valid))
    pair, state = method.update(state, gradients, pair)
    return pair, state, total + loss


def epoch_order(method: Method, features: PairFeatures, key: PRNGKeyArray, number: Int[Array, ""]) -> Int[Array, " n"]:
    """The order in which one seed's epoch visits the rows of a step; `key` is the seed's for this step."""
    return _shuffled(jax.random.fold_in(key, number), features, _batch_size(method, features))


def _batch_size(method: Method, features: PairFeatures) -> int:
    return min(method.training.batch_size, features.a.shape[0])


def _shuffled(key: PRNGKeyArray, features: PairFeatures, batch_size: int) -> Int[Array, " n"]:
    """Row numbers in random order, padding last, their number rounded up to whole batches."""
    order = jax.random.permutation(key, features.a.shape[0])
    order = order[jnp.argsort(order >= features.rows, stable=True)]
    return jnp.pad(order, (0, -order.shape[0] % batch_size))
