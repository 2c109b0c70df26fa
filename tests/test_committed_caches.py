"""The features in the repository: what the demo trains on."""

import itertools
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs.pocket import get_config
from feature_cache import datasets, open_cache
from feature_cache.datasets.pocket.likeness import NEAR_DUPLICATE, SIDE, distances
from feature_cache.datasets.splits import caption_key
from feature_cache.encoders.pocket.pocketbind import PocketBind
from feature_cache.errors import MediaError
from feature_cache.extraction.options import Options
from feature_cache.extraction.run import why_outdated
from feature_cache.manifest import SPLITS
from feature_cache.registry import resolve

CACHES = Path("caches/pocketbind")
FINGERPRINTS = Path("tests/samples/pocket_fingerprints.parquet")
DATASETS = sorted({step[0] for step in get_config().stream.steps})
CLASSIFIED = {"instruments", "emoji_styles", "exercises"}
"""Sets whose caption is the class text, so that all splits have the same captions."""
SPLIT_BY_CAPTION = sorted(set(DATASETS) - CLASSIFIED)


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_byte_is_the_one_that_was_extracted(dataset: str) -> None:
    open_cache(CACHES / dataset).verify()


@pytest.mark.parametrize("dataset", DATASETS)
def test_todays_code_and_weights_would_extract_the_same(dataset: str) -> None:
    source = resolve(datasets.REGISTRY, "dataset", dataset)
    assert why_outdated(CACHES / dataset, PocketBind, source, Options()) is None
    cache = open_cache(CACHES / dataset)
    encoder = PocketBind("cpu")
    assert cache.manifest.weights_sha256 == encoder.weights_sha256()
    for labels, features in (
        (cache.manifest.classes, cache.class_features),
        (cache.manifest.open_classes, cache.open_class_features),
    ):
        if labels:
            tokens = [encoder.preprocess("text", label.text) for label in labels]
            np.testing.assert_allclose(features, encoder.embed("text", tokens), atol=1e-3)


def test_all_caches_together_are_small_enough_to_commit() -> None:
    assert sum(file.stat().st_size for file in CACHES.rglob("*")) < 16_000_000


@pytest.mark.parametrize("dataset", DATASETS)
def test_media_are_real_and_permissively_licensed(dataset: str) -> None:
    manifest = open_cache(CACHES / dataset).manifest
    assert not manifest.synthetic
    permissive = {"MIT", "Apache-2.0", "BSD-3-Clause", "CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US", "CC-BY-4.0"}
    assert {source.license for source in manifest.sources} <= permissive


def test_the_suite_has_seven_datasets_six_modalities_and_ten_steps() -> None:
    steps = get_config().stream.steps
    assert len(steps) >= 10 and len(DATASETS) >= 7
    assert len({modality for _, pair, _ in steps for modality in pair}) >= 6


@pytest.mark.parametrize("dataset", sorted(set(DATASETS) - {"sounds"}))
def test_one_item_of_the_test_is_less_than_half_a_point(dataset: str) -> None:
    assert len(open_cache(CACHES / dataset).ids("test")) > 200


@pytest.mark.parametrize("dataset", DATASETS)
def test_no_item_is_in_two_splits(dataset: str) -> None:
    cache = open_cache(CACHES / dataset)
    ids = [i for split in SPLITS for i in cache.ids(split)]
    assert len(ids) == len(set(ids))


def test_no_caption_that_is_tested_or_validated_is_trained_on_in_any_dataset() -> None:
    homes = defaultdict(set)
    for dataset in DATASETS:
        cache = open_cache(CACHES / dataset)
        for split in ("train",) if dataset in CLASSIFIED else SPLITS:
            for caption in cache.captions(split):
                homes[caption_key(caption)].add(split)
    assert [key for key, splits in homes.items() if len(splits) > 1] == []


@cache
def fingerprints() -> dict[str, np.ndarray]:
    table = pq.read_table(FINGERPRINTS)
    columns = {name: np.array(table[name].to_pylist(), object) for name in table.schema.names}
    return columns


