"""The command line with worker processes: the same caches, whatever becomes of the workers."""

import json
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

import extract_features
from feature_cache import CacheError, open_cache
from feature_cache.commands.machinery import default_workers
from feature_cache.datasets.base import Item
from feature_cache.extraction.decode import decode_here
from feature_cache.extraction.engine import LocalEngine
from feature_cache.extraction.options import Options
from feature_cache.extraction.run import extract
from tests.feature_cache import hazards
from tests.feature_cache.conftest import Tiny
from tests.feature_cache.processes import children, wait_for_end
from tests.feature_cache.tiny import COUNTS, TinyBind, Tones, break_medium, command


@pytest.mark.parametrize("flags", [[], ["--batch_size=1"], ["--batch_size=7", "--shard_size=5"]])
def test_number_of_workers_does_not_change_a_bit(tiny: Tiny, flags: list[str]) -> None:
    break_medium(tiny.data_root, "train3")
    caches = []
    for workers in (0, 1, 3):
        assert tiny.extract(*flags, f"--workers={workers}", "--max_failure_rate=0.1") == 0
        caches.append(tiny.files())
        shutil.rmtree(tiny.cache)
    assert caches[0] == caches[1] == caches[2]
    assert "failures.jsonl" in caches[0]


def test_crashing_and_hanging_media_are_listed_and_the_others_extracted(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Tones.items

    def items(self: Tones, split: str) -> list[Item]:
        found = original(self, split)
        if split == "train":
            found[2] = hazards.item("train2", partial(hazards.die, signal.SIGSEGV))
            found[7] = hazards.item("train7", hazards.hang)
        return found

    monkeypatch.setattr(Tones, "items", items)
    assert tiny.extract("--workers=2", "--decode_timeout=1", "--max_failure_rate=0.2") == 0
    failures = [json.loads(line) for line in (tiny.cache / "failures.jsonl").read_text().splitlines()]
    assert [(f["id"], f["modality"], f["reason"]) for f in failures] == [
        ("train2", "audio", "the decoder crashed (signal 11, SIGSEGV)"),
        ("train7", "audio", "the decoder took longer than 1 s"),
    ]
    cache = open_cache(tiny.cache)
    assert len(cache.ids("train")) == COUNTS["train"] - 2
    cache.verify()


def test_missing_package_in_a_worker_stops_the_run_and_leaves_nothing(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Tones, "items", lambda self, split: [hazards.item("a", hazards.break_package)])
    assert tiny.extract("--workers=2") == 1
    said = capsys.readouterr().err
    assert "No module named 'soundfile'" in said
    assert "`make extract-deps`" in said
    assert not list(tiny.cache.iterdir())


def test_item_that_cannot_be_sent_stops_the_run_with_its_name(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Tones, "items", lambda self, split: [hazards.item("odd", lambda: hazards.sound(1))])
    assert tiny.extract("--workers=1") == 1
    assert "The audio of item 'odd' cannot be sent to a worker process" in capsys.readouterr().err
    assert tiny.extract("--workers=0") == 0


@pytest.mark.parametrize(
    ("flag", "found"),
    [
        ("--workers=-1", "'-1'"),
        ("--workers=two", "'two'"),
        ("--decode_timeout=0", "'0'"),
        ("--decode_timeout=inf", "'inf'"),
        ("--decode_timeout=soon", "'soon'"),
        ("--actors=0", "'0'"),
        ("--engine=spark", "'spark'"),
    ],
)
def test_impossible_value_is_named_with_its_flag(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], flag: str, found: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        tiny.extract(flag)
    said = capsys.readouterr().err
    assert f"argument {flag.partition('=')[0]}: " in said
    assert found in said


def test_every_new_flag_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        extract_features.main(["--help"])
    said = capsys.readouterr().out
    flags = ("workers", "decode_timeout", "shard", "engine", "actors", "retry_failures")
    assert all(f"--{flag}" in said for flag in flags)
    assert "--shard=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" in said
    assert "--shard=$RANK/$WORLD_SIZE" in said


@pytest.mark.parametrize("of_gpu", [True, False])
def test_out_of_memory_in_the_forward_pass_says_to_choose_a_smaller_batch(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], of_gpu: bool
) -> None:
    torch = pytest.importorskip("torch")

    def embed(self: TinyBind, modality: str, batch: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.") if of_gpu else MemoryError

    monkeypatch.setattr(TinyBind, "embed", embed)
    assert tiny.extract() == 1
    assert "tones: out of memory with --batch_size=3; choose a smaller one." in capsys.readouterr().err


def test_bug_is_not_taken_for_a_mistake_of_the_user(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def embed(self: TinyBind, modality: str, batch: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(TinyBind, "embed", embed)
    with pytest.raises(RuntimeError, match="a bug"):
        tiny.extract()
    assert not list(tiny.cache.glob("*.lock"))


def test_other_weights_that_are_named_make_the_cache_again(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tiny.extract()
    tiny.embedded("audio")
    monkeypatch.setattr(TinyBind, "weights", "cd" * 32)
    assert tiny.extract() == 0
    assert "is up to date" in capsys.readouterr().err
    assert tiny.extract(f"--weights={tmp_path}") == 0
    assert "weights_sha256 was 'abab" in capsys.readouterr().err
    assert len(tiny.embedded("audio")) == sum(COUNTS.values())
    assert open_cache(tiny.cache).manifest.weights_sha256 == "cd" * 32


def test_default_leaves_a_cpu_to_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, workers in ((1, 0), (2, 1), (8, 7), (128, 16)):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, cpus=cpus: set(range(cpus)))
        assert default_workers() == workers


def test_ctrl_c_ends_all_processes_with_one_sentence(tiny: Tiny, subprocess_environment: dict[str, str]) -> None:
    environment = {**subprocess_environment, "TINY_SECONDS": "0.1"}
    # A process group of its own, all of which gets the signal, as from a terminal.
    process = subprocess.Popen(
        command(tiny.flags("--workers=2")), env=environment, stderr=subprocess.PIPE, text=True, process_group=0
    )
    while not list(tiny.cache.glob("*.parquet")):
        time.sleep(0.01)
    workers = children(process.pid)
    assert workers
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "tones: stopped. To go on, give the same command again." in said
    assert "Traceback" not in said
    assert not wait_for_end(workers)
    assert not list(tiny.cache.glob("*.lock"))


def test_engine_that_made_something_else_than_was_asked_for_is_an_error(tiny: Tiny) -> None:
    class Idle(LocalEngine):
        def make(self, *given: object) -> None:
            pass

    encoder = TinyBind()
    with pytest.raises(CacheError, match=r"6 shards of .* have just been made, but not of the items.*train-00000"):
        extract(
            tiny.cache, encoder, Tones(tiny.data_root), Options(shard_size=4),
            engine=Idle(encoder, decode_here(encoder)),
        )  # fmt: skip
