"""Actors of a local Ray make the cache that this process would."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from feature_cache import UserError
from feature_cache.ray_actor import Recipe
from feature_cache.ray_engine import RayEngine
from tests.feature_cache.conftest import Tiny
from tests.feature_cache.tiny import TONES, TinyBind, Tones, break_medium

DRIVER = """
import sys
import ray
import extract_features
from tests.feature_cache import tiny

if __name__ == "__main__":
    tiny.register()
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    sys.exit(extract_features.main(sys.argv[1:]))
"""


def start(tiny: Tiny, environment: dict[str, str], *more: str) -> "subprocess.Popen[str]":
    """Two actors on four logical CPUs."""
    pids = tiny.cache_dir.parent / "pids"
    pids.mkdir(exist_ok=True)
    flags = tiny.flags("--engine=ray", "--actors=2", *more)
    environment = {**environment, "TINY_PIDS": str(pids), "TINY_SECONDS": "0.1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=tiny.cache_dir.parent,
    )  # fmt: skip


def pids(tiny: Tiny) -> set[int]:
    return {int(path.name) for path in (tiny.cache_dir.parent / "pids").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_two_actors_make_what_one_process_makes(
    tiny: Tiny, subprocess_environment: dict[str, str], workers: int
) -> None:
    break_medium(tiny.data_root, "train3")
    tiny.extract("--max_failure_rate=0.1")
    alone = tiny.files()
    shutil.rmtree(tiny.cache)
    tiny.embedded("audio")
    with start(tiny, subprocess_environment, f"--workers={workers}", "--max_failure_rate=0.1") as process:
        out, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert out == ""
    assert "18 items in" in said
    assert len(said) < 3000
    assert tiny.files() == alone
    assert sorted(tiny.embedded("audio")) == sorted(set(TONES) - {"3"})
    assert len(pids(tiny)) == 2
    assert process.pid not in pids(tiny)


@pytest.mark.slow
def test_killed_actor_loses_nothing(tiny: Tiny, subprocess_environment: dict[str, str]) -> None:
    tiny.extract()
    alone = tiny.files()
    shutil.rmtree(tiny.cache)
    tiny.embedded("audio")
    with start(tiny, subprocess_environment, "--workers=0") as process:
        stop = time.monotonic() + 60
        while not tiny.log.exists() or "audio 4" not in tiny.log.read_text():
            assert time.monotonic() < stop
            time.sleep(0.02)
        victim = min(pids(tiny))
        os.kill(victim, signal.SIGKILL)
        _, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert tiny.files() == alone
    embedded = tiny.embedded("audio")
    assert sorted(set(embedded)) == TONES
    assert len(embedded) < len(TONES) + 8  # no more than the shards in flight again
    assert len(pids(tiny)) >= 2


@pytest.mark.slow
def test_error_in_an_actor_is_said_as_one_of_this_process(tiny: Tiny, subprocess_environment: dict[str, str]) -> None:
    refusing = {**subprocess_environment, "TINY_REFUSAL": "There are no weights on this machine."}
    with start(tiny, refusing, "--workers=0") as process:
        _, said = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "tones: There are no weights on this machine." in said
    assert "Traceback" not in said
    assert not [path for path in tiny.cache.iterdir() if path.suffix == ".parquet"]


def test_missing_ray_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    recipe = Recipe(TinyBind, "cpu", "float32", None, Tones, tmp_path, 300, str(tmp_path))
    with pytest.raises(UserError, match=r"--engine=ray needs Ray.*pip install 'cmcl-jax\[ray\]'"):
        RayEngine(recipe)


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--engine=ray", "--shard=0/2"], "leave --shard away"), (["--actors=2"], "--actors is for --engine=ray")],
)
def test_flags_that_do_not_go_together_are_refused(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        tiny.extract(*flags)
    assert said in capsys.readouterr().err
