from pathlib import Path

import numpy as np
import pytest

from feature_cache.datasets.pocket.exercises import EXERCISES, Exercises
from feature_cache.datasets.pocket.numpy_pickle import read_object_array
from feature_cache.errors import MediaError
from feature_cache.manifest import SPLITS
from tests.datasets.tiny_media import exercises_file, write_exercises


def test_no_person_is_in_two_splits(tiny_media: Path) -> None:
    dataset = Exercises(tiny_media)
    people = {split: {item.id.partition("-")[0] for item in dataset.items(split)} for split in SPLITS}
    assert {split: len(people[split]) for split in SPLITS} == {"train": 6, "validation": 1, "test": 3}
    assert len(set.union(*people.values())) == 10


def test_windows_last_four_seconds_and_do_not_overlap(tiny_media: Path) -> None:
    first, second = (item.open("imu") for item in Exercises(tiny_media).items("train")[:2])
    assert (first.rate, first.samples.shape, first.samples.dtype) == (50, (200, 6), np.float32)
    np.testing.assert_allclose(first.samples[:, 3], np.arange(200) / 1000, rtol=1e-6)
    np.testing.assert_allclose(second.samples[:, 0], np.arange(200, 400) / 1000, rtol=1e-6)


def test_the_rest_of_a_recording_that_fills_no_window_is_left_out(tiny_media: Path) -> None:
    dataset = Exercises(tiny_media)
    assert sum(len(dataset.items(split)) for split in SPLITS) == 20 * 2  # recordings of 9 s


def test_the_caption_is_the_exercise(tiny_media: Path) -> None:
    for item in Exercises(tiny_media).items("test"):
        assert EXERCISES[item.id.split("-")[1]] == item.caption


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"nothing that numpy wrote"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, damage: bytes) -> None:
    write_exercises(tmp_path)
    exercises_file(tmp_path).write_bytes(damage)
    with pytest.raises(MediaError, match=r"watch_dataset.npy is not the recordings .*delete .*seglearn and run"):
        Exercises(tmp_path)


def test_an_exercise_that_is_unknown_is_an_error(tmp_path: Path) -> None:
    write_exercises(tmp_path)
    content = read_object_array(exercises_file(tmp_path))
    content["y_labels"][0] = "SQUAT"
    np.save(exercises_file(tmp_path), np.array(content, dtype=object), allow_pickle=True)
    with pytest.raises(MediaError, match="SQUAT"):
        Exercises(tmp_path)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run by the pickle",)


def test_a_pickle_that_would_run_something_is_refused_and_does_not_run_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", np.array({"x": Harmful()}, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"asks for builtins.print"):
        read_object_array(tmp_path / "a.npy")
    assert "run by the pickle" not in capsys.readouterr().out


def test_a_file_cut_off_in_the_middle_is_a_value_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array({"x": np.arange(1000)}, dtype=object), allow_pickle=True)
    data = (tmp_path / "a.npy").read_bytes()
    for length in (130, len(data) // 2, len(data) - 1):
        (tmp_path / "a.npy").write_bytes(data[:length])
        with pytest.raises(ValueError, match="cut off or damaged"):
            read_object_array(tmp_path / "a.npy")


def test_an_ordinary_array_is_not_taken_for_an_object(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(ValueError, match="instead of one object"):
        read_object_array(tmp_path / "a.npy")
