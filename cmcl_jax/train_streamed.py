"""Learning a step whose features do not fit on the device: they come from disk in blocks, in the very same order.

An epoch visits the rows in the order that `cmcl_jax.train` gives it. A *block* is a number of its batches in a row, for
every run its own. Threads gather the next blocks from disk and send them to the device while the one before trains, in
one jitted program for all blocks of all epochs. Resident memory is that of a few blocks, and of the order: four bytes a
row and run. Whatever a method remembers it sees in blocks, too, in the order in which the rows are stored.

Numbers are those of `cmcl_jax.train` to rounding.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from cmcl_jax.feature_memory import block_memory, fit_in_memory
from cmcl_jax.heads import Heads
from cmcl_jax.methods.base import Batch, InPieces, InStep, Learned, Method, RowsByRole
from cmcl_jax.prefetch import prefetched
from cmcl_jax.runs import RUNS, RunAxis
from cmcl_jax.stored_rows import Blocks, HostRows, InOrder, Shuffled, StoredRows
from cmcl_jax.stream import Step, StepFeatures
from cmcl_jax.train import Carry, StepByStep, begin_step, heads_after, of_runs, remember, step_keys, update_on


@dataclass(frozen=True)
class StreamedStepByStep(StepByStep):
    """`StepByStep` that streams the steps whose features would take more than `memory` bytes on the device."""

    memory: int = 0

    def learn(
        self, heads: Heads, memory: PyTree, step: Step, keys: PRNGKeyArray, in_pieces: InPieces | None = None
    ) -> Learned:
        side_by_side = self.axis.side_by_side(keys.shape[0])
        if fit_in_memory(self.stream.training_bytes(step, self.dtype), self.memory, side_by_side):
            return super().learn(heads, memory, step, keys, in_pieces)
        names = self.method.remembered_modalities(step, self.stream)
        return learn_streamed(
            self.method,
            heads,
            memory,
            step,
            StoredRows.of(self.stream, step, step.modalities),
            step_keys(keys, step),
            block_memory(self.memory),
            remembered=StoredRows.of(self.stream, step, names),
            class_texts=self.stream.class_texts(step, self.dtype) if self.method.class_texts else None,
            axis=self.axis,
            in_pieces=in_pieces,
        )


def learn_streamed(
    method: Method,
    heads: Heads,
    memory: PyTree,
    step: Step,
    stored: StoredRows,
    keys: PRNGKeyArray,
    block_bytes: int,
    remembered: StoredRows | None = None,
    class_texts: Float[Array, "c d_text"] | None = None,
    axis: RunAxis | None = None,
    in_pieces: InPieces | None = None,
) -> Learned:
    """`train.learn` of rows on disk: the same heads, memory and losses to rounding.

    Args:
        method, heads, memory, step, keys, axis, in_pieces: as there.
        stored: the step's rows, shared by all runs.
        block_bytes: of a block of rows for all runs, as stored.
        remembered: what the method gets to remember, if that is not `stored`.
        class_texts: embeddings of the step's class texts, where the method asks to remember them.
    """
    axis = axis or RunAxis.default()
    method = of_runs(method, heads)
    blocks = Blocks.within(block_bytes, method, stored, keys.shape[0])
    in_step = begin_step(method, heads, memory, step, StepFeatures({}, jnp.asarray(stored.rows, jnp.int32)), axis)

    def train(in_step: InStep, epochs: tuple[int, int]) -> InStep:
        return train_epochs_streamed(method, in_step, stored, keys, epochs, axis, blocks)

    in_step = train(in_step, (0, method.training.epochs)) if in_pieces is None else in_pieces(in_step, train)
    heads = heads_after(method, in_step, heads, step, axis)
    seen = stored if remembered is None else remembered
    memory = remember_streamed(method, memory, heads, step, seen, axis, blocks, class_texts)
    return Learned(heads, memory, in_step.losses)


def train_epochs_streamed(
    method: Method,
    in_step: InStep,
    stored: StoredRows,
    keys: PRNGKeyArray,
    epochs: tuple[int, int],
    axis: RunAxis,
    blocks: Blocks,
) -> InStep:
    """`train.train_epochs` of rows on disk: epochs from the first number up to but without the second.

    Args:
        method: from `of_runs`.
        in_step: from `begin_step` or from a call for earlier epochs; its buffers are donated.
        stored, keys, axis: see `learn_streamed`.
        blocks: how many rows are on the device at a time; results depend on it by rounding alone.
    """
    for number in range(*epochs):
        in_step = _train_epoch(method, in_step, stored, keys, number, axis, blocks)
    return in_step


def remember_streamed(
    method: Method,
    memory: PyTree,
    heads: Heads,
    step: Step,
    stored: StoredRows,
    axis: RunAxis,
    blocks: Blocks,
    class_texts: Float[Array, "c d_text"] | None = None,
) -> PyTree:
    """`train.remember` of rows on disk. On a mesh its devices share the rows of a block, and their moments are summed.

    Arguments as for `learn_streamed`, the method from `of_runs`, the heads as the step left them. A method that
    remembers nothing reads nothing.
    """
    if not jax.tree.leaves(memory):
        return memory
    source = InOrder(stored, blocks.rows)
    spread = P(RUNS) if axis.mesh is not None and blocks.rows % axis.mesh.size == 0 else P()
    dtype = jax.tree.leaves(heads)[0].dtype
    for number, block in enumerate(prefetched(source), start=1):
        by_role = {role: rows.astype(dtype) for role, rows in _on_device(block.by_role, axis, spread).items()}
        last = number == len(source)
        seen = StepFeatures(by_role, jnp.asarray(block.rows, jnp.int32), class_texts if last else None)
        memory = jax.block_until_ready(remember(method, memory, heads, step, seen))
    return memory


def _train_epoch(
    method: Method,
    in_step: InStep,
    stored: StoredRows,
    keys: PRNGKeyArray,
    number: int,
    axis: RunAxis,
    blocks: Blocks,
) -> InStep:
    trained, state, losses = in_step
    orders = np.stack([_order_on_host(key, number, stored) for key in keys])
    before = total = jnp.zeros(keys.shape, losses.dtype)
    for block in prefetched(Shuffled(stored, orders, blocks.rows)):
        by_role = _on_device(block.by_role, axis, P(RUNS))
        sent = _train_block(method, (trained, state), total, by_role, block.rows, axis, blocks)
        jax.block_until_ready(before)  # no more than three blocks are on the device: one trains, two wait
        before, (trained, state, total) = total, sent
    batches = -(-stored.rows // blocks.batch_size)
    return InStep(trained, state, losses.at[:, number].set(total / batches))


@functools.partial(jax.jit, static_argnames=("axis", "blocks"), donate_argnames="trained")
def _train_block(
    method: Method,
    trained: tuple[Heads, PyTree],
    total: Float[Array, " runs"],
    by_role: dict[str, Float[Array, "runs n _d"]],
    rows: Int[Array, ""],
    axis: RunAxis,
    blocks: Blocks,
) -> Carry:
    """All runs' updates on a block. The total of the losses is not donated: who has it knows that the block is done."""

    def of_run(method: Method, carry: Carry, by_role: RowsByRole, rows: Int[Array, ""]) -> Carry:
        entered = method.enter_rows(carry[1], {role: part.astype(carry[2].dtype) for role, part in by_role.items()})

        def update(i: Int[Array, ""], carry: Carry) -> Carry:
            first = i * blocks.batch_size
            batch = {role: jax.lax.dynamic_slice_in_dim(of, first, blocks.batch_size) for role, of in entered.items()}
            return update_on(method, Batch(batch, first + jnp.arange(blocks.batch_size) < rows), carry)

        trained: Carry = jax.lax.fori_loop(0, -(-rows // blocks.batch_size), update, carry)
        return trained

    done: Carry = axis.map(of_run, (0, 0, 0, None))(method, (*trained, total), by_role, rows)
    return done


@functools.partial(jax.jit, static_argnames="count")
def _permutation(key: PRNGKeyArray, number: Int[Array, ""], count: int) -> Int[Array, " n"]:
    permutation: Array = jax.random.permutation(jax.random.fold_in(key, number), count)
    return permutation.astype(jnp.int32)


def _order_on_host(key: PRNGKeyArray, number: int, stored: StoredRows) -> Int[np.ndarray, " rows"]:
    """The order of `train.epoch_order`, without the padding: one run at a time, for sorting needs several times it."""
    order = np.asarray(_permutation(key, number, stored.longest))
    return order[order < stored.rows]


def _on_device(by_role: HostRows, axis: RunAxis, spread: P) -> dict[str, Array]:
    """The arrays on the device, or on those of the mesh; the copy goes on while the caller does."""
    sent: dict[str, Array] = jax.device_put(by_role, None if axis.mesh is None else NamedSharding(axis.mesh, spread))
    return sent
