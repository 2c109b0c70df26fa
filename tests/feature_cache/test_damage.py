"""Whatever one file of a cache suffers, the user reads one paragraph that names it and says what to run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from feature_cache import CacheError, FeatureCache, open_cache
from tests.feature_cache.conftest import Tiny
from tests.feature_cache.tiny import break_medium

Damage = Callable[[bytes], bytes]
CUTS: dict[str, Damage] = {
    "everything": lambda data: b"",
    "all but one byte": lambda data: data[:1],
    "all but eight bytes": lambda data: data[:8],
    "half": lambda data: data[: len(data) // 2],
    "the last eight bytes": lambda data: data[:-8],
    "the last byte": lambda data: data[:-1],
}


@pytest.fixture
def cache(tiny: Tiny) -> Path:
    """A cache with every kind of file, failures included."""
    break_medium(tiny.data_root, "train3")
    assert tiny.extract("--max_failure_rate=0.1") == 0
    assert {path.name for path in tiny.cache.iterdir()} >= {"manifest.json", "classes.safetensors", "failures.jsonl"}
    return tiny.cache


def use_all(cache: FeatureCache) -> None:
    for split in cache.manifest.splits:
        for modality in cache.modalities:
            np.asarray(cache.features(split, modality)).sum(dtype=np.float64)
        cache.ids(split), cache.captions(split), cache.labels(split)
    cache.verify()


def assert_helpful(error: CacheError, path: Path) -> None:
    message = str(error)
    assert type(error).__module__ == "feature_cache.errors"
    assert "\n" not in message
    assert len(message) < 1200
    assert path.name in message
    assert f"`rm -rf {path}`" in message or "is unfinished: it has no manifest.json" in message
    assert f"`python extract_features.py --encoder=tinybind --dataset=tones --cache_dir={path.parents[2]}" in message
    assert f"`git checkout -- {path.parent}`" in message


def each_file(cache: Path) -> list[Path]:
    files = sorted(cache.iterdir())
    assert len(files) == 3 + 2 * 6
    return files


def test_intact_cache_opens(cache: Path) -> None:
    use_all(open_cache(cache))


def test_deleted_file_is_named(cache: Path) -> None:
    for path in each_file(cache):
        data = path.read_bytes()
        path.unlink()
        with pytest.raises(CacheError) as error:
            open_cache(cache)
        assert_helpful(error.value, path)
        path.write_bytes(data)


@pytest.mark.parametrize("cut", CUTS)
def test_truncated_file_is_named(cache: Path, cut: str) -> None:
    for path in each_file(cache):
        data = path.read_bytes()
        path.write_bytes(CUTS[cut](data))
        with pytest.raises(CacheError) as error:
            open_cache(cache)
        assert_helpful(error.value, path)
        path.write_bytes(data)


def test_truncated_shard_is_named_with_its_expected_and_its_found_size(cache: Path) -> None:
    path = cache / "train-00001.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CacheError, match=rf"train-00001\.safetensors: .* {size} bytes long, but is {size - 3}\."):
        open_cache(cache)


def test_file_that_became_a_folder_is_named(cache: Path) -> None:
    for path in each_file(cache):
        data = path.read_bytes()
        path.unlink()
        path.mkdir()
        with pytest.raises(CacheError) as error:
            open_cache(cache)
        assert_helpful(error.value, path)
        path.rmdir()
        path.write_bytes(data)


def test_changed_byte_is_found_by_verify_at_the_latest(cache: Path) -> None:
    rng = np.random.default_rng(0)
    for path in each_file(cache):
        data = path.read_bytes()
        places = {0, 7, 8, 9, len(data) - 1, *rng.integers(len(data), size=30)}
        for place in places:
            flipped = bytearray(data)
            flipped[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            with pytest.raises(CacheError) as error:
                use_all(open_cache(cache))
            assert_helpful(error.value, path)
        path.write_bytes(data)


def test_damage_of_the_right_size_is_met_without_a_traceback_when_it_is_used(cache: Path) -> None:
    for path in each_file(cache):
        data = path.read_bytes()
        for garbage in (bytes(len(data)), b"\xff" * len(data), data[::-1]):
            path.write_bytes(garbage)
            with pytest.raises(CacheError) as error:
                use_all(open_cache(cache))
            assert_helpful(error.value, path)
        path.write_bytes(data)


def test_swapped_shards_are_found_when_they_are_not_alike(cache: Path) -> None:
    first, third = cache / "train-00000.safetensors", cache / "train-00002.safetensors"
    shutil.copy(third, first)
    with pytest.raises(CacheError, match="train-00000"):
        open_cache(cache)


def test_swapped_shards_that_are_alike_are_found_by_verify(cache: Path) -> None:
    one, other = cache / "train-00001.safetensors", cache / "test-00000.safetensors"
    data = one.read_bytes(), other.read_bytes()
    assert len(data[0]) == len(data[1])
    one.write_bytes(data[1])
    other.write_bytes(data[0])
    opened = open_cache(cache)
    with pytest.raises(CacheError, match="train-00001.*checksum") as error:
        opened.verify()
    assert_helpful(error.value, one)


def test_verify_says_when_the_cache_has_been_made_again(cache: Path, tiny: Tiny) -> None:
    opened = open_cache(cache)
    assert tiny.extract("--max_failure_rate=0.1", "--dtype=float32") == 0
    with pytest.raises(CacheError, match="made again since it was opened: open it anew"):
        opened.verify()


def test_shard_of_the_same_size_but_other_shape_is_named_with_both(cache: Path) -> None:
    path = cache / "train-00001.safetensors"
    data = path.read_bytes()
    assert b'"shape":[4,3]' in data
    path.write_bytes(data.replace(b'"shape":[4,3]', b'"shape":[3,4]'))
    with pytest.raises(CacheError, match=r"array 'audio' should be \[4, 3\] of F16, but is \[3, 4\] of F16"):
        open_cache(cache)


def test_renamed_array_is_named(cache: Path) -> None:
    path = cache / "test-00000.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"audio"', b'"adieu"'))
    with pytest.raises(CacheError, match="its arrays should be audio, text, but are adieu, text"):
        open_cache(cache)


def test_files_that_vanish_after_opening_are_named(cache: Path) -> None:
    opened = open_cache(cache)
    for path in (cache / "test-00000.safetensors", cache / "test-00000.parquet"):
        data = path.read_bytes()
        path.unlink()
        with pytest.raises(CacheError) as error:
            use_all(opened)
        assert_helpful(error.value, path)
        path.write_bytes(data)


def test_folder_that_cannot_be_searched_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)  # what the system does for everybody but root
    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(CacheError, match=f"{cache} cannot be read: Permission denied.*`chmod -R u\\+rX {cache}`"):
        open_cache(cache)


def test_name_that_no_folder_can_have_is_refused_in_one_paragraph(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="xxx"):
        open_cache(tmp_path / ("x" * 300))


def test_folder_that_does_not_exist_is_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"does not exist.*--encoder=pocketbind --dataset=emoji --cache_dir=") as error:
        open_cache(tmp_path / "pocketbind" / "emoji")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("levels", [0, 1])
def test_folder_above_lists_the_caches_below(cache: Path, levels: int) -> None:
    shutil.copytree(cache, cache.parent / "more tones")
    with pytest.raises(CacheError, match="has some below it; open one of") as error:
        open_cache(cache.parents[levels])
    assert str(cache) in str(error.value)
    assert str(cache.parent / "more tones") in str(error.value)


def test_unfinished_extraction_is_called_so(cache: Path) -> None:
    (cache / "manifest.json").unlink()
    with pytest.raises(
        CacheError, match=r"unfinished: it has no manifest\.json.* 6 shards are there\. To finish it, run"
    ):
        open_cache(cache)


def test_other_folder_and_file_are_called_no_cache(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"is not a feature cache: it has no manifest\.json"):
        open_cache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="should be the folder of a feature cache, but is a file"):
        open_cache(tmp_path / "file")
