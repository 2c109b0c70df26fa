import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_cache import CacheError, open_cache
from feature_cache.datasets.base import Item
from feature_cache.extraction.decode import Request, decode_here
from feature_cache.extraction.embedding import embed_items
from feature_cache.extraction.options import Options
from feature_cache.extraction.run import extract
from tests.feature_cache.conftest import Tiny
from tests.feature_cache.tiny import COUNTS, FIRST, SHARDS, TONES, TinyBind, Tones, write_tones


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


@pytest.mark.parametrize("rename", [1, 2, 3, 4, 9, 14, 15])
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
    assert len(finished) == min(max(rename - 2, 0) // 2, 6)
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
    lived = [kill(tiny, subprocess_environment, 5) for _ in range(2)]
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
    assert [count for count, _, reused in seen if reused] == [16]
    assert (second.items, second.reused) == (18, 16)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_batch_size_does_not_change_what_is_embedded(tmp_path: Path, batch_size: int) -> None:
    tones = Tones(write_tones(tmp_path))
    items = tones.items("train")
    requests = [Request("train", item, tones.modalities) for item in items]
    decode = decode_here(TinyBind())
    kept, features, failures = embed_items(TinyBind(), items, decode(requests, 0), tones.modalities, batch_size)
    one_by_one = [
        embed_items(TinyBind(), [item], decode([request], 0), tones.modalities, 1)[1]
        for item, request in zip(items, requests, strict=True)
    ]
    assert kept == items
    assert failures == []
    for modality in tones.modalities:
        expected = np.concatenate([features[modality] for features in one_by_one])
        np.testing.assert_array_equal(features[modality], expected)


def test_text_of_its_own_takes_the_place_of_the_caption() -> None:
    item = Item("a", "caption", media={"text": lambda: "another"})
    (decoded,) = decode_here(TinyBind())([Request("train", item, ("text",))], 0)
    assert isinstance(decoded, dict)
    assert decoded["text"].tobytes() == b"another"
