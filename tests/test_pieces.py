"""How a step is cut into pieces, by a clock that only training moves."""

import numpy as np
import pytest

from cmcl_jax.methods.base import InStep
from cmcl_jax.pieces import Pace, StepInPieces

ROWS = 100


def with_ones(losses: np.ndarray, epochs: slice) -> np.ndarray:
    losses = np.array(losses)
    losses[:, epochs] = 1.0
    return losses


class Training:
    """Trains epochs of so many seconds; notes pieces and checkpoints."""

    def __init__(self, minutes: float | None, seconds: float, watched: bool = False) -> None:
        self.time, self.seconds = 0.0, seconds
        self.pace = Pace(minutes, watched, lambda: self.time)
        self.told: list[tuple[tuple[int, int], float]] = []
        self.pieces: list[tuple[int, int]] = []
        self.saved: list[tuple[int, float]] = []

    def train(self, in_step: InStep, epochs: tuple[int, int]) -> InStep:
        self.pieces.append(epochs)
        self.time += self.seconds * (epochs[1] - epochs[0])
        return in_step._replace(losses=with_ones(in_step.losses, slice(*epochs)))

    def save(self, done: int, in_step: InStep) -> None:
        assert in_step.losses.tolist() == [[1.0] * done + [0.0] * (in_step.losses.shape[1] - done)]
        self.saved.append((done, self.time))
        self.pace.saved()

    def step(self, epochs: int, rows: int = ROWS, done: int = 0) -> list[tuple[int, int]]:
        """The pieces of a step."""
        self.pieces = []
        begun = InStep({}, {}, np.zeros((1, epochs)))

        def restore(like: InStep) -> InStep:
            assert like is begun and done
            return like._replace(losses=with_ones(like.losses, slice(0, done)))

        def tell(epochs: tuple[int, int], losses: np.ndarray) -> None:
            self.told.append((epochs, losses.sum()))

        ended = StepInPieces(self.pace, rows, epochs, done, restore, self.save, tell)(begun, self.train)
        assert ended.losses.tolist() == [[1.0] * epochs]
        return self.pieces


def test_short_steps_are_one_piece_but_for_the_first_whose_speed_is_unknown() -> None:
    training = Training(minutes=10, seconds=2.0)
    assert training.step(epochs=5) == [(0, 1), (1, 5)]
    assert training.step(epochs=5) == training.step(epochs=5) == [(0, 5)]
    assert training.saved == []


def test_who_watches_is_told_about_every_other_second_after_whole_epochs() -> None:
    training = Training(minutes=None, seconds=0.7, watched=True)
    assert training.step(epochs=8) == [(0, 1), (1, 4), (4, 7), (7, 8)]
    assert training.told == [((0, 1), 1.0), ((1, 4), 4.0), ((4, 7), 7.0), ((7, 8), 8.0)]
    assert training.saved == []


def test_without_a_time_every_step_is_one_piece() -> None:
    training = Training(minutes=None, seconds=1e6)
    assert training.step(epochs=5) == training.step(epochs=5) == [(0, 5)]
    assert training.saved == []


def test_with_no_time_between_them_every_epoch_is_saved_but_the_last_which_ends_the_step() -> None:
    training = Training(minutes=0, seconds=1.0)
    assert training.step(epochs=4) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert training.saved == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_long_steps_are_saved_about_as_often_as_asked() -> None:
    training = Training(minutes=1, seconds=7.0)
    pieces = training.step(epochs=40)
    assert pieces == [(0, 1), (1, 9), (9, 18), (18, 27), (27, 36), (36, 40)]
    times = [0.0] + [time for _, time in training.saved]
    assert all(60 <= after - before <= 67 for before, after in zip(times, times[1:], strict=False))
    assert len(training.saved) == 4


def test_the_speed_of_a_step_foretells_that_of_one_with_more_rows() -> None:
    training = Training(minutes=1, seconds=1.0)
    training.step(epochs=10)
    training.pace.saved()
    training.seconds = 20.0
    assert training.step(epochs=4, rows=20 * ROWS)[0] == (0, 3)


@pytest.mark.parametrize("minutes", [None, 0, 10])
def test_a_step_goes_on_after_the_epochs_that_are_done(minutes: float | None) -> None:
    training = Training(minutes, seconds=1.0)
    pieces = training.step(epochs=4, done=2)
    assert pieces == [(2, 4)] if minutes is None else [(2, 3), (3, 4)]
    assert training.saved == ([(3, 1.0)] if minutes == 0 else [])
