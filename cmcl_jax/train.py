"""Learning one step of the stream; its training is one jitted program, for all runs at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from cmcl_jax.heads import Heads
from cmcl_jax.methods.base import Batch, InPieces, InStep, Learned, Method, RowsByRole, active_heads, with_heads
from cmcl_jax.runs import RunAxis, side_by_side, with_run_axis
from cmcl_jax.stream import Step, StepFeatures, Stream

ENTERED_AT_ONCE, REMEMBERED_AT_ONCE = 1024, 4096
"""Rows that are taken to the coordinates of training, and into memories, in one go."""

Carry = tuple[Heads, PyTree, Float[Array, ""]]  # the trained parameters, the method's state, the sum of the losses


@dataclass(frozen=True)
class StepByStep:
    """The `Learner` of continual learning: each step sees its own data and what the method remembers."""

    method: Method
    stream: Stream
    dtype: Any
    axis: RunAxis
    stepwise: ClassVar[bool] = True

    def start(self, heads: Heads) -> PyTree:
        return init_memory(self.method, heads, self.stream.pairs)

    def learn(
        self,
        heads: Heads,
        memory: PyTree,
        step: Step,
        keys: PRNGKeyArray,
        in_pieces: InPieces | None = None,
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
            axis=self.axis,
            in_pieces=in_pieces,
        )


def step_keys(keys: PRNGKeyArray, step: Step) -> PRNGKeyArray:
    """A step's keys, one per run, from the run's."""
    return jax.vmap(lambda key: jax.random.fold_in(key, step.number))(keys)


def init_memory(method: Method, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
    """The method's memory before the first step, for heads with a leading run axis."""
    init = side_by_side(lambda method, heads: method.init(heads, pairs), (0, 0), _memory_axis(method))
    memory: PyTree = init(of_runs(method, heads), heads)
    return memory


def learn(
    method: Method,
    heads: Heads,
    memory: PyTree,
    step: Step,
    features: StepFeatures,
    keys: PRNGKeyArray,
    remembered: StepFeatures | None = None,
    axis: RunAxis | None = None,
    in_pieces: InPieces | None = None,
) -> Learned:
    """One step of the stream: prepare, train the step's heads, remember.

    Args:
        method: see `Method`; its hyperparameters are numbers, or have a leading run axis.
        heads: all heads, with a leading run axis.
        memory: from `init_memory` or the step before.
        step: which heads to train.
        features: the step's rows, shared by all runs.
        keys: one per run; decides the order of the batches.
        remembered: what the method gets to remember, if that is not `features`.
        axis: how the runs share the devices; `RunAxis.default()`.
        in_pieces: see `Learner`.
    """
    axis = axis or RunAxis.default()
    method = of_runs(method, heads)
    in_step = begin_step(method, heads, memory, step, features, axis)

    def train(in_step: InStep, epochs: tuple[int, int]) -> InStep:
        trained: InStep = train_epochs(method, in_step, features, keys, epochs, axis)
        return trained

    in_step = train(in_step, (0, method.training.epochs)) if in_pieces is None else in_pieces(in_step, train)
    return finish_step(method, in_step, heads, memory, step, features if remembered is None else remembered, axis)


def begin_step(
    method: Method, heads: Heads, memory: PyTree, step: Step, features: StepFeatures, axis: RunAxis
) -> InStep:
    """Where a step begins; arguments as those of `learn`, the method from `of_runs`."""
    before = _before if axis.mesh is None else _before_on_mesh
    state = before(method, memory, heads, features.rows, _its_modalities(step), axis)
    in_step: InStep = _enter(method, state, active_heads(heads, step), axis)
    return in_step


def finish_step(
    method: Method, in_step: InStep, heads: Heads, memory: PyTree, step: Step, seen: StepFeatures, axis: RunAxis
) -> Learned:
    """What a step leaves behind once all its epochs are trained, given the heads with which it began."""
    heads = heads_after(method, in_step, heads, step, axis)
    after = remember if axis.mesh is None else functools.partial(_remember_on_mesh, axis=axis)
    for part in _parts(seen):
        memory = after(method, memory, heads, _its_modalities(step), part)
    return Learned(heads, memory, in_step.losses)


def _parts(seen: StepFeatures) -> Iterator[StepFeatures]:
    """The rows of a step in parts of equal shapes, without those that are all padding; class texts with the last."""
    if isinstance(seen.rows, jax.core.Tracer):  # how many parts there are would be part of the program
        yield seen
        return
    size, rows = min(REMEMBERED_AT_ONCE, seen.padded_rows), int(seen.rows)
    for first in range(0, rows, size):
        start = min(first, seen.padded_rows - size)
        by_role = {role: of_role[start : start + size] for role, of_role in seen.by_role.items()}
        if start < first:  # rows of the part before come last, as padding
            by_role = {role: jnp.roll(of_role, start - first, axis=0) for role, of_role in by_role.items()}
        count = jnp.asarray(min(size, rows - first), jnp.int32)
        yield StepFeatures(by_role, count, seen.class_texts if first + size >= rows else None)


