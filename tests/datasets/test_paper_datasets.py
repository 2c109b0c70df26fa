"""What every one of the paper's datasets promises."""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.paper import STEPS
from feature_cache.datasets import GROUPS, PAPER, POCKET, REGISTRY
from feature_cache.datasets.base import Dataset, DepthMap, Item, Raw, Video, Waveform
from feature_cache.errors import MediaError, UnknownNameError
from feature_cache.manifest import MODALITY_ORDER, SPLITS
from feature_cache.registry import resolve
from feature_cache.synthetic.shapes import SHAPES
from tests.raw_datasets import ITEMS, VGG_ROOT, write_raw_datasets

TYPES = {
    "vision": Image.Image, "text": str, "audio": Waveform, "depth": DepthMap, "video": Video, "thermal": Image.Image,
    "tactile": Image.Image,
}  # fmt: skip
FOLDERS = {
    "ucf101": "ucf101/UCF101", "esc50": "esc50/data", "nyudv2": "nyu-d-2/raw_data", "clotho": "clotho",
    "vggsound_s": "vggsound", "tvl": "tvl/tvl_dataset", "llvip": "llvip/LLVIP",
}  # fmt: skip
CLASSIFIED = ("ucf101", "esc50", "nyudv2", "vggsound_s")


def load(name: str, data_root: Path) -> Dataset:
    dataset: Dataset = resolve(REGISTRY, "dataset", name)(data_root)
    return dataset


@pytest.fixture(params=PAPER)
def dataset(request: pytest.FixtureRequest, raw_media: Path) -> Dataset:
    return load(request.param, raw_media)


def all_items(dataset: Dataset) -> list[Item]:
    return [item for split in SPLITS for item in dataset.items(split)]


def digest(medium: Raw) -> str:
    """A hash of what is seen or heard."""
    parts: list[object]
    match medium:
        case Waveform():
            parts = [medium.rate, medium.samples.tobytes()]
        case DepthMap():
            parts = [medium.unit, medium.depth.tobytes()]
        case Video():
            parts = [medium.rate, *(frame.tobytes() for frame in medium.pick(range(len(medium))))]
        case Image.Image():
            parts = [medium.mode, medium.size, medium.tobytes()]
        case _:
            parts = [medium]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def test_the_group_is_in_the_order_of_the_stream_and_pocket_is_what_it_was() -> None:
    assert tuple(dict.fromkeys(step[0] for step in STEPS)) == PAPER == GROUPS["paper"]
    assert len(POCKET) == 8 and not set(POCKET) & set(PAPER) and set(POCKET) | set(PAPER) <= set(REGISTRY)


def test_it_has_the_modalities_and_classes_of_its_steps(dataset: Dataset) -> None:
    steps = [step for step in STEPS if step[0] == dataset.name]
    assert {modality for _, pair, _ in steps for modality in pair} <= set(dataset.modalities)
    assert bool(dataset.classes) == bool(SHAPES[dataset.name].classes)
    assert dataset.classes or not any("accuracy" in metrics for _, _, metrics in steps)
    assert dataset.modalities == SHAPES[dataset.name].modalities
    assert not dataset.open_classes and not dataset.synthetic
    assert all(source.license and source.url.startswith("https://") for source in dataset.sources)


def test_its_name_is_its_key(dataset: Dataset) -> None:
    assert resolve(REGISTRY, "dataset", dataset.name) is type(dataset)
    assert type(dataset).version == ("2" if dataset.name == "nyudv2" else "1")


def test_splits_are_sorted_unique_and_the_same_every_time(dataset: Dataset, raw_media: Path) -> None:
    again = load(dataset.name, raw_media)
    for split in SPLITS:
        ids = [item.id for item in dataset.items(split)]
        assert ids == sorted(set(ids)) == [item.id for item in again.items(split)]
        assert len(ids) == 0 if split == "validation" else len(ids) >= ITEMS


def test_every_item_opens_in_every_modality_and_these_are_in_storage_order(dataset: Dataset) -> None:
    assert list(dataset.modalities) == [modality for modality in MODALITY_ORDER if modality in dataset.modalities]
    for item in all_items(dataset):
        assert set(item.media) | {"text"} == set(dataset.modalities) | {"text"}
        for modality in dataset.modalities:
            assert isinstance(item.open(modality), TYPES[modality])


def test_no_two_items_of_a_split_look_or_sound_the_same(dataset: Dataset) -> None:
    for split in ("train", "test"):
        for modality in set(dataset.modalities) - {"text"}:
            seen = [digest(item.open(modality)) for item in dataset.items(split)]
            assert len(set(seen)) == len(seen)


