"""The features in the repository: what the demo trains on."""

from pathlib import Path

import numpy as np
import pytest

from configs.pocket import get_config
from feature_cache import datasets, open_cache
from feature_cache.encoders.pocketbind import PocketBind
from feature_cache.extraction import why_outdated
from feature_cache.manifest import SPLITS
from feature_cache.registry import resolve

CACHES = Path("caches/pocketbind")
DATASETS = sorted({step[0] for step in get_config().stream.steps})


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_byte_is_the_one_that_was_extracted(dataset: str) -> None:
    open_cache(CACHES / dataset).verify()


@pytest.mark.parametrize("dataset", DATASETS)
def test_todays_code_and_weights_would_extract_the_same(dataset: str) -> None:
    source = resolve(datasets.REGISTRY, "dataset", dataset)
    assert why_outdated(CACHES / dataset, PocketBind, source, "float16") is None
    cache = open_cache(CACHES / dataset)
    encoder = PocketBind("cpu")
    assert cache.manifest.weights_sha256 == encoder.weights_sha256()
    texts = [label.text for label in cache.manifest.classes]
    embedded = encoder.embed("text", [encoder.preprocess("text", text) for text in texts])
    np.testing.assert_allclose(cache.class_features, embedded, atol=1e-3)


def test_all_caches_together_are_small_enough_to_commit() -> None:
    assert sum(file.stat().st_size for file in CACHES.rglob("*")) < 12 * 2**20


@pytest.mark.parametrize("dataset", DATASETS)
def test_media_are_real_and_permissively_licensed(dataset: str) -> None:
    manifest = open_cache(CACHES / dataset).manifest
    assert not manifest.synthetic
    assert {source.license for source in manifest.sources} <= {"MIT", "CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US"}


@pytest.mark.parametrize("dataset", DATASETS)
def test_no_item_is_in_two_splits(dataset: str) -> None:
    cache = open_cache(CACHES / dataset)
    ids = [i for split in SPLITS for i in cache.ids(split)]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("dataset", ["emoji", "furniture"])
def test_no_caption_is_in_two_splits_where_captions_are_searched(dataset: str) -> None:
    cache = open_cache(CACHES / dataset)
    captions = [set(cache.captions(split)) for split in SPLITS]
    assert not (captions[0] & captions[1] or captions[0] & captions[2] or captions[1] & captions[2])


def test_every_instrument_is_in_every_split_with_its_class_text_as_caption() -> None:
    cache = open_cache(CACHES / "instruments")
    for split in SPLITS:
        assert set(cache.labels(split).tolist()) == set(range(128))
        texts = [label.text for label in cache.manifest.classes]
        assert [texts[label] for label in cache.labels(split)] == cache.captions(split)
        class_rows = cache.class_features[cache.labels(split)]
        np.testing.assert_allclose(cache.features(split, "text"), class_rows, atol=1e-3)  # one float16 apart, if at all


@pytest.mark.parametrize("dataset", DATASETS)
def test_features_have_the_scale_that_the_manifest_states(dataset: str) -> None:
    cache = open_cache(CACHES / dataset)
    for modality, spec in cache.modalities.items():
        norms = np.linalg.norm(cache.features("train", modality).astype(np.float64), axis=1)
        np.testing.assert_allclose(norms, spec.scale, rtol=1e-3)