def heads_after(method: Method, in_step: InStep, heads: Heads, step: Step, axis: RunAxis) -> Heads:
    """All heads after a step, given those with which it began."""
    return with_heads(heads, _leave(method, in_step, active_heads(heads, step), axis), step)


def remember(method: Method, memory: PyTree, heads: Heads, step: Step, seen: StepFeatures) -> PyTree:
    """The memory after rows of a step, all or the next part of them, given the heads with which it ended."""
    of_memory = _memory_axis(method)
    of_run = lambda method, memory, heads: method.after_step(memory, heads, step, seen)  # noqa: E731
    after = side_by_side(of_run, (0, of_memory, 0), of_memory)
    remembered: PyTree = after(method, memory, heads)
    return remembered


def of_runs(method: Method, heads: Heads) -> Method:
    """The method with a run axis, as long as that of the heads, on all its hyperparameters."""
    leaf = jax.tree.leaves(heads)[0]
    runs: Method = with_run_axis(method, leaf.shape[0], leaf.dtype)
    return runs


def _before(method: Method, memory: PyTree, heads: Heads, rows: Int[Array, ""], step: Step, axis: RunAxis) -> PyTree:
    """Of all runs of a device. Not jitted: steps share the programs in it, and would share none around it."""
    of_run = lambda method, memory, heads: method.before_step(memory, heads, step, rows)  # noqa: E731
    return side_by_side(of_run, (0, _memory_axis(method), 0))(method, memory, heads)


def _its_modalities(step: Step) -> Step:
    """The step without what else it is called: programs are shared by the steps, and orders, with these modalities."""
    return dataclasses.replace(step, number=0, dataset="", metrics=())


@functools.partial(jax.jit, static_argnames=("step", "axis"))
def _before_on_mesh(
    method: Method, memory: PyTree, heads: Heads, rows: Int[Array, ""], step: Step, axis: RunAxis
) -> PyTree:
    of_run = lambda method, memory, heads, rows: method.before_step(memory, heads, step, rows)  # noqa: E731
    return axis.map(of_run, (0, _memory_axis(method), 0, None))(method, memory, heads, rows)


@functools.partial(jax.jit, static_argnames=("step", "axis"))
def _remember_on_mesh(
    method: Method, memory: PyTree, heads: Heads, step: Step, seen: StepFeatures, axis: RunAxis
) -> PyTree:
    of_memory = _memory_axis(method)

    def of_device(method: Method, memory: PyTree, heads: Heads, seen: StepFeatures) -> PyTree:
        if axis.at_once != 1:
            return remember(method, memory, heads, step, seen)
        of_run = lambda method, memory, heads: method.after_step(memory, heads, step, seen)  # noqa: E731
        of_each = RunAxis(1).map(of_run, (0, of_memory, 0))(method, memory, heads)
        shared = lambda own, part: part if own else jax.tree.map(lambda leaf: leaf[0], part)  # noqa: E731
        return jax.tree.map(shared, method.memory_per_run, of_each)

    return axis.on_mesh(of_device, (0, of_memory, 0, None), of_memory)(method, memory, heads, seen)


def _memory_axis(method: Method) -> PyTree:
    return jax.tree.map(lambda per_run: 0 if per_run else None, method.memory_per_run)


@functools.partial(jax.jit, static_argnames="axis")
def _enter(method: Method, state: PyTree, active: Heads, axis: RunAxis) -> InStep:
    def enter(method: Method, state: PyTree, active: Heads) -> InStep:
        losses = jnp.zeros(method.training.epochs, jax.tree.leaves(active)[0].dtype)
        return InStep(method.enter(state, active), state, losses)

    entered = axis.map(enter)(method, state, active)
    copied: InStep = jax.tree.map(jnp.copy, entered)  # training donates it: nobody else may share its buffers
    return copied


@functools.partial(jax.jit, static_argnames="axis")
def _leave(method: Method, in_step: InStep, active: Heads, axis: RunAxis) -> Heads:
    leave = axis.map(lambda method, in_step, active: method.leave(in_step.state, in_step.trained, active))
    heads: Heads = leave(method, in_step, active)
    return heads