def test_labels_count_the_sorted_classes_whose_texts_are_the_captions(dataset: Dataset) -> None:
    names = [label.name for label in dataset.classes]
    assert names == sorted(set(names))
    if dataset.name not in CLASSIFIED:
        assert not names and {item.label for item in all_items(dataset)} == {-1}
        return
    for item in all_items(dataset):
        assert item.caption == dataset.classes[item.label].text and item.label >= 0
    found = {split: {names[item.label] for item in dataset.items(split)} for split in ("train", "test")}
    if dataset.name == "nyudv2":  # the published layout does not tell the scenes of the test frames
        assert found["test"] == {"official"} and found["train"] == {*names} - found["test"]
    else:
        assert len(names) == 3 and found["train"] == found["test"] == {*names}


def test_the_order_in_which_folders_are_listed_does_not_matter(
    dataset: Dataset, raw_media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = os.scandir, 0

    @contextlib.contextmanager
    def backwards(folder: Path) -> Iterator[list["os.DirEntry[str]"]]:
        nonlocal calls
        calls += 1
        with plain(folder) as entries:
            yield sorted(entries, key=lambda entry: entry.name, reverse=True)

    monkeypatch.setattr("feature_cache.datasets.published.os.scandir", backwards)
    again = load(dataset.name, raw_media)
    assert calls or dataset.name == "tvl"  # TVL has tables only
    assert again.classes == dataset.classes
    for split in SPLITS:
        ours, theirs = dataset.items(split), again.items(split)
        assert [(i.id, i.caption, i.label) for i in ours] == [(i.id, i.caption, i.label) for i in theirs]
        assert [repr(item.media) for item in ours] == [repr(item.media) for item in theirs]


def test_items_are_small_when_pickled(dataset: Dataset) -> None:
    assert max(len(pickle.dumps(item)) for item in all_items(dataset)) < 1500


def test_items_open_the_same_in_another_process(raw_media: Path, tmp_path: Path) -> None:
    datasets = [load(name, raw_media) for name in PAPER]
    items = [(item, m) for dataset in datasets for item in dataset.items("test")[:2] for m in dataset.modalities]
    (tmp_path / "items.pickle").write_bytes(pickle.dumps(items))
    code = (
        "import json, pickle, sys; from pathlib import Path;"
        "from tests.datasets.test_paper_datasets import digest;"
        "items = pickle.loads(Path(sys.argv[1]).read_bytes());"
        "print(json.dumps([digest(item.open(modality)) for item, modality in items]));"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "items.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [digest(item.open(modality)) for item, modality in items]


def test_without_media_the_error_says_what_is_expected_and_what_to_run(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        type(dataset)(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"The media of the dataset '{dataset.name}' are not in '{tmp_path}': ")
    assert "is missing" in said and "--data_root" in said
    for command in ("describe", "download"):
        assert f"`python extract_features.py {command} --dataset={dataset.name}`" in said
    assert f"Expected there: {FOLDERS[dataset.name]}/" in said


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("ucf101", "ucf101/UCF101/train"),
        ("ucf101", "ucf101/UCF101/val"),
        ("esc50", "esc50/data"),
        ("nyudv2", "nyu-d-2/raw_data/val"),
        ("clotho", "clotho/clotho_captions_evaluation.csv"),
        ("clotho", "clotho/evaluation"),
        ("vggsound_s", "vggsound/vggsound.csv"),
        ("vggsound_s", f"{VGG_ROOT}/video"),
        ("tvl", "tvl/tvl_dataset/hct/data2/train.csv"),
        ("llvip", "llvip/LLVIP/infrared/test"),
    ],
)
def test_the_folder_or_file_that_is_missing_is_named(name: str, gone: str, raw_media: Path, tmp_path: Path) -> None:
    first = gone.partition("/")[0]
    shutil.copytree(raw_media / first, tmp_path / first)
    path = tmp_path / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(MediaError, match="is missing") as caught:
        load(name, tmp_path)
    assert str(path) in str(caught.value)


def test_a_split_that_is_none_is_an_error(dataset: Dataset) -> None:
    with pytest.raises(UnknownNameError, match="There is no split 'val'"):
        dataset.items("val")


def test_importing_them_loads_no_decoder() -> None:
    modules = ", ".join(REGISTRY[name].partition(":")[0] for name in PAPER)
    heavy = "{'torch', 'jax', 'av', 'soundfile', 'PIL', 'scipy', 'pandas'}"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_raw_media_are_small_and_as_many_as_asked_for(raw_media: Path, tmp_path: Path) -> None:
    assert sum(path.stat().st_size for path in raw_media.rglob("*") if path.is_file()) < 3_000_000
    write_raw_datasets(tmp_path, seed=1, items_per_split=5)
    for name in PAPER:
        for split in ("train", "test"):
            assert len(load(name, tmp_path).items(split)) >= 5
    with pytest.raises(ValueError, match="at least 3 items"):
        write_raw_datasets(tmp_path, items_per_split=2)


def test_raw_media_of_another_seed_are_others(raw_media: Path, tmp_path: Path) -> None:
    write_raw_datasets(tmp_path, seed=100)
    ours, others = load("llvip", raw_media).items("train")[0], load("llvip", tmp_path).items("train")[0]
    assert ours.id == others.id
    assert not np.array_equal(np.asarray(ours.open("vision")), np.asarray(others.open("vision")))
