import json
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_cache import CacheError, MediaError, open_cache
from feature_cache.datasets.base import Item, Waveform
from feature_cache.embedding import decode_item, embed_items
from feature_cache.errors import UserError
from feature_cache.extraction import Options, extract
from tests.feature_cache.conftest import Tiny
from tests.feature_cache.tiny import COUNTS, FIRST, TinyBind, Tones, break_medium, write_tones

SHARDS = {
    "train-00000": range(0, 4), "train-00001": range(4, 8), "train-00002": range(8, 10),
    "validation-00000": range(100, 103), "test-00000": range(200, 204), "test-00001": range(204, 205),
}  # fmt: skip
TONES = sorted(str(i) for numbers in SHARDS.values() for i in numbers)


def test_features_are_those_of_the_encoder_in_the_order_of_the_items(tiny: Tiny) -> None:
    assert tiny.extract() == 0
    cache = open_cache(tiny.cache)
    for split, count in COUNTS.items():
        first, length = FIRST[split] + np.arange(count), 2 + np.arange(count) % 4
        audio = np.stack([first, first, length], 1) / 8
        np.testing.assert_array_equal(cache.features(split, "audio"), audio.astype(np.float16))
        captions = [f"tone {i // 2}" for i in range(count)]
        text = [[ord("t"), sum(c.encode()) / 6, 6, 8] for c in captions]
        np.testing.assert_array_equal(
            cache.features(split, "text"), (np.array(text, np.float32) / 8).astype(np.float16)
        )
        assert cache.captions(split) == captions
        assert cache.ids(split) == [f"{split}{i}" for i in range(count)]
        assert cache.labels(split).tolist() == [i % 3 for i in range(count)]
    classes = [[97, sum(c.text.encode()) / len(c.text), len(c.text), 8] for c in Tones.classes]
    np.testing.assert_array_equal(cache.class_features, (np.array(classes, np.float32) / 8).astype(np.float16))


def test_manifest_says_where_everything_comes_from(tiny: Tiny) -> None:
    tiny.extract("--dtype=float32")
    fields = json.loads((tiny.cache / "manifest.json").read_text())
    assert fields["encoder"] == "tinybind"
    assert fields["weights_sha256"] == "ab" * 32
    assert fields["dataset"] == "tones"
    assert fields["dtype"] == "float32"
    assert fields["synthetic"] is True
    assert fields["sources"] == [{"name": "numbers", "version": "1", "license": "CC0-1.0", "url": "https://numpy.org"}]
    assert fields["modalities"] == {"text": {"dim": 4, "scale": 1.0}, "audio": {"dim": 3, "scale": 2.5}}
    assert {split: value["count"] for split, value in fields["splits"].items()} == COUNTS
    assert [shard["stem"] for value in fields["splits"].values() for shard in value["shards"]] == list(SHARDS)


def test_each_item_is_embedded_once_and_each_caption_once_per_shard(tiny: Tiny) -> None:
    tiny.extract()
    log = tiny.log.read_text().splitlines()
    assert sorted(tiny.embedded("audio")) == TONES
    captions = [line for line in log if line.startswith("text tone")]
    distinct = [{f"tone {i % 100 // 2}" for i in numbers} for numbers in SHARDS.values()]
    assert len(captions) == sum(map(len, distinct)) == 10


