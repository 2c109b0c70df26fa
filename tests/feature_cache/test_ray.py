"""Actors of a local Ray make the cache that this process would."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import extract_features
from feature_cache import UserError, open_cache
from feature_cache.extraction.ray_actor import Recipe
from feature_cache.extraction.ray_engine import RayEngine, Resources, share_out
from tests.feature_cache.conftest import Tiny
from tests.feature_cache.tiny import TONES, TinyBind, Tones, break_medium

DRIVER = """
import sys
import ray
import extract_features
from tests.feature_cache import tiny

if __name__ == "__main__":
    tiny.register()
    gpus = int(sys.argv.pop(1))
    ray.init(num_cpus=4, num_gpus=gpus, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    sys.exit(extract_features.main(sys.argv[1:]))
"""


def start(tiny: Tiny, environment: dict[str, str], *more: str, gpus: int = 0) -> "subprocess.Popen[str]":
    """Two actors, on four logical CPUs, or on as many logical GPUs as are asked for."""
    pids = tiny.cache_dir.parent / "pids"
    pids.mkdir(exist_ok=True)
    flags = [str(gpus), *tiny.flags("--engine=ray", *([] if gpus else ["--actors=2"]), *more)]
    environment = {**environment, "TINY_PIDS": str(pids), "TINY_SECONDS": "0.1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=tiny.cache_dir.parent,
    )  # fmt: skip


def pids(tiny: Tiny) -> set[int]:
    return {int(path.name) for path in (tiny.cache_dir.parent / "pids").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "gpus"), [(0, 0), (1, 2)])
def test_two_actors_make_what_one_process_makes(
    tiny: Tiny, subprocess_environment: dict[str, str], workers: int, gpus: int
) -> None:
    break_medium(tiny.data_root, "train3")
    tiny.extract("--max_failure_rate=0.1")
    alone = tiny.files()
    shutil.rmtree(tiny.cache)
    tiny.embedded("audio")
    more = [f"--workers={workers}", "--max_failure_rate=0.1"]
    with start(tiny, subprocess_environment, *more, gpus=gpus) as process:
        out, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert out == ""
    assert "18 items in" in said
    assert len(said) < 3000
    assert tiny.files() == alone
    assert sorted(tiny.embedded("audio")) == sorted(set(TONES) - {"3"})
    assert len(pids(tiny)) == 2
    assert process.pid not in pids(tiny)
    visible = sorted((tiny.cache_dir.parent / "pids" / str(pid)).read_text() for pid in pids(tiny))
    assert visible == (["0", "1"] if gpus else ["", ""])


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
def test_dataset_that_is_a_table_of_pairs_reaches_the_actors(
    tiny: Tiny, subprocess_environment: dict[str, str]
) -> None:
    soundfile = pytest.importorskip("soundfile")
    home = tiny.cache_dir.parent
    lines = ["id,text,audio,split"]
    for i in range(6):
        soundfile.write(home / f"{i}.wav", np.full(9, i / 8, np.float32), 8000)
        lines.append(f"{i},tone {i},{i}.wav,{'test' if i > 3 else 'train'}")
    (home / "birds.csv").write_text("\n".join(lines))
    flags = ["--encoder=tinybind", "--dataset=folder", "--shard_size=2", "--engine=ray", "--actors=2", "--workers=0"]
    command = [sys.executable, "-c", DRIVER, "0", *flags, "--pairs=birds.csv"]
    done = subprocess.run(command, env=subprocess_environment, cwd=home, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    local = ["--pairs", str(home / "birds.csv"), "--workers=0", f"--cache_dir={home / 'local'}"]
    assert extract_features.main([*flags[:3], *local]) == 0
    there, here = (home / "caches" / "tinybind" / "birds", home / "local" / "tinybind" / "birds")
    assert open_cache(there).ids("train") == ["0", "1", "2", "3"]
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (there, here)]
    assert files[0] == files[1]


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


@pytest.mark.parametrize(
    ("there", "device", "actors", "workers", "expected"),
    [
        ({"CPU": 64.0, "GPU": 8.0}, "auto", None, None, Resources(8, 1.0, 1, 7)),
        ({"CPU": 64.0, "GPU": 8.0}, "auto", 2, None, Resources(2, 1.0, 1, 16)),
        ({"CPU": 64.0, "GPU": 8.0}, "cpu", None, 0, Resources(32, 1.0, 0, 0)),
        ({"CPU": 2.0}, "auto", None, None, Resources(1, 1.0, 0, 1)),
        ({"CPU": 2.0}, "auto", 2, None, Resources(2, 0.5, 0, 0)),
        ({"CPU": 1.0}, "cpu", None, None, Resources(1, 0.5, 0, 0)),
    ],
)
def test_actors_fit_into_the_cluster_with_a_cpu_to_spare(
    there: dict[str, float], device: str, actors: int | None, workers: int | None, expected: Resources
) -> None:
    assert share_out(there, device, actors, workers) == expected
    assert expected.actors * expected.cpus < there["CPU"]


@pytest.mark.parametrize(
    ("device", "gpus", "actors", "said"),
    [("cuda", 0, None, "the Ray cluster has none"), ("auto", 2, 3, "--actors=3: each needs a GPU.*has 2")],
)
def test_more_gpus_than_there_are_are_refused(device: str, gpus: int, actors: int | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        share_out({"CPU": 8.0, "GPU": gpus}, device, actors, None)
