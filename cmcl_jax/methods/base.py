"""What a method is: five functions around the update, with a carry of fixed shapes, and who goes through the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from cmcl_jax.heads import Heads
from cmcl_jax.losses import DIRECTIONS
from cmcl_jax.stream import Step, StepFeatures, Stream
from feature_cache.errors import UserError

OnEpoch = Callable[[Any, Any], None]


class Batch(NamedTuple):
    """Rows of a step's modalities, by their roles; `valid` is False on the padding of a last, partial batch."""

    by_role: dict[str, Float[Array, "n _d"]]
    valid: Bool[Array, " n"]


@dataclass(frozen=True)
class Training:
    """How a step is trained, whatever the method.

    Attributes:
        epochs: passes over the step's data.
        batch_size: rows per update; the last batch of an epoch may be smaller.
        learning_rate: at the start of a step; decays linearly to zero at its end.
        weight_decay: decoupled, on kernels.
        clip_norm: global norm of the gradient of all heads under training.
        temperature: of the contrastive loss.
        direction: of the contrastive loss, "symmetric" or "a_to_b".
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    clip_norm: float
    temperature: float
    direction: str

    @classmethod
    def from_config(cls, config: Any) -> Training:
        """From `config.training`.

        Raises:
            UserError: naming the field, if a value is out of its range.
        """
        training = cls(**config)
        for name, value in config.items():
            lowest = "a number of at least 0" if name == "weight_decay" else "a number greater than 0"
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if name != "direction" and not (number and (value > 0 or (value == 0 and name == "weight_decay"))):
                raise UserError(f"config.training.{name} must be {lowest}, but it is {value!r}.")
        if training.direction not in DIRECTIONS:
            raise UserError(
                f"config.training.direction must be one of {', '.join(DIRECTIONS)}, but it is {training.direction!r}."
            )
        return training

    def total_updates(self, rows: Int[Array, ""]) -> Int[Array, ""]:
        """Updates in a step of so many rows."""
        return self.epochs * -(-rows // self.batch_size)


class Learned(NamedTuple):
    """What a step leaves behind.

    Attributes:
        heads: all heads, with a leading seed axis; those that were not trained are the ones that went in.
        memory: what the method carries on, with a leading seed axis where `method.memory_per_seed`.
        losses: `(seeds, epochs)`, mean over the epoch's batches.
    """

    heads: Heads
    memory: PyTree
    losses: Float[Array, "seeds epochs"]


class Learner(Protocol):
    """Goes through the steps of a stream with one method, for all seeds at once.

    Attributes:
        stepwise: whether a step trains on its own data alone. If not, a task has no step in which it is learned, and
          nothing can be said of what it forgets.
    """

    stepwise: ClassVar[bool]

    def start(self, heads: Heads) -> PyTree:
        """The memory before the first step, for heads with a leading seed axis."""
        ...

    def learn(
        self, heads: Heads, memory: PyTree, step: Step, keys: PRNGKeyArray, on_epoch: OnEpoch | None = None
    ) -> Learned:
        """One step. `keys` are the run's, one per seed; `on_epoch` is called on the host with (epoch, mean loss)."""
        ...


class Method(Protocol):
    """A continual-learning method; a frozen dataclass, hashable, without arrays.

    The training of a step is one program for the whole stream, so it sees the *active* heads `{"a": head, "b": head}`,
    with `"c"` and so on in steps of more modalities, and a `state` of fixed shapes, never a modality's name. What must
    survive between steps is the `memory`, a pytree of fixed shapes, which only `before_step` and `after_step` see.
    These five functions are written for one seed and vmapped over seeds; `remembered_modalities` only says what the
    last of them gets to see, and `learner` who calls them.
    """

    @property
    def memory_per_seed(self) -> Any:
        """Whether the memory differs between seeds: a bool for all of it, or a tree of bools, a prefix of it.

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

    def init(self, heads: Heads, tuples: Sequence[tuple[str, ...]]) -> PyTree:
        """The memory before the first step of a stream whose steps have these modalities."""
        ...

    def before_step(self, memory: PyTree, heads: Heads, step: Step, rows: Int[Array, ""]) -> PyTree:
        """The state with which the training of a step of so many rows starts, such as a fresh optimizer's."""
        ...

    def gradient(self, state: PyTree, active: Heads, batch: Batch) -> tuple[Float[Array, ""], Heads]:
        """Loss and gradients of one batch."""
        ...

    def update(self, state: PyTree, gradients: Heads, active: Heads) -> tuple[Heads, PyTree]:
        """The active heads and the state after one update."""
        ...

    def after_step(self, memory: PyTree, heads: Heads, step: Step, features: StepFeatures) -> PyTree:
        """The memory after a step, given the heads it ended with and the features it trained on."""
        ...

    def remembered_modalities(self, step: Step, stream: Stream) -> tuple[str, ...]:
        """Of which modalities `after_step` gets the features: the step's own, but for the reference's columns."""
        ...

    def learner(self, stream: Stream, dtype: Any) -> Learner:
        """Who goes through the stream with this method: `train.StepByStep`, but for a method that is not continual."""
        ...


def active_heads(heads: Heads, step: Step) -> Heads:
    """The heads that a step trains, by their roles."""
    return {role: heads[modality] for role, modality in step.roles.items()}


def with_heads(heads: Heads, active: Heads, step: Step) -> Heads:
    """All heads, with those that the step trains replaced; the others are the same arrays."""
    return {**heads, **{modality: active[role] for role, modality in step.roles.items()}}