@functools.partial(jax.jit, static_argnames="axis", donate_argnames="in_step")
def train_epochs(
    method: Method,
    in_step: InStep,
    features: StepFeatures,
    keys: PRNGKeyArray,
    epochs: tuple[int | Int[Array, ""], int | Int[Array, ""]],
    axis: RunAxis,
) -> InStep:
    """Trains a step's heads for some of its epochs.

    Rows are padded to the longest step of the stream and their number is data, not shape, so that one executable
    serves all steps of as many modalities and equal widths: a loop over epochs, in it one over as many batches as
    the step has. (A scan over the padding's batches as well would compute them only to throw them away.)

    Args:
        method: from `of_runs`.
        in_step: from `begin_step` or from a call for earlier epochs; its buffers are donated.
        features: the step's rows, shared by all runs.
        keys: one per run; decides the order of the batches.
        epochs: from the first number up to but without the second.
        axis: how the runs share the devices.
    """

    def of_run(method: Method, in_step: InStep, key: PRNGKeyArray, features: StepFeatures, epochs: Any) -> InStep:
        first, last = epochs
        features = _entered(method, in_step.state, features)

        def epoch(number: Int[Array, ""], in_step: InStep) -> InStep:
            return _train_epoch(method, features, in_step, key, number)

        trained: InStep = jax.lax.fori_loop(first, last, epoch, in_step)
        return trained

    trained: InStep = axis.map(of_run, (0, 0, 0, None, None))(method, in_step, keys, features, epochs)
    return trained


def _entered(method: Method, state: PyTree, features: StepFeatures) -> StepFeatures:
    """The features in the coordinates of training. Only blocks of rows that are not all padding are computed."""
    enter = functools.partial(method.enter_rows, state)
    by_role = enter(features.by_role)
    if all(by_role[role] is of_role for role, of_role in features.by_role.items()):
        return features
    size = min(ENTERED_AT_ONCE, features.padded_rows)

    def block(i: Int[Array, ""], entered: RowsByRole) -> RowsByRole:
        first = jnp.minimum(i * size, features.padded_rows - size)
        rows = {role: jax.lax.dynamic_slice_in_dim(of, first, size) for role, of in features.by_role.items()}
        update = jax.lax.dynamic_update_slice_in_dim
        return {role: update(entered[role], of, first, 0) for role, of in enter(rows).items()}

    zeros = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), jax.eval_shape(enter, features.by_role))
    return features._replace(by_role=jax.lax.fori_loop(0, -(-features.rows // size), block, zeros))


def _train_epoch(
    method: Method, features: StepFeatures, in_step: InStep, key: PRNGKeyArray, number: Int[Array, ""]
) -> InStep:
    """One run's pass over the step's rows, in an order of its own."""
    batches = -(-features.rows // _batch_size(method, features))
    order = epoch_order(method, features, key, number)
    update = functools.partial(train_batch, method, features, order)
    zero = jnp.zeros((), in_step.losses.dtype)
    trained, state, total = jax.lax.fori_loop(0, batches, update, (in_step.trained, in_step.state, zero))
    return InStep(trained, state, in_step.losses.at[number].set(total / batches))


def train_batch(
    method: Method, features: StepFeatures, order: Int[Array, " n"], i: Int[Array, ""], carry: Carry
) -> Carry:
    """One update of one run, on batch `i` of an epoch's order of the rows."""
    size = _batch_size(method, features)
    rows = jax.lax.dynamic_slice(order, (i * size,), (size,))
    valid = i * size + jnp.arange(size) < features.rows
    return update_on(method, Batch({role: of_role[rows] for role, of_role in features.by_role.items()}, valid), carry)


def update_on(method: Method, batch: Batch, carry: Carry) -> Carry:
    """One update of one run on a batch."""
    trained, state, total = carry
    loss, gradients = method.gradient(state, trained, batch)
    trained, state = method.update(state, gradients, trained)
    return trained, state, total + loss


def epoch_order(method: Method, features: StepFeatures, key: PRNGKeyArray, number: Int[Array, ""]) -> Int[Array, " n"]:
    """The order in which one run's epoch visits the rows of a step; `key` is the run's for this step."""
    return _shuffled(jax.random.fold_in(key, number), features, _batch_size(method, features))


def _batch_size(method: Method, features: StepFeatures) -> int:
    return min(method.training.batch_size, features.padded_rows)


def _shuffled(key: PRNGKeyArray, features: StepFeatures, batch_size: int) -> Int[Array, " n"]:
    """Row numbers in random order, padding last, their number rounded up to whole batches."""
    order = jax.random.permutation(key, features.padded_rows)
    order = order[jnp.argsort(order >= features.rows, stable=True)]
    return jnp.pad(order, (0, -order.shape[0] % batch_size))
