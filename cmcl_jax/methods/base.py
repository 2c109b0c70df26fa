"""What a method is: five functions around the update, with a carry of fixed shapes, and who goes through the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, dataclass_transform

import jax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from cmcl_jax.heads import Heads
from cmcl_jax.losses import DIRECTIONS
from cmcl_jax.precision import PRECISIONS
from cmcl_jax.runs import RunAxis
from cmcl_jax.stream import Step, StepFeatures, Stream
from feature_cache.errors import UserError

T = TypeVar("T")
Scalar = float | Float[Array, ""]


STATIC = {"static": True}
"""Metadata of a field that is part of the program; the others are numbers, which a program takes as they come."""


RowsByRole = dict[str, Float[Array, "n _d"]]  # by role


class Batch(NamedTuple):
    """Rows of a step's modalities, by their roles; `valid` is False on the padding of a last, partial batch."""

    by_role: RowsByRole
    valid: Bool[Array, " n"]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def pytree_dataclass(cls: type[T]) -> type[T]:
    """Makes a class a frozen dataclass and a pytree, with the fields of metadata `STATIC` in its structure."""
    made: type[T] = jax.tree_util.register_dataclass(dataclass(frozen=True)(cls))
    return made


@pytree_dataclass
class Training:
    """How a step is trained, whatever the method.

    A pytree: the numbers that change no shape are its leaves.

    Attributes:
        epochs: passes over the step's data.
        batch_size: rows per update; the last batch of an epoch may be smaller.
        learning_rate: at the start of a step; decays linearly to zero at its end.
        weight_decay: decoupled, on kernels.
        clip_norm: global norm of the gradient of all heads under training.
        temperature: of the contrastive loss.
        direction: of the contrastive loss, "symmetric" or "a_to_b".
        precision: of the products of an update, see `cmcl_jax.precision`.
    """

    epochs: int = field(metadata=STATIC)
    batch_size: int = field(metadata=STATIC)
    learning_rate: Scalar
    weight_decay: Scalar
    clip_norm: Scalar
    temperature: Scalar
    direction: str = field(metadata=STATIC)
    precision: str = field(default="float32", metadata=STATIC)

    @classmethod
    def from_config(cls, config: Any) -> Training:
        """From `config.training`.

        Raises:
            UserError: naming the field, if a value is out of its range.
        """
        training = cls(**config)
        for name, allowed in (("direction", DIRECTIONS), ("precision", PRECISIONS)):
            if (value := getattr(training, name)) not in allowed:
                raise UserError(f"config.training.{name} must be one of {', '.join(allowed)}, but it is {value!r}.")
        for name, value in config.items():
            if name in ("direction", "precision"):
                continue
            lowest = "a number of at least 0" if name == "weight_decay" else "a number greater than 0"
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and (value > 0 or (value == 0 and name == "weight_decay"))):
                raise UserError(f"config.training.{name} must be {lowest}, but it is {value!r}.")
        return training

    def total_updates(self, rows: Int[Array, ""]) -> Int[Array, ""]:
        """Updates in a step of so many rows."""
        return self.epochs * -(-rows // self.batch_size)


class Learned(NamedTuple):
    """What a step leaves behind.

    Attributes:
        heads: all heads, with a leading run axis; those that were not trained are the ones that went in.
        memory: what the method carries on, with a leading run axis where `method.memory_per_run`.
        losses: `(runs, epochs)`, mean over the epoch's batches.
    """

    heads: Heads
    memory: PyTree
    losses: Float[Array, "runs epochs"]


class InStep(NamedTuple):
    """Where the training of a step is, every leaf with a leading run axis: what a checkpoint within a step holds.

    Attributes:
        trained: the parameters under training, in the coordinates of `method.enter`; all heads if a step trains all.
        state: the method's, from `before_step`, or whatever else the training of a step changes.
        losses: `(runs, epochs)`, mean over the epoch's batches; zeros for epochs to come.
    """

    trained: Heads
    state: PyTree
    losses: Float[Array, "runs epochs"]


TrainEpochs = Callable[[InStep, tuple[int, int]], InStep]
"""Trains a step from where it is: epochs from the first number up to but without the second. May donate `InStep`."""

InPieces = Callable[[InStep, TrainEpochs], InStep]
"""Trains all epochs of a step from where it begins, in pieces: see `pieces.StepInPieces`."""


class Learner(Protocol):
    """Goes through the steps of a stream with one method, for all runs at once.

    Attributes:
        stepwise: whether a step trains on its own data alone, and changes the heads of its own modalities only: tasks
          of other heads are then not measured again. If not, a task has no step in which it is learned, and nothing can
          be said of what it forgets.
    """

    stepwise: ClassVar[bool]

    def start(self, heads: Heads) -> PyTree:
        """The memory before the first step, for heads with a leading run axis."""
        ...

    def learn(
        self,
        heads: Heads,
        memory: PyTree,
        step: Step,
        keys: PRNGKeyArray,
        in_pieces: InPieces | None = None,
    ) -> Learned:
        """One step.

        Args:
            heads, memory: from `start` or the step before.
            step: which one.
            keys: the run's, one per run.
            in_pieces: who trains the epochs, and may save in between or go on from a checkpoint; None: all at once.
        """
        ...


class Method(Protocol):
    """A continual-learning method: a `pytree_dataclass`.

    Its leaves are the hyperparameters that change no shape, so that a program serves all their values, and runs with
    different ones train side by side; everything else about it is static.

    The training of a step is one program for the whole stream, so it sees the *active* heads `{"a": head, "b": head}`,
    with `"c"` and so on in steps of more modalities, and a `state` of fixed shapes, never a modality's name. What must
    survive between steps is the `memory`, a pytree of fixed shapes, which only `before_step` and `after_step` see.

    A step may train in other coordinates than those of the heads: `enter` goes there, `gradient` and `update` work
    there on rows that `enter_rows` has taken along, and `leave` comes back.

    These functions are written for one run and mapped over runs; `remembered_modalities` only says what the last of
    them gets to see, and `learner` who calls them.
    """

    @property
    def memory_per_run(self) -> Any:
        """Whether the memory differs between runs: a bool for all of it, or a tree of bools, a prefix of it.

        What depends on the features alone does not, and is then kept once.
        """
        ...

    @property
    def class_texts(self) -> bool:
        """Whether `after_step` gets the texts of a step's classes, too."""
        ...

    @property
    def training(self) -> Training:
        """How a step is trained."""
        ...

    def init(self, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
        """The memory before the first step of a stream with these modality pairs."""
        ...

    def before_step(self, memory: PyTree, heads: Heads, step: Step, rows: Int[Array, ""]) -> PyTree:
        """The state with which the training of a step of so many rows starts, such as a fresh optimizer's."""
        ...

    def enter(self, state: PyTree, active: Heads) -> Heads:
        """The parameters that are trained in the place of the active heads."""
        ...

    def enter_rows(self, state: PyTree, by_role: RowsByRole) -> RowsByRole:
        """What those parameters need of the step's rows, row by row."""
        ...

    def gradient(self, state: PyTree, trained: Heads, batch: Batch) -> tuple[Float[Array, ""], Heads]:
        """Loss and gradients of one batch."""
        ...

    def update(self, state: PyTree, gradients: Heads, trained: Heads) -> tuple[Heads, PyTree]:
        """The trained parameters and the state after one update."""
        ...

    def leave(self, state: PyTree, trained: Heads, active: Heads) -> Heads:
        """The active heads after the step, which began with `active`."""
        ...

    def after_step(self, memory: PyTree, heads: Heads, step: Step, features: StepFeatures) -> PyTree:
        """The memory after a step, given the heads it ended with and the features it trained on.

        These may come in parts, with the class texts in one of them: the memory after all parts, one after the other,
        is that after all rows at once.
        """
        ...

    def remembered_modalities(self, step: Step, stream: Stream) -> tuple[str, ...]:
        """Of which modalities `after_step` gets the features: the step's own, but for the reference's columns."""
        ...

    def learner(self, stream: Stream, dtype: Any, axis: RunAxis, feature_memory_mb: float | None = None) -> Learner:
        """Who goes through the stream with this method: `StepByStep` or its like, but for one that is not continual.

        `feature_memory_mb` is how much of the device the features of a step may take: see `cmcl_jax.feature_memory`.
        """
        ...


def active_heads(heads: Heads, step: Step) -> Heads:
    """The heads that a step trains, by their roles."""
    return {role: heads[modality] for role, modality in step.roles.items()}


def with_heads(heads: Heads, active: Heads, step: Step) -> Heads:
    """All heads, with those that the step trains replaced; the others are the same arrays."""
    return {**heads, **{modality: active[role] for role, modality in step.roles.items()}}