def test_fingerprints_are_those_of_the_items_in_the_caches() -> None:
    found = fingerprints()
    for dataset in DATASETS:
        cache = open_cache(CACHES / dataset)
        of_dataset = found["dataset"] == dataset
        for modality in set(cache.modalities) - {"text"}:
            rows = of_dataset & (found["modality"] == modality)
            for split in SPLITS:
                assert found["id"][rows & (found["split"] == split)].tolist() == cache.ids(split)


def test_no_medium_is_in_two_splits() -> None:
    homes = defaultdict(set)
    for split, checksum in zip(fingerprints()["split"], fingerprints()["sha256"], strict=True):
        homes[checksum].add(split)
    assert sum(len(splits) > 1 for splits in homes.values()) == 0


@pytest.mark.parametrize("first, second", list(itertools.combinations(SPLITS, 2)))
def test_no_picture_of_one_split_looks_nearly_like_one_of_another(first: str, second: str) -> None:
    found = fingerprints()
    drawn = np.array([value is not None for value in found["thumbnail"]]) & (found["modality"] != "depth")
    thumbnails, names = {}, {}
    for split in (first, second):
        rows = drawn & (found["split"] == split)
        data = np.frombuffer(b"".join(found["thumbnail"][rows]), np.uint8)
        thumbnails[split] = data.reshape(-1, SIDE, SIDE, 3)
        names[split] = (found["dataset"] + " " + found["id"])[rows]
    a, b = np.nonzero(distances(thumbnails[first], thumbnails[second]) < NEAR_DUPLICATE)
    assert list(zip(names[first][a], names[second][b], strict=True)) == []


@pytest.mark.parametrize("dataset", SPLIT_BY_CAPTION)
def test_no_item_of_one_split_is_nearly_one_of_another_in_all_of_its_modalities(dataset: str) -> None:
    """By the embeddings: cosines of captions below 0.96, and of the least like modality below 0.92."""
    cache = open_cache(CACHES / dataset)
    for first, second in itertools.combinations(SPLITS, 2):
        cosines = {
            modality: cache.features(first, modality).astype(np.float32)
            @ cache.features(second, modality).astype(np.float32).T
            / spec.scale**2
            for modality, spec in cache.modalities.items()
        }
        assert cosines["text"].max() < 0.96
        assert np.minimum.reduce(list(cosines.values())).max() < 0.92


@pytest.mark.parametrize("dataset", sorted(CLASSIFIED))
def test_every_class_that_is_tested_is_trained_with_its_class_text_as_caption(dataset: str) -> None:
    cache = open_cache(CACHES / dataset)
    texts = [label.text for label in cache.manifest.classes]
    trained = set(cache.labels("train").tolist())
    assert trained == set(range(len(texts)))
    for split in SPLITS:
        assert set(cache.labels(split).tolist()) <= trained
        assert [texts[label] for label in cache.labels(split)] == cache.captions(split)
        class_rows = cache.class_features[cache.labels(split)]
        np.testing.assert_allclose(cache.features(split, "text"), class_rows, atol=1e-3)  # one float16 apart, if at all


@pytest.mark.parametrize("dataset", DATASETS)
def test_features_have_the_scale_that_the_manifest_states(dataset: str) -> None:
    cache = open_cache(CACHES / dataset)
    for modality, spec in cache.modalities.items():
        norms = np.linalg.norm(cache.features("train", modality).astype(np.float64), axis=1)
        np.testing.assert_allclose(norms, spec.scale, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dataset", DATASETS)
def test_the_media_give_the_same_features_where_they_are_there(dataset: str) -> None:
    """Every fortieth item; `make pocket-media` fetches the media, which are not in the repository."""
    try:
        source = resolve(datasets.REGISTRY, "dataset", dataset)(Path("media"))
    except MediaError as error:
        pytest.skip(str(error))
    cache, encoder = open_cache(CACHES / dataset), PocketBind("cpu")
    items = source.items("test")[::40]
    assert [item.id for item in items] == cache.ids("test")[::40]
    for modality in source.modalities:
        embedded = encoder.embed(modality, [encoder.preprocess(modality, item.open(modality)) for item in items])
        stored = cache.features("test", modality)[::40].astype(np.float64)
        differences = np.linalg.norm(embedded - stored, axis=1) / np.linalg.norm(stored, axis=1)
        assert differences.max() < 1e-3
