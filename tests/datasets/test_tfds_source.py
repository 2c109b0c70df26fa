"""Datasets as tensorflow-datasets prepares them; but for the last test, prepared here without TensorFlow."""

import io
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

import extract_features
from feature_cache import datasets, encoders, open_cache
from feature_cache.datasets import tfds_source
from feature_cache.datasets.tfds_source import NyuDepthV2FromTfds, Ucf101FromTfds
from feature_cache.errors import MediaError, UnknownNameError, UserError
from feature_cache.manifest import ModalitySpec

pytest.importorskip("array_record")
pytest.importorskip("tensorflow_datasets")

CLASSES = ("YoYo", "ApplyEyeMakeup", "BabyCrawling")  # not sorted, to see that labels follow the names
UCF = "tfds/ucf101/ucf101_1/2.0.0"
NYU = "tfds/nyu_depth_v2/0.0.1"


def encoded(colour: int, format: str, size: tuple[int, int] = (16, 12)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (colour, colour, colour)).save(file, format=format)
    return file.getvalue()


def example(**features: Any) -> bytes:
    """A message: bytes, whole numbers or decimals by the type of the first value."""
    from tensorflow_datasets.proto import tf_example_pb2

    message = tf_example_pb2.Example()
    for name, values in features.items():
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(values[0])]
        getattr(message.features.feature[name], kind).value.extend(values)
    content: bytes = message.SerializeToString()
    return content


def write_prepared(folder: Path, splits: dict[str, Sequence[Sequence[bytes]]], **files: str) -> None:
    """A folder as tensorflow-datasets 4.9 writes it: `splits` has the records of each shard."""
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir(parents=True)
    name = folder.relative_to(next(parent for parent in folder.parents if parent.name == "tfds")).parts[0]
    entries = []
    for split, shards in splits.items():
        for number, records in enumerate(shards):
            path = folder / f"{name}-{split}.array_record-{number:05d}-of-{len(shards):05d}"
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for record in records:
                writer.write(record)
            writer.close()
        entries.append({"name": split, "shardLengths": [str(len(records)) for records in shards]})
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": "array_record", "splits": entries}))
    for file, content in files.items():
        (folder / file.replace("__", ".")).write_text(content)


def write_ucf101(root: Path) -> None:
    """Videos of 3 frames whose brightness is 10 × the number of the record + the number of the frame × 3."""

    def video(index: int) -> bytes:
        frames = [encoded(10 * index + 3 * frame, "JPEG") for frame in range(3)]
        return example(video=frames, label=[index % 3])

    records = [video(index) for index in range(8)]
    write_prepared(
        root / UCF, {"train": [records[:2], records[2:5]], "test": [records[5:]]}, label__labels__txt="\n".join(CLASSES)
    )


def write_nyu(root: Path) -> None:
    depths = [np.arange(12 * 16, dtype=np.float32) / 64 + index for index in range(3)]
    records = [
        example(image=[encoded(50 * index, "PNG")], depth=[float(value) for value in depth])
        for index, depth in enumerate(depths)
    ]
    shape = {"tensor": {"shape": {"dimensions": ["12", "16"]}}}
    features = json.dumps({"featuresDict": {"features": {"depth": shape}}})
    write_prepared(root / NYU, {"train": [records[:2]], "validation": [records[2:]]}, features__json=features)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    write_ucf101(tmp_path)
    write_nyu(tmp_path)
    return tmp_path


def test_labels_and_captions_are_those_of_the_files(prepared: Path) -> None:
    dataset = Ucf101FromTfds(prepared)
    assert [(c.name, c.text) for c in dataset.classes] == [
        ("ApplyEyeMakeup", "apply eye makeup"), ("BabyCrawling", "baby crawling"), ("YoYo", "yo yo"),
    ]  # fmt: skip
    train = dataset.items("train")
    assert [item.id for item in train] == [
        "ApplyEyeMakeup_00001", "ApplyEyeMakeup_00004", "BabyCrawling_00002", "YoYo_00000", "YoYo_00003",
    ]  # fmt: skip
    for item in [*train, *dataset.items("test")]:
        assert dataset.classes[item.label].text == item.caption == item.open("text")
        assert item.id.startswith(dataset.classes[item.label].name)
    assert len(dataset.items("test")) == 3 and not dataset.items("validation")


def test_each_item_opens_its_own_video_also_in_another_process(prepared: Path) -> None:
    for item in pickle.loads(pickle.dumps(Ucf101FromTfds(prepared).items("train"))):
        index = int(item.id.rpartition("_")[2])
        video = item.open("video")
        assert (len(video), video.rate) == (3, 25.0)
        for frame, picture in zip((0, 2, 2), video.pick([0, 2, 2]), strict=True):
            assert picture.mode == "RGB" and picture.size == (16, 12)
            assert np.abs(np.asarray(picture).astype(int) - (10 * index + 3 * frame)).max() <= 1


def test_depth_is_in_metres_and_infinite_where_there_is_none(prepared: Path) -> None:
    dataset = NyuDepthV2FromTfds(prepared)
    assert [item.id for item in dataset.items("train")] == ["train_00000", "train_00001"]
    first, test = dataset.items("train")[0], dataset.items("test")[0]
    depth = first.open("depth")
    assert depth.unit == 1.0 and depth.depth.shape == (12, 16) and depth.depth.dtype == np.float32
    assert depth.depth[0, 0] == np.inf and depth.depth[11, 15] == np.float32(191 / 64)
    assert test.id == "validation_00000" and test.open("depth").depth[0, 0] == 2.0
    assert np.asarray(test.open("vision")).tolist() == np.full((12, 16, 3), 100).tolist()


