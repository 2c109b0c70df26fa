"""A step trained in pieces, so that long ones can be saved inside: when to save, and how to go on from there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax

from cmcl_jax.methods.base import InStep, TrainEpochs


class Pace:
    """How many epochs may be trained before the next checkpoint is due.

    A piece is a program that does not turn to the host, so its length is chosen before it starts: as many epochs as
    fill the time left, going by what a row took in the piece before. Only the first one, of which nothing is known, is
    a single epoch. Where steps are short, each is thus one piece.

    Args:
        minutes: between two checkpoints; 0: after every epoch, None: never within a step.
        now: a clock, in seconds.
    """

    def __init__(self, minutes: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self._between = None if minutes is None else 60 * minutes
        self._now, self._saved_at = now, now()
        self._seconds_per_row: float | None = None

    def saved(self) -> None:
        """A checkpoint was written just now."""
        self._saved_at = self._now()

    @property
    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self._between is not None and self._left(self._between) <= 0

    def epochs(self, rows: int, at_most: int) -> int:
        """How many epochs of so many rows the next piece should have: at least one."""
        if self._between is None:
            return at_most
        if not self._seconds_per_row:
            return 1
        return max(1, math.ceil(min(at_most, self._left(self._between) / (self._seconds_per_row * rows))))

    def train(self, train: TrainEpochs, in_step: InStep, epochs: tuple[int, int], rows: int) -> InStep:
        """Trains a piece, and waits for its end if the time matters."""
        started = self._now()
        in_step = train(in_step, epochs)
        if self._between is not None:
            jax.block_until_ready(in_step)
            self._seconds_per_row = (self._now() - started) / (rows * (epochs[1] - epochs[0]))
        return in_step

    def _left(self, between: float) -> float:
        return self._saved_at + between - self._now()


@dataclass(frozen=True)
class StepInPieces:
    """Trains the epochs of one step piece by piece, and saves where a checkpoint is due: an `InPieces`.

    Attributes:
        pace: when one is due.
        rows: of the step.
        epochs: of the step.
        done: how many of them an earlier process trained.
        restore: given where the step began, where that process left it.
        save: writes a checkpoint, given the epochs done and where the step is.
    """

    pace: Pace
    rows: int
    epochs: int
    done: int
    restore: Callable[[InStep], InStep]
    save: Callable[[int, InStep], None]

    def __call__(self, in_step: InStep, train: TrainEpochs) -> InStep:
        done = self.done
        if done:
            in_step = self.restore(in_step)
        while done < self.epochs:
            last = done + self.pace.epochs(self.rows, at_most=self.epochs - done)
            in_step = self.pace.train(train, in_step, (done, last), self.rows)
            done = last
            if done < self.epochs and self.pace.is_due:
                self.save(done, in_step)
        return in_step
