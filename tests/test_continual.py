import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cmcl_jax.checkpoint import Checkpoints
from cmcl_jax.config import ConfigError
from cmcl_jax.continual import DivergedError, run
from cmcl_jax.train import Learned, learn
from feature_cache import open_cache
from tests.tiny_caches import WIDTHS, write_tiny_caches

METHODS = [("vanilla", "ours"), ("dns", "ours"), ("dns", "released")]


def bits(workdir: Path) -> dict[str, bytes]:
    """Everything a run measured."""
    files = [*workdir.glob("*_matrix.npy"), *workdir.glob("matrices/*.npy"), workdir / "summary.json"]
    return {str(file.relative_to(workdir)): file.read_bytes() for file in files}


def events(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir: Path) -> list[list[list[float]]]:
    return [event["losses"] for event in events(workdir) if event["event"] == "step"]


@pytest.mark.parametrize(("method", "mode"), METHODS)
def test_a_run_that_dies_in_any_step_ends_with_the_bits_of_an_undisturbed_one(
    method: str, mode: str, tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config.method, tiny_config.dns.mode = method, mode
    run(tiny_config, tmp_path / "whole")
    save = Checkpoints.save

    def dying(self: Checkpoints, steps_done: int, state: object) -> None:
        if steps_done % 2:  # once with the checkpoint of the step, once without
            save(self, steps_done, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_config, tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_config, tmp_path / "broken")
    monkeypatch.undo()
    run(tiny_config, tmp_path / "broken")
    assert bits(tmp_path / "broken") == bits(tmp_path / "whole")
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_a_process_killed_in_training_is_resumed_to_the_same_bits(tiny_caches: Path, tmp_path: Path) -> None:
    def command(workdir: str) -> list[str]:
        flags = ["--config=tests/tiny_config.py", f"--config.cache_dir={tiny_caches}", "--config.method=dns"]
        return [sys.executable, "run.py", "train", *flags, f"--workdir={tmp_path / workdir}"]

    subprocess.run(command("whole"), check=True, capture_output=True)
    process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = tmp_path / "killed" / "checkpoints" / "1"
    while process.poll() is None and not checkpoint.exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "summary.json").exists()
    subprocess.run(command("killed"), check=True, capture_output=True)
    assert bits(tmp_path / "killed") == bits(tmp_path / "whole")


def test_a_finished_run_is_only_read(tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = run(tiny_config, tmp_path)
    monkeypatch.setattr("cmcl_jax.continual.learn", None)
    assert run(tiny_config, tmp_path) == json.loads(json.dumps(summary))


def test_a_workdir_of_another_config_is_refused_with_the_difference(tiny_config: ConfigDict, tmp_path: Path) -> None:
    run(tiny_config, tmp_path)
    tiny_config.training.epochs = 3
    with pytest.raises(ConfigError, match="holds a run of another config .training.epochs: 2 -> 3."):
        run(tiny_config, tmp_path)


def test_diverging_training_is_stopped_and_says_what_to_lower(tiny_config: ConfigDict, tmp_path: Path) -> None:
    tiny_config.training.learning_rate = 1e38
    with pytest.raises(DivergedError, match="Lower config.training.learning_rate"):
        run(tiny_config, tmp_path)
    assert not (tmp_path / "summary.json").exists()


def test_the_matrices_hold_what_the_heads_of_each_time_score(
    tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads_over_time = [{m: {"kernel": np.stack([np.eye(w)] * 2), "bias": np.zeros((2, w))} for m, w in WIDTHS.items()}]

    def recording(*args: object, **kwargs: object) -> Learned:
        learned = learn(*args, **kwargs)  # type: ignore[arg-type]
        heads_over_time.append(jax.tree.map(np.asarray, learned.heads))
        return learned

    monkeypatch.setattr("cmcl_jax.continual.learn", recording)
    run(tiny_config, tmp_path)
    cache = open_cache(Path(tiny_config.cache_dir) / "tiny" / "birds")
    vision, text, labels = cache.features("test", "vision"), cache.features("test", "text"), cache.labels("test")
    for t, heads in enumerate(heads_over_time):
        for seed in range(2):
            z, z_text, z_classes = (
                x @ heads[m]["kernel"][seed] + heads[m]["bias"][seed]
                for m, x in (("vision", vision), ("text", text), ("text", cache.class_features))
            )
            accuracy = 100 * np.mean((z @ z_classes.T).argmax(1) == labels)
            assert np.load(tmp_path / "accuracy_matrix.npy")[seed, t, 0] == pytest.approx(accuracy)
            scores = z @ z_text.T
            best_is_partner = 100 * np.mean(scores.argmax(1) == np.arange(16))
            assert np.load(tmp_path / "matrices/r1_a2b_diagonal_full.npy")[seed, t, 0] == pytest.approx(best_is_partner)
    matrix = np.load(tmp_path / "accuracy_matrix.npy")
    assert np.isnan(matrix[:, :, 2:]).all()  # tasks without accuracy
    for t, event in enumerate(events(tmp_path)):
        assert event["accuracy"][2:] == [None, None]
        np.testing.assert_allclose(event["accuracy"][:2], matrix[:, t, :2].mean(axis=0), atol=1e-3)


@pytest.mark.parametrize("method", ["vanilla", "dns"])
def test_float32_and_float64_runs_agree(method: str, tiny_config: ConfigDict, tmp_path: Path) -> None:
    tiny_config.method = method
    found = []
    for dtype in ("float32", "float64"):
        tiny_config.dtype = dtype
        run(tiny_config, tmp_path / dtype)
        found.append(np.asarray(losses(tmp_path / dtype)))
    np.testing.assert_allclose(found[0], found[1], rtol=2e-3)


def test_modalities_of_unequal_width_train_together(tiny_config: ConfigDict, tmp_path: Path) -> None:
    write_tiny_caches(tmp_path / "caches" / "tiny", {**WIDTHS, "audio": 20, "depth": 9})
    tiny_config.cache_dir, tiny_config.method = str(tmp_path / "caches"), "dns"
    summary = run(tiny_config, tmp_path / "run")
    assert summary["gain_r10"]["mean"] > 0


def test_what_was_learned_carries_over_to_the_test_rows(tiny_config: ConfigDict, tmp_path: Path) -> None:
    summary = run(tiny_config, tmp_path)
    assert summary["synthetic"] is True
    assert summary["gain_a"]["mean"] > 10  # of 75 possible: the concepts carry over
