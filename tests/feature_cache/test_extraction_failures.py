"""What an extraction does with media and embeddings that are not as they should be."""

import json
import re
import shutil
from functools import partial
from typing import Any

import numpy as np
import pytest

from feature_cache import CacheError, MediaError, open_cache
from feature_cache.datasets.base import Item, Waveform
from feature_cache.errors import UserError
from feature_cache.extraction.options import Options
from feature_cache.extraction.run import extract
from feature_cache.inspection import inspect
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
    assert "2 items failed and are listed in" in said
    cache = open_cache(tiny.cache)
    cache.verify()
    kept = [i for i in range(10) if i != 3]
    assert cache.ids("train") == [f"train{i}" for i in kept]
    assert (cache.features("train", "audio")[:, 0] * 8).tolist() == kept
    assert cache.labels("train").tolist() == [i % 3 for i in kept]
    assert cache.features("test", "text").shape == (4, 4)


def test_too_many_failures_leave_the_cache_unfinished_until_they_are_retried(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    break_medium(tiny.data_root, "train3")
    assert tiny.extract() == 1
    said = capsys.readouterr().err
    assert "--max_failure_rate=0.01" in said
    assert "'train3'" in said
    assert "--retry_failures" in said
    assert (tiny.cache / "failures.jsonl").read_text().count("train3") == 1
    with pytest.raises(CacheError, match="unfinished"):
        open_cache(tiny.cache)
    assert sorted(tiny.embedded("audio")) == sorted(set(TONES) - {"3"})
    unfinished = tiny.files()

    np.save(tiny.data_root / "tones" / "train3.npy", np.full(5, 3, np.float32))
    assert tiny.extract() == 1
    assert said.partition("18 items in")[2].partition("1 items failed")[2] in capsys.readouterr().err
    assert tiny.embedded("audio") == tiny.embedded("text") == []
    assert tiny.files() == unfinished
    assert tiny.extract("--retry_failures") == 0
    assert sorted(tiny.embedded("audio")) == ["0", "1", "2", "3"]
    assert not (tiny.cache / "failures.jsonl").exists()
    assert open_cache(tiny.cache).ids("train") == [f"train{i}" for i in range(10)]


def test_more_failures_can_be_allowed_afterwards_without_computing_anything(tiny: Tiny) -> None:
    break_medium(tiny.data_root, "train3")
    assert tiny.extract() == 1
    tiny.embedded("audio")
    assert tiny.extract("--max_failure_rate=0.1") == 0
    assert tiny.embedded("audio") == []
    open_cache(tiny.cache).verify()


def test_failures_of_a_finished_cache_are_retried_only_when_asked_for(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.extract()
    whole = tiny.files()
    shutil.rmtree(tiny.cache)
    medium = tiny.data_root / "tones" / "train5.npy"
    healthy = medium.read_bytes()
    break_medium(tiny.data_root, "train5")
    tiny.extract("--max_failure_rate=0.1")
    medium.write_bytes(healthy)
    tiny.embedded("audio")
    capsys.readouterr()
    assert tiny.extract() == 0
    assert "without those in failures.jsonl (--retry_failures tries them again)" in capsys.readouterr().err
    assert tiny.embedded("audio") == []
    assert tiny.extract("--retry_failures") == 0
    assert sorted(tiny.embedded("audio")) == ["4", "5", "6", "7"]
    assert tiny.files() == whole
    assert tiny.extract("--retry_failures") == 0
    assert tiny.embedded("audio") == []


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


@pytest.mark.parametrize(
    ("modality", "value", "reason"),
    [
        ("audio", np.nan, "the embedding is not finite: it has nan"),
        ("audio", -np.inf, "the embedding is not finite: it has -inf"),
        ("audio", 1e5, "the embedding is not finite as float16: it has 100000; use --dtype=float32"),
    ],
)
def test_item_whose_embedding_is_not_finite_fails_alone(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, modality: str, value: float, reason: str
) -> None:
    poison(monkeypatch, "train5", value)
    break_medium(tiny.data_root, "train4")
    break_medium(tiny.data_root, "train7")
    assert tiny.extract("--max_failure_rate=0.2") == 0
    failures = [json.loads(line) for line in (tiny.cache / "failures.jsonl").read_text().splitlines()]
    assert [failure["id"] for failure in failures] == ["train4", "train5", "train7"]
    assert failures[1] == {"split": "train", "id": "train5", "modality": modality, "reason": reason}
    cache = open_cache(tiny.cache)
    kept = [0, 1, 2, 3, 6, 8, 9]
    assert cache.ids("train") == [f"train{i}" for i in kept]
    assert (cache.features("train", "audio")[:, 0] * 8).tolist() == kept
    assert cache.features("train", "text")[:, 1].tolist() == [
        np.float16(sum(f"tone {i // 2}".encode()) / 6 / 8) for i in kept
    ]


def test_overflow_of_float16_is_none_of_float32(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, "train5", 1e5)
    assert tiny.extract("--dtype=float32") == 0
    assert open_cache(tiny.cache).features("train", "audio")[5].tolist() == [1e5] * 3


def test_normalized_features_have_length_one_and_a_zero_embedding_fails(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.extract("--dtype=float32")
    raw = open_cache(tiny.cache)
    expected = {m: raw.features("train", m).astype(np.float64) for m in ("text", "audio")}
    expected["classes"] = np.asarray(raw.class_features, np.float64)
    poison(monkeypatch, "train5", 0)
    assert tiny.extract("--dtype=float32", "--normalize", "--max_failure_rate=0.1") == 0
    cache = open_cache(tiny.cache)
    (failure,) = [json.loads(line) for line in (tiny.cache / "failures.jsonl").read_text().splitlines()]
    assert (failure["id"], failure["reason"]) == ("train5", "the embedding has length 0, which cannot be made 1")
    assert cache.manifest.normalized
    assert {spec.scale for spec in cache.modalities.values()} == {1.0}
    assert raw.modalities["audio"].scale == 2.5
    keep = [i for i in range(10) if i != 5]
    found = {m: cache.features("train", m) for m in ("text", "audio")} | {"classes": cache.class_features}
    for name, values in expected.items():
        rows = values if name == "classes" else values[keep]
        lengths = np.sqrt((rows**2).sum(1))[:, None]
        np.testing.assert_allclose(found[name], rows / lengths, rtol=1e-6)


def test_class_text_whose_embedding_is_not_finite_is_an_error(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embed = TinyBind.embed

    def poisoned(self: TinyBind, modality: str, batch: Any) -> Any:
        features = embed(self, modality, batch)
        features[[a.tobytes() == b"a low tone" for a in batch]] = np.nan
        return features

    monkeypatch.setattr(TinyBind, "embed", poisoned)
    assert tiny.extract() == 1
    assert "classes.safetensors: the text features of item 'low' should be finite" in capsys.readouterr().err


def poison(monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    """Sounds that begin with the number in `name` get embeddings that are `value` all over."""
    embed, number = TinyBind.embed, int(name.removeprefix("train"))

    def poisoned(self: TinyBind, modality: str, batch: Any) -> Any:
        features = embed(self, modality, batch)
        if modality == "audio":
            features[[a[0] == number for a in batch]] = value
        return features

    monkeypatch.setattr(TinyBind, "embed", poisoned)


def test_embedding_of_the_wrong_width_is_refused(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TinyBind, "embed", lambda self, modality, batch: np.zeros((len(batch), 7)))
    assert tiny.extract() == 1
    said = capsys.readouterr().err
    assert "tinybind should embed 2 media of the modality text, from 'train0' on, as an array [2, 4]" in said
    assert "returned [2, 7]" in said


def test_failure_whose_id_has_a_line_separator_is_one_line(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    media: list[dict[str, Any]] = [{"audio": partial(np.load, "nowhere")}, {"audio": lambda: Waveform(np.ones(3), 8)}]
    items = [Item(f"{i}\u2028\x85", "x", media=medium) for i, medium in enumerate(media)]
    monkeypatch.setattr(Tones, "items", lambda self, split: items)
    assert tiny.extract("--max_failure_rate=0.5") == 0
    assert inspect(tiny.cache).failed == {"train": 1, "validation": 1, "test": 1}


def test_id_that_is_no_unicode_is_named_before_anything_is_done(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Tones, "items", lambda self, split: [Item("caf\udce9", "x")])
    assert tiny.extract() == 1
    assert r"item 'caf\udce9' in train of the dataset tones" in capsys.readouterr().err
    assert not tiny.cache.exists()
