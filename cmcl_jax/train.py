"""Training of one step of the stream: one jitted program, for all seeds at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cmcl_jax.heads import Heads
from cmcl_jax.methods.base import Batch, Method
from cmcl_jax.stream import PairFeatures


class Trained(NamedTuple):
    """What a step's training leaves behind; every leaf has a leading seed axis.

    Attributes:
      pair: the two trained heads.
      losses: `(seeds, epochs)`, mean over the epoch's batches.
    """

    pair: Heads
    losses: Float[Array, "seeds epochs"]


@functools.partial(jax.jit, static_argnames=("method", "on_epoch"))
def train_step(
    method: Method,
    pair: Heads,
    state: Any,
    features: PairFeatures,
    keys: PRNGKeyArray,
    on_epoch: Callable[[Any, Any], None] | None = None,
) -> Trained:
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
      on_epoch: called on the host with (epoch, loss) once per seed and epoch, without the device waiting for it.
    """
    train = functools.partial(_train_one_seed, method, features, on_epoch)
    return jax.vmap(train)(pair, state, keys)


def _train_one_seed(
    method: Method,
    features: PairFeatures,
    on_epoch: Callable[[Any, Any], None] | None,
    pair: Heads,
    state: Any,
    key: PRNGKeyArray,
) -> Trained:
    size = method.training.batch_size
    batches = -(-features.count // size)

    def epoch(carry: tuple[Heads, Any], number: Int[Array, ""]) -> tuple[tuple[Heads, Any], Array]:
        order = _shuffled(jax.random.fold_in(key, number), features, size)

        def batch(i: Int[Array, ""], carry: tuple[Heads, Any, Array]) -> tuple[Heads, Any, Array]:
            pair, state, total = carry
            rows = jax.lax.dynamic_slice(order, (i * size,), (size,))
            valid = i * size + jnp.arange(size) < features.count
            loss, gradients = method.gradient(state, pair, Batch(features.a[rows], features.b[rows], valid))
            pair, state = method.update(state, gradients, pair)
            return pair, state, total + loss

        *carry_out, total = jax.lax.fori_loop(0, batches, batch, (*carry, jnp.zeros((), features.a.dtype)))
        loss = total / batches
        if on_epoch is not None:
            jax.debug.callback(on_epoch, number, loss)
        return tuple(carry_out), loss

    (pair, _), losses = jax.lax.scan(epoch, (pair, state), jnp.arange(method.training.epochs))
    return Trained(pair, losses)


def _shuffled(key: PRNGKeyArray, features: PairFeatures, batch_size: int) -> Int[Array, " n"]:
    """Row numbers in random order, padding last, their number rounded up to whole batches."""
    order = jax.random.permutation(key, features.a.shape[0])
    order = order[jnp.argsort(order >= features.count, stable=True)]
    return jnp.pad(order, (0, -order.shape[0] % batch_size))
