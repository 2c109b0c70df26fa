import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from feature_cache.datasets.nyudv2 import NyuDepthV2
from feature_cache.sources.nyu_depth import convert, millimetres, write_frame
from feature_cache.sources.unpack import UnpackError
from tests.sources.archives import nyu_frame, tar_of


def nothing(done: int, total: int) -> None:
    pass


def archives(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Two archives in the folder; the pictures and depths by split, scene and frame."""
    made: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    content: dict[str, dict[str, bytes]] = {}
    frames = [
        ("train", "basement_0001a/00001"), ("train", "basement_0001a/00021"), ("train", "kitchen_0028b/00003"),
        ("val", "official/00001"), ("val", "official/00002"),
    ]  # fmt: skip
    for seed, (split, path) in enumerate(frames):
        data, rgb, depth = nyu_frame(seed)
        made[f"{split}/{path}"] = rgb, depth
        content.setdefault(split, {})[f"{split}/{path}.h5"] = data
    for split, files in content.items():
        (folder / f"{split}-000000.tar").write_bytes(tar_of(files))
    return made


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_pictures_are_exact_and_depth_is_within_half_a_millimetre(tmp_path: Path, workers: int) -> None:
    made = archives(tmp_path)
    for archive in sorted(tmp_path.glob("*.tar")):
        convert(archive, tmp_path / "nyu-d-2", nothing, workers)
    found = sorted(path.parent.relative_to(tmp_path / "nyu-d-2/raw_data") for path in tmp_path.rglob("rgb.png"))
    assert [str(path) for path in found] == sorted(made)
    for name, (rgb, depth) in made.items():
        folder = tmp_path / "nyu-d-2/raw_data" / name
        with Image.open(folder / "rgb.png") as picture:
            assert np.array_equal(np.asarray(picture), rgb.transpose(1, 2, 0))
        with Image.open(folder / "depth.png") as picture:
            assert picture.mode.startswith("I")
            metres = np.asarray(picture).astype(np.float64) / 1000
        assert np.abs(metres - depth.astype(np.float64)).max() <= 0.0005 + 1e-9


def test_the_reader_opens_what_was_converted(tmp_path: Path) -> None:
    made = archives(tmp_path)
    for archive in sorted(tmp_path.glob("*.tar")):
        convert(archive, tmp_path / "nyu-d-2", nothing, 0)
    dataset = NyuDepthV2(tmp_path)
    assert [item.id for item in dataset.items("test")] == ["official_00001", "official_00002"]
    train = dataset.items("train")
    assert [item.caption for item in train] == ["basement", "basement", "kitchen"]
    _, depth = made["train/basement_0001a/00001"]
    assert np.abs(train[0].open("depth").depth - depth).max() <= 0.001
    assert train[0].open("vision").size == (16, 12)


def test_what_is_no_depth_becomes_0_and_what_is_too_deep_saturates() -> None:
    depth = np.array([[0.0, -1.0, np.nan, np.inf], [-np.inf, 65.5346, 65.535, 1000.0], [0.0004, 0.0006, 1.0, 9.9996]])
    expected = [[0, 0, 0, 0], [0, 65535, 65535, 65535], [0, 1, 1000, 10000]]
    for dtype in (np.float64, np.float32):
        assert millimetres(depth.astype(dtype)).tolist() == expected
    assert millimetres(np.array([[1.5]], np.float16)).tolist() == [[1500]]


def test_half_converted_frames_are_finished_and_whole_ones_are_left_alone(tmp_path: Path) -> None:
    archives(tmp_path)
    root = tmp_path / "nyu-d-2/raw_data"

    class Killed(BaseException):
        pass

    def die(done: int, total: int) -> None:
        if len(list(root.rglob("depth.png"))) == 2:
            raise Killed

    with pytest.raises(Killed):
        convert(tmp_path / "train-000000.tar", tmp_path / "nyu-d-2", die, 0)
    whole = sorted(root.rglob("depth.png"))
    assert len(whole) == 2
    (whole[0].parent / "rgb.png").unlink()  # as after a kill between the two pictures
    (whole[1].parent / ".depth.png.part").write_bytes(b"half")
    kept = (whole[1].parent / "rgb.png").stat().st_mtime_ns
    convert(tmp_path / "train-000000.tar", tmp_path / "nyu-d-2", nothing, 0)
    assert len(list(root.rglob("rgb.png"))) == len(list(root.rglob("depth.png"))) == 3
    assert (whole[1].parent / "rgb.png").stat().st_mtime_ns == kept
    for path in root.rglob("*.png"):
        with Image.open(path) as picture:
            picture.load()


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-000000.tar").write_bytes(tar_of({"train/attic_0001/00001.h5": b"not HDF5"}))
    with pytest.raises(UnpackError, match="attic_0001/00001 is damaged"):
        convert(tmp_path / "train-000000.tar", tmp_path, nothing, 0)
    (tmp_path / "train-000000.tar").write_bytes(tar_of({"00001.h5": nyu_frame(0)[0]}))
    with pytest.raises(UnpackError, match=r"should be named <scene>/<frame>\.h5"):
        convert(tmp_path / "train-000000.tar", tmp_path, nothing, 0)
    (tmp_path / "train-000000.tar").write_bytes(tar_of({"train/../00001.h5": nyu_frame(0)[0]}))
    with pytest.raises(UnpackError, match=r"should be named <scene>/<frame>\.h5"):
        convert(tmp_path / "train-000000.tar", tmp_path, nothing, 0)
    content = nyu_frame(0)[0] * 20
    (tmp_path / "train-000000.tar").write_bytes(tar_of({"train/attic_0001/00001.h5": content})[: len(content) // 2])
    with pytest.raises(UnpackError, match="delete it and give the same command again"):
        convert(tmp_path / "train-000000.tar", tmp_path, nothing, 0)
    assert not list(tmp_path.rglob("*.png"))


def test_pictures_of_another_shape_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["rgb"], file["depth"] = np.zeros((12, 16, 3), np.uint8), np.ones((12, 16), np.float32)
    with pytest.raises(UnpackError, match=r"should have rgb, uint8 \[3, h, w\]"):
        write_frame(buffer.getvalue(), tmp_path)
