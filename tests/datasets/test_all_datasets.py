"""What every dataset of the registry promises."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feature_cache.datasets import REGISTRY
from feature_cache.datasets.base import Dataset, DepthMap, Item, Waveform
from feature_cache.errors import MediaError, UnknownNameError
from feature_cache.manifest import MODALITY_ORDER, SPLITS
from feature_cache.registry import resolve
from tests.datasets.tiny_media import need_synthesizer

PERMISSIVE = {"MIT", "CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US"}
TYPES = {"vision": Image.Image, "text": str, "audio": Waveform, "depth": DepthMap}


@pytest.fixture(params=sorted(REGISTRY))
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
    assert {item.label for item in all_items(dataset)} <= set(range(len(dataset.classes)))
    assert len({label.text for label in dataset.classes}) == len(dataset.classes)


def test_its_media_are_permissively_licensed(dataset: Dataset) -> None:
    assert {source.license for source in dataset.sources} <= PERMISSIVE


def test_an_item_opens_the_same_in_another_process(dataset: Dataset) -> None:
    item = all_items(dataset)[0]
    copy = pickle.loads(pickle.dumps(item))
    for modality in dataset.modalities:
        mine, other = item.open(modality), copy.open(modality)
        if isinstance(mine, Waveform | DepthMap):
            mine, other = vars(mine).values(), vars(other).values()
            assert all(np.array_equal(a, b) for a, b in zip(mine, other, strict=True))
        else:
            assert mine == other


def test_missing_media_are_reported_with_the_command_that_fetches_them(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=f"media of the dataset '{dataset.name}' are not in .*make pocket-media"):
        type(dataset)(tmp_path)


def test_a_split_that_is_none_is_an_error(dataset: Dataset) -> None:
    with pytest.raises(UnknownNameError, match="There is no split 'val'"):
        dataset.items("val")


def test_importing_the_datasets_loads_no_heavy_library() -> None:
    modules = ", ".join(target.partition(":")[0] for target in REGISTRY.values())
    heavy = "{'torch', 'jax', 'scipy.signal', 'tinysoundfont', 'rich'}"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
