"""Several runs make one cache together: with a shared folder, or each in its own and then merged."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import extract_features
from feature_cache import CacheError, open_cache
from feature_cache.lock import Share, running
from tests.feature_cache.conftest import Tiny
from tests.feature_cache.tiny import SHARDS, TONES, TinyBind, break_medium, command

PARTS = 3


@pytest.fixture
def alone(tiny: Tiny) -> dict[str, bytes]:
    """The files of the cache that one run makes; the cache itself is gone."""
    assert tiny.extract() == 0
    files = tiny.files()
    shutil.rmtree(tiny.cache)
    tiny.embedded("audio")
    return files


def tones_of(share: Share) -> list[str]:
    return sorted(
        str(tone)
        for number, tones in enumerate(SHARDS.values())
        if number % share.count == share.index
        for tone in tones
    )


def test_three_processes_at_once_make_what_one_would(
    tiny: Tiny, alone: dict[str, bytes], subprocess_environment: dict[str, str]
) -> None:
    environment = {**subprocess_environment, "TINY_SECONDS": "0.05"}
    flags = [tiny.flags("--workers=1", f"--shard={index}/{PARTS}") for index in range(PARTS)]
    processes = [subprocess.Popen(command(each), env=environment, stderr=subprocess.PIPE, text=True) for each in flags]
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * PARTS, said
    assert tiny.files() == alone
    assert sorted(tiny.embedded("audio")) == TONES
    open_cache(tiny.cache).verify()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shares_one_after_the_other_make_what_one_run_would(
    tiny: Tiny, alone: dict[str, bytes], order: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for done, index in enumerate(order, 1):
        assert tiny.extract(f"--shard={index}/{PARTS}") == 0
        assert sorted(tiny.embedded("audio")) == tones_of(Share(index, PARTS))
        said = capsys.readouterr().err
        if done < PARTS:
            assert f"{2 * done} of 6 shards are there; the rest belongs to other --shard runs" in said
            with pytest.raises(CacheError, match="unfinished"):
                open_cache(tiny.cache)
    assert tiny.files() == alone
    assert tiny.extract("--shard=0/3") == 0
    assert "is up to date: 18 items" in capsys.readouterr().err


def test_share_given_again_before_the_others_does_nothing_twice(tiny: Tiny, alone: dict[str, bytes]) -> None:
    tiny.extract("--shard=1/3")
    tiny.embedded("audio")
    assert tiny.extract("--shard=1/3") == 0
    assert tiny.embedded("audio") == []
    assert tiny.extract() == 0
    assert sorted(tiny.embedded("audio")) == sorted(tones_of(Share(0, 3)) + tones_of(Share(2, 3)))
    assert tiny.files() == alone


def test_more_shares_than_shards_are_no_harm(tiny: Tiny, alone: dict[str, bytes]) -> None:
    assert [tiny.extract(f"--shard={index}/9") for index in range(9)] == [0] * 9
    assert tiny.files() == alone


def test_too_many_failures_are_seen_by_whoever_finds_the_last_shard(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    break_medium(tiny.data_root, "train3")
    assert tiny.extract("--shard=0/2") == 0
    assert "1 items failed; the first is 'train3'" in capsys.readouterr().err
    assert tiny.extract("--shard=1/2") == 1
    assert "--max_failure_rate=0.01" in capsys.readouterr().err
    assert (tiny.cache / "failures.jsonl").read_text().count("train3") == 1


def test_second_run_of_the_same_cache_says_who_is_at_it_and_changes_nothing(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.extract("--shard=0/3")
    before = tiny.files()
    with running(tiny.cache, Share(1, 3)):
        assert tiny.extract() == 1
        assert tiny.extract("--shard=1/3") == 1
    said = capsys.readouterr().err
    assert said.count(f"tones: The cache {tiny.cache} is being made by process") == 2
    assert tiny.files() == before


@pytest.mark.parametrize("flag", ["--shard_size=5", "--dtype=float32"])
def test_share_of_other_work_is_refused_while_one_is_at_it(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    embed, codes = TinyBind.embed, []

    def embed_meanwhile(self: TinyBind, modality: str, batch: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(TinyBind, "embed", embed)
            if not codes:
                codes.append(tiny.extract("--shard=1/3", flag))
                codes.append(tiny.extract("--shard=1/3"))
        return embed(self, modality, batch)

    monkeypatch.setattr(TinyBind, "embed", embed_meanwhile)
    assert tiny.extract("--shard=0/3") == 0
    assert codes == [1, 0]
    assert "(extraction-0-of-3.lock), but not as this run would make it" in capsys.readouterr().err


def test_two_processes_told_the_same_do_not_do_it_twice(
    tiny: Tiny, alone: dict[str, bytes], subprocess_environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {**subprocess_environment, "TINY_SECONDS": "0.05"}
    with subprocess.Popen(command(tiny.flags("--workers=1")), env=environment, stderr=subprocess.DEVNULL) as process:
        while not list(tiny.cache.glob("*.parquet")):
            assert process.poll() is None
            time.sleep(0.01)
        assert tiny.extract() == 1
        assert f"is being made by process {process.pid} on " in capsys.readouterr().err
    assert process.returncode == 0
    assert tiny.files() == alone
    assert sorted(tiny.embedded("audio")) == TONES


@pytest.mark.parametrize("bad", ["3/3", "1", "-1/3", "1/0", "a/b", "1/3/5"])
def test_impossible_share_is_refused(tiny: Tiny, capsys: pytest.CaptureFixture[str], bad: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        tiny.extract(f"--shard={bad}")
    assert f"argument --shard: should be I/N with I from 0 to N-1, as in 0/4, but is '{bad}'" in capsys.readouterr().err


@pytest.fixture
def parts(tiny: Tiny, alone: dict[str, bytes]) -> list[Path]:
    """Three caches, in folders of their own."""
    folders = [tiny.cache_dir.parent / f"part{index}" for index in range(PARTS)]
    for index, folder in enumerate(folders):
        assert tiny.extract(f"--cache_dir={folder}", f"--shard={index}/{PARTS}") == 0
    return [folder / "tinybind" / "tones" for folder in folders]


def merge(parts: list[Path], into: Path, *more: str) -> int:
    return extract_features.main(["merge", f"--from={','.join(map(str, parts))}", f"--into={into}", *more])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_merged_parts_are_what_one_run_makes(
    tiny: Tiny, alone: dict[str, bytes], parts: list[Path], order: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = [sorted((path.name, path.read_bytes()) for path in part.iterdir()) for part in parts]
    assert merge([parts[i] for i in order], tiny.cache) == 0
    assert f"{tiny.cache} is whole: 18 items." in capsys.readouterr().err
    assert tiny.files() == alone
    assert before == [sorted((path.name, path.read_bytes()) for path in part.iterdir()) for part in parts]
    assert merge([tiny.cache], tiny.cache.with_name("copy")) == 0
    assert {path.name: path.read_bytes() for path in tiny.cache.with_name("copy").iterdir()} == alone


def test_stopped_merge_goes_on(
    tiny: Tiny, alone: dict[str, bytes], parts: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    replace, seen = os.replace, 0

    def full(source: object, target: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 7:
            raise OSError(28, "No space left on device")
        replace(source, target)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        assert merge(parts, tiny.cache) == 1
    with pytest.raises(CacheError, match="unfinished"):
        open_cache(tiny.cache)
    assert merge(parts, tiny.cache) == 0
    assert tiny.files() == alone


def test_merge_that_is_stopped_by_hand_leaves_no_traceback(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("feature_cache.commands.merge.merge", stop)
    assert merge([tmp_path], tiny.cache) == 130
    assert "merge: stopped. Give the same command again." in capsys.readouterr().err


def test_part_that_is_not_given_is_missed_by_the_names_of_its_shards(
    tiny: Tiny, parts: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(parts[:2], tiny.cache) == 1
    assert "2 of 6 shards are in none of" in (said := capsys.readouterr().err)
    assert "train-00002, test-00001" in said
    assert not tiny.cache.exists()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["train-00001.safetensors", "train-00001.parquet"])
@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_damaged_shard_is_refused_unless_another_part_has_it(
    tiny: Tiny, alone: dict[str, bytes], parts: list[Path], capsys: pytest.CaptureFixture[str], name: str,
    damage: Callable[[Path], None],
) -> None:  # fmt: skip
    spare = parts[0].parent / "spare"
    shutil.copytree(parts[1], spare)
    damage(parts[1] / name)
    assert merge(parts, tiny.cache) == 1
    assert "train-00001" in capsys.readouterr().err
    assert merge([*parts, spare], tiny.cache) == 0
    assert tiny.files() == alone


def test_damaged_class_texts_are_taken_from_another_part(
    tiny: Tiny, alone: dict[str, bytes], parts: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for part in parts:
        flip(part / "classes.safetensors")
    assert merge(parts, tiny.cache) == 1
    assert "The embeddings of the class texts, classes.safetensors, are whole in none of" in capsys.readouterr().err
    flip(parts[2] / "classes.safetensors")
    assert merge(parts, tiny.cache) == 0
    assert tiny.files() == alone


@pytest.mark.parametrize(
    ("flags", "field"),
    [(["--dtype=float32"], "dtype"), (["--normalize"], "normalized"), (["--shard_size=5"], "number of shards")],
)
def test_parts_of_different_caches_are_not_mixed(
    tiny: Tiny, parts: list[Path], capsys: pytest.CaptureFixture[str], flags: list[str], field: str
) -> None:
    other = tiny.cache_dir.parent / "other"
    assert tiny.extract(f"--cache_dir={other}", "--shard=1/3", *flags) == 0
    capsys.readouterr()
    assert merge([parts[0], other / "tinybind" / "tones", parts[2]], tiny.cache) == 1
    assert f"are not parts of the same: {field} is " in capsys.readouterr().err
    assert not tiny.cache.exists()


@pytest.mark.parametrize("sizes", [(5, 6), (6, 5)])
def test_parts_of_as_many_shards_but_of_other_sizes_are_not_mixed(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], sizes: tuple[int, int]
) -> None:
    folders = [tiny.cache_dir.parent / f"part{index}" for index in range(2)]
    for index, (folder, size) in enumerate(zip(folders, sizes, strict=True)):
        assert tiny.extract(f"--cache_dir={folder}", f"--shard={index}/2", f"--shard_size={size}") == 0
    parts = [folder / "tinybind" / "tones" for folder in folders]
    assert [len(list(part.glob("*.parquet"))) for part in parts] == [2, 2]
    assert merge(parts, tiny.cache) == 1
    assert "they have other items in the shard train-00000" in capsys.readouterr().err
    assert not tiny.cache.exists()


def test_shard_of_an_earlier_division_is_not_taken(tiny: Tiny, alone: dict[str, bytes], parts: list[Path]) -> None:
    old = tiny.cache_dir.parent / "old"
    assert tiny.extract(f"--cache_dir={old}", "--shard_size=3") == 0
    for path in (old / "tinybind" / "tones").glob("train-00001.*"):
        shutil.copy(path, parts[0])
    assert merge(parts, tiny.cache) == 0
    assert tiny.files() == alone


def test_parts_whose_failures_were_retried_replace_what_an_earlier_merge_took(
    tiny: Tiny, alone: dict[str, bytes]
) -> None:
    folders = [tiny.cache_dir.parent / f"part{index}" for index in range(2)]
    parts = [folder / "tinybind" / "tones" for folder in folders]
    medium = tiny.data_root / "tones" / "train3.npy"
    healthy = medium.read_bytes()
    break_medium(tiny.data_root, "train3")
    for index, folder in enumerate(folders):
        assert tiny.extract(f"--cache_dir={folder}", f"--shard={index}/2") == 0
    assert merge(parts, tiny.cache) == 1
    broken = parts[0].with_name("broken")
    shutil.copytree(parts[0], broken)
    medium.write_bytes(healthy)
    assert tiny.extract(f"--cache_dir={folders[0]}", "--shard=0/2", "--retry_failures") == 0
    assert merge([broken, *parts], tiny.cache) == 0  # of two that have a shard, the one without failures
    assert tiny.files() == alone


def test_parts_of_other_weights_are_not_mixed(
    tiny: Tiny, parts: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyBind, "weights", "cd" * 32)
    assert tiny.extract("--shard=1/3") == 0
    capsys.readouterr()
    assert merge([parts[0], tiny.cache, parts[2]], tiny.cache_dir / "merged") == 1
    assert "weights_sha256 is abab" in (said := capsys.readouterr().err)
    assert " cdcd" in said


def test_failures_of_the_parts_are_listed_once_and_counted_together(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    break_medium(tiny.data_root, "train3")
    break_medium(tiny.data_root, "test4")
    folders = [tiny.cache_dir.parent / f"part{index}" for index in range(2)]
    for index, folder in enumerate(folders):
        assert tiny.extract(f"--cache_dir={folder}", f"--shard={index}/2") == 0
    parts = [folder / "tinybind" / "tones" for folder in folders]
    assert merge(parts, tiny.cache) == 1
    assert "2 of 18 items failed, more than --max_failure_rate=0.01 allows" in capsys.readouterr().err
    assert merge(parts, tiny.cache, "--max_failure_rate=0.2") == 0
    listed = [json.loads(line)["id"] for line in (tiny.cache / "failures.jsonl").read_text().splitlines()]
    assert listed == ["train3", "test4"]
    assert len(open_cache(tiny.cache).ids("train")) == 9


def test_folder_that_is_no_part_is_named(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert merge([tmp_path / "empty"], tiny.cache) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'empty'} is no part of a cache: it has neither manifest.json nor unfinished.json" in said
    assert "rm -rf" not in said
    for arguments in (["merge", "--from=nowhere", "--into=x"], ["merge", "--into=x"], ["merge", f"--from={tmp_path}"]):
        with pytest.raises(SystemExit, match="2"):
            extract_features.main(arguments)
