"""What an extraction does with media and embeddings that are not as they should be."""

import json
import re
from functools import partial
from typing import Any

import numpy as np
import pytest

from feature_cache import CacheError, MediaError, open_cache
from feature_cache.datasets.base import Item, Waveform
from feature_cache.errors import UserError
from feature_cache.extraction import Options, extract
from tests.feature_cache.conftest import Tiny
from tests.feature_cache.tiny import TONES, TinyBind, Tones, break_medium


def test_broken_medium_is_listed_and_the_others_keep_their_rows(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    break_medium(tiny.data_root, "train3")
    break_medium(tiny.data_root, "test4")
    assert tiny.extract("--max_failure_rate=0.2") == 0
    failures = [json.loads(line) for line in (tiny.cache / "failures.jsonl").read_text().splitlines()]
    assert [(f["split"], f["id"], f["modality"]) for f in failures] == [
        ("train", "train3", "audio"),
        ("test", "test4", "audio"),
    ]
    assert all(f["reason"].startswith("ValueError: EOF") for f in failures)
    said = capsys.readouterr().err
    assert "18 items" in said
    assert "2 of them could not be decoded" in said
    cache = open_cache(tiny.cache)
    cache.verify()
    kept = [i for i in range(10) if i != 3]
    assert cache.ids("train") == [f"train{i}" for i in kept]
    assert (cache.features("train", "audio")[:, 0] * 8).tolist() == kept
    assert cache.labels("train").tolist() == [i % 3 for i in kept]
    assert cache.features("test", "text").shape == (4, 4)


def test_too_many_failures_leave_the_cache_unfinished_and_are_tried_again(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    break_medium(tiny.data_root, "train3")
    assert tiny.extract() == 1
    said = capsys.readouterr().err
    assert "--max_failure_rate=0.01" in said
    assert "'train3'" in said
    assert "train3" in (tiny.cache / "failures.jsonl").read_text()
    with pytest.raises(CacheError, match="unfinished"):
        open_cache(tiny.cache)
    assert sorted(tiny.embedded("audio")) == sorted(set(TONES) - {"3"})

    np.save(tiny.data_root / "tones" / "train3.npy", np.full(5, 3, np.float32))
    assert tiny.extract() == 0
    assert sorted(tiny.embedded("audio")) == ["0", "1", "2", "3"]
    assert not (tiny.cache / "failures.jsonl").exists()
    assert open_cache(tiny.cache).ids("train") == [f"train{i}" for i in range(10)]


def test_resumed_extraction_lists_the_failures_of_reused_shards(tiny: Tiny) -> None:
    break_medium(tiny.data_root, "train3")
    tiny.extract("--max_failure_rate=0.2")
    before = tiny.files()
    (tiny.cache / "manifest.json").unlink()
    tiny.embedded("audio")
    tiny.extract("--max_failure_rate=0.2")
    assert tiny.embedded("audio") == []
    assert tiny.files() == before


def test_dataset_of_which_nothing_can_be_decoded_ends_in_a_report(tiny: Tiny) -> None:
    for path in (tiny.data_root / "tones").iterdir():
        path.write_bytes(b"")
    assert tiny.extract() == 1
    assert len((tiny.cache / "failures.jsonl").read_text().splitlines()) == 18
    assert tiny.extract("--max_failure_rate=1") == 0
    assert open_cache(tiny.cache).features("train", "audio").shape == (0, 3)


def test_missing_package_stops_the_run_rather_than_failing_every_item(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def preprocess(self: TinyBind, modality: str, raw: Any) -> Any:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(TinyBind, "preprocess", preprocess)
    assert tiny.extract() == 1
    said = capsys.readouterr().err
    assert "No module named 'torch'" in said
    assert "`make extract-deps`" in said
    assert not list(tiny.cache.iterdir())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("libsndfile is broken"), "libsndfile is broken. .*`make extract-deps`"),
        (MemoryError(), "out of memory with --batch_size=3; choose a smaller one"),
        (MediaError("The tones are gone. Run `make tones`."), "The tones are gone"),
    ],
)
def test_fault_that_no_item_would_be_spared_stops_the_run(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    def preprocess(self: TinyBind, modality: str, raw: Any) -> Any:
        raise error

    monkeypatch.setattr(TinyBind, "preprocess", preprocess)
    assert tiny.extract("--max_failure_rate=1") == 1
    assert re.search(f"tones: {said}", capsys.readouterr().err)
    assert not list(tiny.cache.iterdir())


@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_run_that_cannot_use_its_encoder_leaves_the_finished_cache_as_it_was(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    def embed(self: TinyBind, modality: str, batch: Any) -> Any:
        raise UserError("There is no GPU.")

    tiny.extract()
    before = tiny.files()
    monkeypatch.setattr(TinyBind, "embed", embed)
    monkeypatch.setattr(Tones, "version", Tones.version if flags else "2")
    assert tiny.extract(*flags) == 1
    assert "tones: There is no GPU." in capsys.readouterr().err
    assert tiny.files() == before


def test_cache_with_more_failures_than_are_allowed_now_loses_its_manifest_first(tiny: Tiny) -> None:
    break_medium(tiny.data_root, "train3")
    assert tiny.extract("--max_failure_rate=0.2") == 0
    (tiny.cache / "classes.safetensors").unlink()
    assert tiny.extract() == 1
    with pytest.raises(CacheError, match="unfinished"):
        open_cache(tiny.cache)


@pytest.mark.parametrize(("rate", "finished"), [(0.29, True), (0.28, False)])
def test_share_of_failures_that_is_allowed_is_allowed_exactly(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, rate: float, finished: bool
) -> None:
    def items(self: Tones, split: str) -> list[Item]:
        media = [{"audio": partial(np.load, "no such file")}] * 29 + [{"audio": lambda: Waveform(np.ones(3), 8)}] * 71
        return [Item(str(i), "x", 0, media=medium) for i, medium in enumerate(media)] if split == "train" else []

    assert 0.29 * 100 < 29  # in floating point
    monkeypatch.setattr(Tones, "items", items)
    report = extract(tiny.cache, TinyBind(), Tones(tiny.data_root), Options(max_failure_rate=rate))
    assert len(report.failures) == 29
    assert report.finished is finished


def test_embedding_that_is_not_finite_is_refused_with_item_and_modality(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embed = TinyBind.embed

    def poisoned(self: TinyBind, modality: str, batch: Any) -> Any:
        features = embed(self, modality, batch)
        features[features[:, 0] == 5 / 8] = np.nan
        return features

    monkeypatch.setattr(TinyBind, "embed", poisoned)
    assert tiny.extract() == 1
    assert "train-00001: the audio features of item 'train5' should be finite" in capsys.readouterr().err
    assert {path.stem for path in tiny.cache.glob("*.parquet")} == {"train-00000"}


def test_embedding_of_the_wrong_width_is_refused(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TinyBind, "embed", lambda self, modality, batch: np.zeros((len(batch), 7)))
    assert tiny.extract() == 1
    said = capsys.readouterr().err
    assert "tinybind should embed 2 media of the modality text, from 'train0' on, as an array [2, 4]" in said
    assert "returned [2, 7]" in said