def test_labels_are_read_from_the_records_once(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [item.id for item in Ucf101FromTfds(prepared).items("train")]
    monkeypatch.setattr(tfds_source.Records, "in_order", lambda self: pytest.fail("read again"))
    assert [item.id for item in Ucf101FromTfds(prepared).items("train")] == first
    monkeypatch.undo()
    (prepared / UCF / ".labels-train.json").write_text("[1, ")
    assert [item.id for item in Ucf101FromTfds(prepared).items("train")] == first


def test_what_is_not_prepared_is_an_error_with_the_command(tmp_path: Path) -> None:
    for dataset in (Ucf101FromTfds, NyuDepthV2FromTfds):
        with pytest.raises(MediaError, match=rf"download --dataset={dataset.name} --source=tfds") as error:
            dataset(tmp_path)
        assert "pip install 'cmcl-jax[tensorflow]'" in str(error.value)


def test_missing_files_and_another_format_are_errors(prepared: Path) -> None:
    next((prepared / UCF).glob("*train*-00001-of-*")).unlink()
    with pytest.raises(MediaError, match="should have 2 files of train, but 1 are there"):
        Ucf101FromTfds(prepared)
    (prepared / NYU / "dataset_info.json").write_text(json.dumps({"fileFormat": "tfrecord"}))
    with pytest.raises(MediaError, match="'tfrecord', which can only be read in its order"):
        NyuDepthV2FromTfds(prepared)


def test_the_source_is_chosen_by_the_flag_and_seen_in_the_version() -> None:
    for name in datasets.TFDS:
        files, tfds = datasets.find(name), datasets.find(name, "tfds")
        assert files.name == tfds.name == name and tfds.version != files.version and tfds.version.endswith("+tfds")
    with pytest.raises(UnknownNameError, match=r"no dataset with --source=tfds 'esc50'.*nyudv2, ucf101"):
        datasets.find("esc50", "tfds")


def test_extraction_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--encoder=pocketbind", f"--data_root={tmp_path}", f"--cache_dir={tmp_path}", "--source=tfds"]
    assert extract_features.main([*flags, "--dataset=ucf101"]) == 1
    said = capsys.readouterr().err
    assert "--source=tfds --data_root" in said
    assert "Traceback" not in said


class Shade:
    """An encoder for text and video: how bright the last frame is."""

    name, preprocessing_version = "shade", "1"
    modalities: ClassVar = {"text": ModalitySpec(2), "video": ModalitySpec(2)}
    precisions = ("float32",)

    def __init__(self, device: str = "cpu", precision: str = "float32", weights: Path | None = None) -> None:
        self.precision = precision

    def weights_sha256(self) -> str:
        return "cd" * 32

    def preprocess(self, modality: str, raw: Any) -> np.ndarray:
        if modality == "text":
            return np.array([len(raw), 1.0])
        (last,) = raw.pick([len(raw) - 1])
        return np.array([float(np.asarray(last).mean()), len(raw)])

    def embed(self, modality: str, batch: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(batch).astype(np.float32)


def test_extraction_from_it_gives_the_datasets_cache(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(encoders.REGISTRY, "shade", "tests.datasets.test_tfds_source:Shade")
    flags = ["--encoder=shade", f"--data_root={prepared}", f"--cache_dir={prepared}", "--dtype=float32"]
    assert extract_features.main([*flags, "--dataset=ucf101", "--source=tfds"]) == 0
    cache = open_cache(prepared / "shade/ucf101")
    assert cache.manifest.dataset_version == "1+tfds"
    for name, (shade, count) in zip(cache.ids("train"), cache.features("train", "video").tolist(), strict=True):
        assert abs(shade - (10 * int(name.rpartition("_")[2]) + 6)) <= 1 and count == 3


def test_preparing_without_tensorflow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package tensorflow.*pip install 'cmcl-jax\[tensorflow\]'"):
        tfds_source.prepare("ucf101", tmp_path)


def test_reading_needs_no_tensorflow(prepared: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom feature_cache.datasets.tfds_source import Ucf101FromTfds as U\n"
        f"u = U(Path({str(prepared)!r})); u.items('test')[0].open('video').pick([1])\n"
        "print(sorted({'tensorflow', 'torch', 'jax'} & set(sys.modules)))"
    )
    repository = Path(extract_features.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_tensorflow_datasets_itself_writes_is_read(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    import tensorflow_datasets as tfds

    shades = {f"v_{index}": 20 * index for index in range(7)}

    with tfds.core.registered.skip_registration():

        class Ucf101(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc, unused-ignore]
            VERSION = tfds.core.Version("2.0.0")
            BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="ucf101_1"),)

            def _info(self) -> Any:
                video = tfds.features.Video((None, None, None, 3), encoding_format="jpeg")
                label = tfds.features.ClassLabel(names=list(CLASSES))
                features = tfds.features.FeaturesDict({"video": video, "label": label})
                return tfds.core.DatasetInfo(builder=self, features=features)

            def _split_generators(self, dl_manager: Any) -> Any:
                return {"train": self._generate_examples(), "test": self._generate_examples()}

            def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
                for number, (key, shade) in enumerate(shades.items()):
                    yield key, {"video": np.full((4, 24, 32, 3), shade, np.uint8), "label": number % 3}

    Ucf101(data_dir=tmp_path / "tfds", config="ucf101_1", file_format="array_record").download_and_prepare()
    dataset = Ucf101FromTfds(tmp_path)
    seen = {}
    for item in dataset.items("train"):
        (picture,) = item.open("video").pick([3])
        seen[round(float(np.asarray(picture).mean()) / 20)] = dataset.classes[item.label].name
    assert seen == {number: CLASSES[number % 3] for number in range(7)}
