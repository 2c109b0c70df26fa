"""Shoulder exercises as a smartwatch feels them: inertial recordings of ten people, split by person.

Burns, Leung, Hardisty, Whyne, Henry & McLachlin, "Shoulder physiotherapy exercise recognition: machine learning the
inertial signals from a smartwatch", Physiological Measurement 2018, arXiv:1802.01489. The recordings come inside the
authors' package seglearn.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from feature_cache.datasets.base import Item, Motion
from feature_cache.datasets.pocket.archives import archive_named, damaged, unpacked
from feature_cache.datasets.pocket.numpy_pickle import read_object_array
from feature_cache.datasets.splits import by_id, members
from feature_cache.manifest import ClassLabel, MediaSource

RATE = 50
SECONDS = 4
"""Of a window; the windows of a recording do not overlap."""
PEOPLE = {"train": (1, 2, 3, 4, 5, 6), "validation": (7,), "test": (8, 9, 10)}
EXERCISES = {
    "PEN": "swinging the arm like a pendulum",
    "ABD": "raising the arm to the side",
    "FEL": "raising the arm to the front",
    "IR": "rotating the forearm inwards",
    "ER": "rotating the forearm outwards",
    "TRAP": "pulling back to train the trapezius",
    "ROW": "rowing upright",
}
"""The recordings' labels, and what a person would call the exercises."""


class Exercises:
    """About 1,200 windows of 4 s from 140 recordings: 10 people, 7 exercises, left and right arm."""

    name = "exercises"
    version = "1"
    modalities = ("text", "imu")
    classes = tuple(ClassLabel(name, text) for name, text in EXERCISES.items())
    open_classes: tuple[ClassLabel, ...] = ()
    sources = (
        MediaSource(
            "Smartwatch data by David Burns (PyPI seglearn)", "1.2.5", "BSD-3-Clause", archive_named("seglearn").url
        ),
    )
    synthetic = False

    def __init__(self, data_root: Path) -> None:
        path = unpacked(data_root, "seglearn") / "seglearn" / "data" / "watch_dataset.npy"
        try:
            recordings = read_object_array(path)
            names, labels = list(recordings["y_labels"]), recordings["y"]
            self._splits = {
                split: by_id(
                    item
                    for number, person in enumerate(recordings["subject"])
                    if person in people
                    for item in _windows(recordings["X"][number], int(person), names[int(labels[number])], number)
                )
                for split, people in PEOPLE.items()
            }
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise damaged(path, f"is not the recordings of the exercises ({error!r})") from error

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def _windows(recording: Float[np.ndarray, "t 6"], person: int, exercise: str, number: int) -> list[Item]:
    length = SECONDS * RATE
    label = list(EXERCISES).index(exercise)
    return [
        Item(
            f"person{person:02d}-{exercise}-{number:03d}-{start // length:02d}",
            EXERCISES[exercise],
            label,
            media={"imu": partial(_motion, recording[start : start + length])},
        )
        for start in range(0, len(recording) - length + 1, length)
    ]


def _motion(window: Float[np.ndarray, "t 6"]) -> Motion:
    return Motion(np.asarray(window, np.float32), RATE)