def kill(tiny: Tiny, environment: dict[str, str], rename: int) -> set[str]:
    """Extracts in a process that dies before its `rename`-th file appears; returns what it embedded."""
    code = (
        "import sys; from tests.feature_cache import tiny; import extract_features; tiny.register();"
        f"tiny.die_at_rename({rename}); sys.exit(extract_features.main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *tiny.flags()], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return set(tiny.embedded("audio"))


@pytest.mark.parametrize("rename", [1, 2, 3, 8, 13, 14])
def test_killed_extraction_goes_on_without_doing_anything_twice(
    tiny: Tiny, subprocess_environment: dict[str, str], rename: int, tmp_path: Path
) -> None:
    tiny.extract()
    undisturbed = tiny.files()
    for path in tiny.cache.iterdir():
        path.unlink()
    tiny.embedded("audio")

    kill(tiny, subprocess_environment, rename)
    assert list(tiny.cache.glob("*.tmp"))
    finished = {path.stem for path in tiny.cache.glob("*.parquet")}
    assert len(finished) == min((rename - 1) // 2, 6)
    with pytest.raises(CacheError, match="unfinished"):
        open_cache(tiny.cache)

    assert tiny.extract() == 0
    rest = sorted(str(i) for stem, numbers in SHARDS.items() if stem not in finished for i in numbers)
    assert sorted(tiny.embedded("audio")) == rest
    assert tiny.files() == undisturbed


def test_extraction_killed_over_and_over_ends_with_the_same_bits(
    tiny: Tiny, subprocess_environment: dict[str, str]
) -> None:
    tiny.extract()
    undisturbed = tiny.files()
    for path in tiny.cache.iterdir():
        path.unlink()
    tiny.embedded("audio")
    lived = [kill(tiny, subprocess_environment, 4) for _ in range(2)]
    assert tiny.extract() == 0
    assert {str(i) for i in range(4)} <= lived[0]
    assert not {str(i) for i in range(4)} & lived[1]
    assert tiny.files() == undisturbed


def test_finished_extraction_is_left_alone_without_its_media(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.extract()
    before, stamps = tiny.files(), {path: path.stat().st_mtime_ns for path in tiny.cache.iterdir()}
    tiny.embedded("audio")
    for path in (tiny.data_root / "tones").iterdir():
        path.unlink()
    (tiny.data_root / "tones").rmdir()
    start = time.monotonic()
    assert tiny.extract() == 0
    assert time.monotonic() - start < 1
    assert tiny.embedded("audio") == tiny.embedded("text") == []
    assert tiny.files() == before
    assert {path: path.stat().st_mtime_ns for path in tiny.cache.iterdir()} == stamps
    assert "is up to date: 18 items." in capsys.readouterr().err


def test_overwrite_does_everything_again_to_the_same_bits(tiny: Tiny) -> None:
    tiny.extract()
    before = tiny.files()
    tiny.embedded("audio")
    tiny.extract("--overwrite")
    assert sorted(tiny.embedded("audio")) == TONES
    assert tiny.files() == before


@pytest.mark.parametrize("name", ["train-00001.safetensors", "train-00001.parquet"])
def test_lost_file_costs_only_its_own_shard(tiny: Tiny, name: str) -> None:
    tiny.extract()
    before = tiny.files()
    tiny.embedded("audio")
    (tiny.cache / name).unlink()
    tiny.extract()
    assert sorted(tiny.embedded("audio")) == ["4", "5", "6", "7"]
    assert tiny.files() == before


@pytest.mark.parametrize("name", ["manifest.json", "classes.safetensors"])
def test_lost_manifest_or_class_file_costs_no_item(tiny: Tiny, name: str) -> None:
    tiny.extract()
    before = tiny.files()
    tiny.embedded("audio")
    (tiny.cache / name).unlink()
    tiny.extract()
    assert tiny.embedded("audio") == []
    assert tiny.files() == before


@pytest.mark.parametrize(
    ("owner", "attribute", "said"),
    [
        (TinyBind, "preprocessing_version", "preprocessing_version was '1' and is now '2'"),
        (Tones, "version", "dataset_version was '1' and is now '2'"),
    ],
)
def test_new_version_means_a_new_cache(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: Any,
    attribute: str,
    said: str,
) -> None:
    tiny.extract()
    tiny.embedded("audio")
    monkeypatch.setattr(owner, attribute, "2")
    assert tiny.extract() == 0
    assert said in capsys.readouterr().err
    assert sorted(tiny.embedded("audio")) == TONES
    open_cache(tiny.cache).verify()


def test_unfinished_shards_of_other_weights_are_not_mixed_in(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.extract()
    tiny.embedded("audio")
    (tiny.cache / "manifest.json").unlink()
    monkeypatch.setattr(TinyBind, "weights", "cd" * 32)
    tiny.extract()
    assert sorted(tiny.embedded("audio")) == TONES
    assert open_cache(tiny.cache).manifest.weights_sha256 == "cd" * 32


def test_other_shard_size_leaves_no_file_of_the_earlier_division(tiny: Tiny) -> None:
    tiny.extract()
    (tiny.cache / "manifest.json").unlink()
    tiny.extract("--shard_size=100")
    stems = {"train-00000", "validation-00000", "test-00000"}
    named = {f"{stem}.{ending}" for stem in stems for ending in ("safetensors", "parquet")}
    assert set(tiny.files()) == named | {"classes.safetensors", "manifest.json"}
    assert open_cache(tiny.cache).ids("train") == [f"train{i}" for i in range(10)]


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
        return [Item(str(i), "x", 0, medium) for i, medium in enumerate(media)] if split == "train" else []

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


def test_modality_that_the_encoder_lacks_is_named(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tones, "modalities", ("vision", "text", "audio"))
    with pytest.raises(CacheError, match="tinybind cannot embed the dataset tones: it has no vision, only text, audio"):
        extract(tiny.cache, TinyBind(), Tones(tiny.data_root), Options())


def test_repeated_ids_and_empty_datasets_are_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tones, "items", lambda self, split: [Item("a", "x"), Item("b", "y"), Item("a", "z")])
    with pytest.raises(CacheError, match="in train of the dataset tones 1 are not: 'a' is there 2 times"):
        extract(tiny.cache, TinyBind(), Tones(tiny.data_root), Options())
    monkeypatch.setattr(Tones, "items", lambda self, split: [])
    with pytest.raises(CacheError, match="has no items in any split"):
        extract(tiny.cache, TinyBind(), Tones(tiny.data_root), Options())
    assert not tiny.cache.exists()


def test_progress_adds_up_to_all_items(tiny: Tiny) -> None:
    seen: list[tuple[int, int, bool]] = []
    options = Options(shard_size=4, batch_size=3)
    first = extract(tiny.cache, TinyBind(), Tones(tiny.data_root), options, lambda *step: seen.append(step))
    assert sum(count for count, _, _ in seen) == 18
    assert {(total, reused) for _, total, reused in seen} == {(18, False)}
    assert (first.items, first.reused, first.finished) == (18, 0, True)
    (tiny.cache / "train-00002.parquet").unlink()
    seen.clear()
    second = extract(tiny.cache, TinyBind(), Tones(tiny.data_root), options, lambda *step: seen.append(step))
    assert [count for count, _, reused in seen if reused] == [4, 4, 3, 4, 1]
    assert (second.items, second.reused) == (18, 16)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_batch_size_does_not_change_what_is_embedded(tmp_path: Path, batch_size: int) -> None:
    tones = Tones(write_tones(tmp_path))
    items = tones.items("train")
    kept, features, failures = embed_items(TinyBind(), "train", items, tones.modalities, batch_size)
    one_by_one = [embed_items(TinyBind(), "train", [item], tones.modalities, 1)[1] for item in items]
    assert kept == items
    assert failures == []
    for modality in tones.modalities:
        expected = np.concatenate([features[modality] for features in one_by_one])
        np.testing.assert_array_equal(features[modality], expected)


def test_text_of_its_own_takes_the_place_of_the_caption() -> None:
    item = Item("a", "caption", media={"text": lambda: "another"})
    decoded = decode_item(TinyBind(), "train", item, ["text"])
    assert isinstance(decoded, dict)
    assert decoded["text"].tobytes() == b"another"
