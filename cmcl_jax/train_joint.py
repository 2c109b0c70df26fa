"""Training on the data of all steps at once: a loop on the host over jitted updates, each for all runs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from cmcl_jax.heads import Heads
from cmcl_jax.methods.base import InPieces, InStep, Learned, Method, active_heads, with_heads
from cmcl_jax.optimizers import start_decay
from cmcl_jax.runs import RunAxis
from cmcl_jax.stream import Step, StepFeatures, Stream
from cmcl_jax.train import Carry, epoch_order, init_memory, of_runs, step_keys, train_batch

MIXING_SEED = 0


class MixedMethod(Method, Protocol):
    """A method whose steps take turns: what `before_step` takes out of the memory is put back after every update."""

    def after_update(self, memory: PyTree, state: PyTree, step: Step) -> PyTree:
        """The memory, given the state with which an update on a batch of this step ended."""
        ...


@dataclass(frozen=True)
class AllAtOnce:
    """The `Learner` of a method that may see all data at any time.

    Step t of the run makes as many updates as a continual method makes in step t, but on batches of all steps. Over
    the run these are the very batches that such a method trains on, epoch by epoch, in mixed order; the order is the
    same for all runs, which share the updates' programs, while the rows in a batch are each run's own.
    """

    method: MixedMethod
    stream: Stream
    dtype: Any
    axis: RunAxis = field(default_factory=RunAxis.default)
    stepwise: ClassVar[bool] = False

    def start(self, heads: Heads) -> PyTree:
        memory = init_memory(self.method, heads, self.stream.pairs)
        runs = len(jax.tree.leaves(heads)[0])
        return start_decay(memory, jnp.full(runs, self.method.training.epochs * sum(self._batches)))

    def learn(
        self,
        heads: Heads,
        memory: PyTree,
        step: Step,
        keys: PRNGKeyArray,
        in_pieces: InPieces | None = None,
    ) -> Learned:
        method, draws = of_runs(self.method, heads), self._draws(step)
        orders = _Orders(method, self._features, [step_keys(keys, other) for other in self.stream.steps])

        def train(in_step: InStep, epochs: tuple[int, int]) -> InStep:
            for number in range(*epochs):
                in_step = self._train_epoch(method, in_step, number, draws[number], orders)
            return in_step

        in_step = InStep(heads, memory, jnp.zeros((len(keys), len(draws)), self.dtype))
        in_step = train(in_step, (0, len(draws))) if in_pieces is None else in_pieces(in_step, train)
        return Learned(*in_step)

    def _train_epoch(
        self, method: Method, in_step: InStep, number: int, draws: Int[np.ndarray, "batches 3"], orders: _Orders
    ) -> InStep:
        heads, memory, losses = in_step
        total = jnp.zeros(len(losses), self.dtype)
        for epoch, place, batch in draws:
            drawn, features = self.stream.steps[place], self._features[place]
            state = self.method.before_step(memory, heads, drawn, features.rows)
            carry = (active_heads(heads, drawn), state, total)
            active, state, total = update_heads(method, features, orders.of(epoch, place), batch, carry, self.axis)
            heads = with_heads(heads, active, drawn)
            memory = self.method.after_update(memory, state, drawn)
        return InStep(heads, memory, losses.at[:, number].set(total / len(draws)))

    @functools.cached_property
    def _features(self) -> list[StepFeatures]:
        """The training rows of every step; what two steps share is on the device once."""
        shared: dict[tuple[str, str], Array] = {}
        found = []
        for step in self.stream.steps:
            features = self.stream.training_features(step, step.modalities, self.dtype)
            by_role = {
                role: shared.setdefault((step.dataset, modality), features.by_role[role])
                for role, modality in step.roles.items()
            }
            found.append(features._replace(by_role=by_role))
        return found

    @functools.cached_property
    def _batches(self) -> list[int]:
        """The number of batches of one epoch of each step."""
        return [-(-self.stream.rows(step) // self.method.training.batch_size) for step in self.stream.steps]

    def _draws(self, step: Step) -> Int[np.ndarray, "epochs batches 3"]:
        """The updates of a step, cut at its epochs."""
        epochs = self.method.training.epochs
        ends = epochs * np.cumsum([0, *self._batches])
        mixed = mixed_batches(self._batches, epochs)[ends[step.number - 1] : ends[step.number]]
        return mixed.reshape(epochs, -1, 3)


def mixed_batches(batches: Sequence[int], epochs: int) -> Int[np.ndarray, "updates 3"]:
    """Rows `(epoch, step, batch)`, all from 0: each epoch has every batch of every step once, in random order.

    >>> mixed_batches([1, 2], epochs=1).tolist()
    [[0, 1, 1], [0, 0, 0], [0, 1, 0]]
    """
    rng = np.random.default_rng(MIXING_SEED)
    every = np.array([(step, batch) for step, count in enumerate(batches) for batch in range(count)])
    return np.concatenate([np.insert(rng.permutation(every), 0, epoch, axis=1) for epoch in range(epochs)])


@functools.partial(jax.jit, static_argnames="axis")
def update_heads(
    method: Method,
    features: StepFeatures,
    orders: Int[Array, "runs n"],
    batch: Int[Array, ""],
    carry: tuple[Heads, PyTree, Float[Array, " runs"]],
    axis: RunAxis,
) -> tuple[Heads, PyTree, Float[Array, " runs"]]:
    """One update of the active heads for all runs; one executable serves all steps of as many, equal widths."""

    def of_run(method: Method, order: Int[Array, " n"], carry: Carry, features: StepFeatures, batch: Any) -> Carry:
        return train_batch(method, features, order, batch, carry)

    updated: tuple[Heads, PyTree, Array] = axis.map(of_run, (0, 0, 0, None, None))(
        method, orders, carry, features, batch
    )
    return updated


@jax.jit
def epoch_orders(
    method: Method, features: StepFeatures, keys: PRNGKeyArray, epoch: Int[Array, ""]
) -> Int[Array, "runs n"]:
    """The orders in which the runs visit the rows of a step in an epoch: those of a run that learns it alone."""
    orders: Array = jax.vmap(lambda key: epoch_order(method, features, key, epoch))(keys)
    return orders


class _Orders:
    """The orders of the steps' rows in the current epoch, drawn when first asked for."""

    def __init__(self, method: Method, features: Sequence[StepFeatures], keys: Sequence[PRNGKeyArray]) -> None:
        self._method, self._features, self._keys = method, features, keys
        self._epoch, self._drawn = -1, dict[int, Array]()

    def of(self, epoch: int, place: int) -> Int[Array, "runs n"]:
        if epoch != self._epoch:
            self._epoch, self._drawn = epoch, {}
        if place not in self._drawn:
            self._drawn[place] = epoch_orders(self._method, self._features[place], self._keys[place], epoch)
        return self._drawn[place]
