"""A step trained in pieces, so that long ones can be saved inside: when to save, and how to go on from there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
from jaxtyping import Array

from cmcl_jax.methods.base import InStep, TrainEpochs

TOLD_EVERY = 2.0
"""Seconds between two looks at a progress bar. Each costs rotated features once more, so not too few."""


class Pace:
    """How many epochs may be trained before the host has something to do: write a checkpoint, or tell how far it is.

    A piece is a program that does not turn to the host, so its length is chosen before it starts: as many epochs as
    fill the time left, going by what a row took in the piece before. Only the first one, of which nothing is known, is
    a single epoch. Where steps are short, each is thus one piece.

    Args:
        minutes: between two checkpoints; 0: after every epoch, None: never within a step.
        watched: whether somebody wants to be told every few seconds.
        now: a clock, in seconds.
    """

    def __init__(self, minutes: float | None, watched: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        self._between = None if minutes is None else 60 * minutes
        self._watched = watched
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
        if not self._limited:
            return at_most
        if not self._seconds_per_row:
            return 1
        left = [TOLD_EVERY] if self._watched else []
        left += [] if self._between is None else [self._left(self._between)]
        return max(1, math.ceil(min(at_most, min(left) / (self._seconds_per_row * rows))))

    def train(self, train: TrainEpochs, in_step: InStep, epochs: tuple[int, int], rows: int) -> InStep:
        """Trains a piece, and waits for its end if the time matters."""
        started = self._now()
        in_step = train(in_step, epochs)
        if self._limited:
            jax.block_until_ready(in_step)
            self._seconds_per_row = (self._now() - started) / (rows * (epochs[1] - epochs[0]))
        return in_step

    @property
    def _limited(self) -> bool:
        return self._watched or self._between is not None

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
        tell: says what was trained, given the epochs of a piece and the step's losses so far; None: nobody.
    """

    pace: Pace
    rows: int
    epochs: int
    done: int
    restore: Callable[[InStep], InStep]
    save: Callable[[int, InStep], None]
    tell: Callable[[tuple[int, int], Array], None] | None = None

    def __call__(self, in_step: InStep, train: TrainEpochs) -> InStep:
        done = self.done
        if done:
            in_step = self.restore(in_step)
        while done < self.epochs:
            last = done + self.pace.epochs(self.rows, at_most=self.epochs - done)
            in_step = self.pace.train(train, in_step, (done, last), self.rows)
            if self.tell is not None:
                self.tell((done, last), in_step.losses)
            done = last
            if done < self.epochs and self.pace.is_due:
                self.save(done, in_step)
        return in_step
