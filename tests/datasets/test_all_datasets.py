"""What every dataset of the pocket suite promises."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feature_cache.datasets import POCKET, REGISTRY
from feature_cache.datasets.base import Clip, Dataset, DepthMap, Item, Motion, Waveform
from feature_cache.errors import MediaError, UnknownNameError
from feature_cache.manifest import MODALITY_ORDER, SPLITS
from feature_cache.registry import resolve
from tests.datasets.tiny_media import need_synthesizer

PERMISSIVE = {"MIT", "Apache-2.0", "BSD-3-Clause", "CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US", "CC-BY-4.0"}
TYPES = {
    "vision": Image.Image, "text": str, "audio": Waveform, "depth": DepthMap, "video": Clip, "imu": Motion,
    "speech": Waveform,
}  # fmt: skip


@pytest.fixture(params=sorted(POCKET))
def dataset(request: pytest.FixtureRequest, tiny_media: Path) -> Dataset:
    if request.param == "instruments":
        need_synthesizer()
    return resolve(REGISTRY, "dataset", request.param)(tiny_media)


def all_items(dataset: Dataset) -> list[Item]:
    return [item for split in SPLITS for item in dataset.items(split)]


def test_its_name_is_its_key(dataset: Dataset) -> None:
    assert resolve(REGISTRY, "dataset", dataset.name) is type(dataset)


def test_ids_are_unique_over_all_splits(dataset: Dataset) -> None:
    ids = [item.id for item in all_items(dataset)]
    assert ids and len(set(ids)) == len(ids)


def test_items_are_sorted_and_the_same_every_time(dataset: Dataset, tiny_media: Path) -> None:
    again = type(dataset)(tiny_media)
    for split in SPLITS:
        ids = [item.id for item in dataset.items(split)]
        assert ids == sorted(ids) == [item.id for item in again.items(split)]


def test_modalities_are_in_storage_order_and_every_item_opens_in_each(dataset: Dataset) -> None:
    assert list(dataset.modalities) == [modality for modality in MODALITY_ORDER if modality in dataset.modalities]
    for item in all_items(dataset)[:20]:
        for modality in dataset.modalities:
            assert isinstance(item.open(modality), TYPES[modality])


def test_labels_point_into_the_classes_whose_texts_are_distinct(dataset: Dataset) -> None:
    items = all_items(dataset)
    for labels, classes in (
        ({item.label for item in items}, dataset.classes),
        ({item.open_label for item in items}, dataset.open_classes),
    ):
        assert labels <= set(range(len(classes))) if classes else labels == {-1}
        assert len({label.text for label in classes}) == len(classes)


def test_the_text_of_an_open_class_is_nobodys_caption(dataset: Dataset) -> None:
    captions = {item.caption.casefold() for item in all_items(dataset)}
    assert captions.isdisjoint(label.text.casefold() for label in dataset.open_classes)


def test_the_caption_of_a_classified_item_is_its_class_text_and_every_class_is_trained(dataset: Dataset) -> None:
    for item in all_items(dataset):
        assert item.label == -1 or item.caption == dataset.classes[item.label].text
    trained = {item.label for item in dataset.items("train")}
    assert {item.label for item in dataset.items("test")} <= trained


def test_its_media_are_permissively_licensed(dataset: Dataset) -> None:
    assert {source.license for source in dataset.sources} <= PERMISSIVE


def test_an_item_opens_the_same_in_another_process(dataset: Dataset) -> None:
    item = all_items(dataset)[0]
    copy = pickle.loads(pickle.dumps(item))
    for modality in dataset.modalities:
        mine, other = item.open(modality), copy.open(modality)
        if isinstance(mine, Waveform | DepthMap | Clip | Motion):
            mine, other = vars(mine).values(), vars(other).values()
            assert all(np.array_equal(a, b) for a, b in zip(mine, other, strict=True))
        else:
            assert mine == other


def test_missing_media_are_reported_with_the_command_that_fetches_them(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"media of the dataset '\w+' are not in .*make pocket-media"):
        type(dataset)(tmp_path)


def test_a_split_that_is_none_is_an_error(dataset: Dataset) -> None:
    with pytest.raises(UnknownNameError, match="There is no split 'val'"):
        dataset.items("val")


def test_importing_the_datasets_loads_no_heavy_library() -> None:
    modules = ", ".join(target.partition(":")[0] for target in REGISTRY.values())
    heavy = "{'torch', 'jax', 'scipy.signal', 'tinysoundfont', 'rich'}"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
