"""Runs that die, between steps and inside them, and go on."""

import io
import json
import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from rich.console import Console

import run as command_line
from cmcl_jax.checkpoint import CheckpointError
from cmcl_jax.continual import DivergedError, run
from cmcl_jax.progress import Progress
from cmcl_jax.train import train_epochs
from tests.interrupted import run_that_dies
from tests.run_files import bits, events, losses
from tests.tiny_caches import STEPS

METHODS = [("vanilla", "ours"), ("dns", "ours"), ("dns", "released"), ("joint", "ours")]
EPOCHS = 2  # of each of four steps


@pytest.mark.parametrize(("method", "mode"), METHODS)
def test_a_run_that_dies_in_steps_and_between_them_ends_with_the_bits_of_an_undisturbed_one(
    method: str, mode: str, tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config.method, tiny_config.dns.mode = method, mode
    tiny_config.checkpoint_minutes = None
    run(tiny_config, tmp_path / "whole")
    tiny_config.checkpoint_minutes = 0
    run_that_dies(tiny_config, tmp_path / "broken", monkeypatch, deaths=[(1, True), (4, False), (6, True)])
    assert bits(tmp_path / "broken") == bits(tmp_path / "whole")
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    told = [(event["event"], event["step"], event.get("epochs")) for event in events(tmp_path / "broken")]
    assert told == [
        ("start", 0, None),
        ("resumed", 0, 1),
        ("step", 1, None),
        ("resumed", 1, 1),
        ("step", 2, None),
        ("step", 3, None),
        ("resumed", 3, 0),
        ("step", 4, None),
    ]


def test_going_on_inside_a_step_is_told_and_compiles_no_second_program(
    tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config.checkpoint_minutes = 0
    train_epochs.clear_cache()
    output = io.StringIO()
    with monkeypatch.context() as patched, Progress(Console(file=output, width=120)) as progress:
        patched.setattr("tests.interrupted.run", lambda config, workdir: run(config, workdir, progress))
        run_that_dies(tiny_config, tmp_path, monkeypatch, deaths=[(5, True), (6, True)])
    assert train_epochs._cache_size() == 1
    told = [line for line in output.getvalue().splitlines() if "continues" in line]
    assert told == ["vanilla: continues in step 3 of 4, after epoch 1 of 2", "vanilla: continues after step 3 of 4"]


def test_no_checkpoint_inside_a_step_holds_what_diverged(tiny_config: ConfigDict, tmp_path: Path) -> None:
    tiny_config.checkpoint_minutes, tiny_config.training.learning_rate = 0, 1e38
    with pytest.raises(DivergedError, match=r"its losses are \[[^ ]+\]"):  # of one epoch
        run(tiny_config, tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(tiny_config: ConfigDict, tmp_path: Path) -> None:
    tiny_config.checkpoint_minutes = 0
    run(tiny_config, tmp_path / "run")
    whole = bits(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    newest = tmp_path / "run" / "checkpoints" / "8"
    for file in (newest / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="The checkpoint .*8 cannot be read .*Delete that folder to go on"):
        run(tiny_config, tmp_path / "run")
    shutil.rmtree(newest)
    shutil.copytree(newest.with_name("7"), tmp_path / "kept")
    for file in (newest.with_name("7") / "in_step").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="The checkpoint .*7 cannot be read .*Delete that folder to go on"):
        run(tiny_config, tmp_path / "run")
    shutil.rmtree(newest.with_name("7"))
    shutil.copytree(tmp_path / "kept", newest.with_name("7"))
    run(tiny_config, tmp_path / "run")
    assert bits(tmp_path / "run") == whole


def test_a_checkpoint_of_another_config_is_refused_with_the_difference(tiny_config: ConfigDict, tmp_path: Path) -> None:
    run(tiny_config, tmp_path)
    (tmp_path / "summary.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    config["training"]["learning_rate"] = tiny_config.training.learning_rate = 0.02
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"8 is of another run \(training.learning_rate: 0.01 -> 0.02\)"):
        run(tiny_config, tmp_path)


@pytest.mark.slow
def test_a_process_killed_inside_steps_and_in_writing_is_resumed_to_the_same_bits(
    tiny_caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    epochs = 2000  # half a second a step or more: time to be killed in
    flags = ["--config=tests/tiny_config.py", f"--config.cache_dir={tiny_caches}", "--config.method=dns"]
    flags += [f"--config.training.epochs={epochs}", f"--config.stream.steps={STEPS[:2]}"]
    minutes = {"whole": None, "killed": 0.002}
    processes = multiprocessing.get_context("forkserver")  # one of which all are forks: modules are imported once
    processes.set_forkserver_preload(["cmcl_jax.continual"])

    def start(name: str) -> multiprocessing.process.BaseProcess:
        process = processes.Process(
            target=command_line.main,
            args=(["train", *flags, f"--config.checkpoint_minutes={minutes[name]}", f"--workdir={tmp_path / name}"],),
        )
        process.start()
        return process

    def kill_when(happens: Callable[[list[str]], bool]) -> None:
        process, folder = start("killed"), tmp_path / "killed" / "checkpoints"
        while not (folder.exists() and happens([path.name for path in folder.iterdir()])):
            assert process.is_alive()
            time.sleep(0.001)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL

    whole = start("whole")
    whole.join()
    assert whole.exitcode == 0
    kill_when(lambda names: any(name.isdecimal() and int(name) % epochs for name in names))
    kill_when(lambda names: any(int(name.split(".")[0]) > epochs for name in names if "tmp" in name))  # being written
    last = start("killed")
    last.join()
    assert last.exitcode == 0
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "checkpoints").glob("*tmp*"))
    resumed = [event for event in events(tmp_path / "killed") if event["event"] == "resumed"]
    assert len(resumed) == 2 and resumed[0]["epochs"] > 0
