"""What a run records of the theory, against scores computed in numpy from its rows and checkpoints of its heads."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cmcl_jax import continual
from cmcl_jax.checkpoint import Checkpoints
from cmcl_jax.heads import Heads
from cmcl_jax.open_stream import open_stream
from cmcl_jax.stability_record import NAME, StabilityRecord
from cmcl_jax.stream import Step, Stream
from cmcl_jax.workdir import Workdir


def entries(workdir: Path) -> list[dict]:
    return json.loads((workdir / NAME).read_text())["steps"]


def events(workdir: Path) -> list[dict]:
    return [
        e for e in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()) if e["event"] == "stability"
    ]


def run_with_heads(config: ConfigDict, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> list[Heads]:
    """Runs the stream; all heads after each step, as the checkpoints got them."""
    kept: list[Heads] = []
    save = Checkpoints.save

    def keeping(self: Checkpoints, steps_done: int, state: dict) -> None:
        kept.append(jax.tree.map(np.asarray, state["heads"]))
        save(self, steps_done, state)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", keeping)
        continual.run(config, workdir)
    return kept


def scores(stream: Stream, step: Step, pair: tuple[str, str], heads: Heads, seed: int) -> np.ndarray:
    a, b = (
        np.asarray(stream.caches[step.dataset].features("train", m)[: stream.rows(step)], float)
        @ heads[m]["kernel"][seed].astype(float)
        + heads[m]["bias"][seed]
        for m in pair
    )
    return a @ b.T


@pytest.mark.parametrize("method", ["vanilla", "dns"])
def test_recorded_deviations_are_those_of_the_rows_and_below_their_bounds(
    method: str, tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config.method, tiny_config.evaluation.stability = method, True
    history = run_with_heads(tiny_config, tmp_path, monkeypatch)
    stream = open_stream(tiny_config.stream.steps, tiny_config.cache_dir, "tiny")
    checked = 0
    for entry in entries(tmp_path):
        assert len(entry["tasks"]) == sum(len(step.tasks) for step in stream.steps[: entry["step"] - 1])
        for step in stream.steps[: entry["step"] - 1]:
            for task in step.tasks:
                found = entry["tasks"][f"{step.number} {task.name}"]
                assert found["learned_in"] == step.number
                for seed in range(2):
                    then = scores(stream, step, task.pair, history[step.number - 1], seed)
                    now = scores(stream, step, task.pair, history[entry["step"] - 1], seed)
                    actual = np.linalg.norm(now - then) / np.linalg.norm(then)
                    assert found["deviation"][seed] == pytest.approx(actual, rel=1e-4, abs=1e-7)
                    assert actual <= found["bound"][seed] and actual <= found["terms"][seed] + 1e-7
                    checked += 1
    assert checked >= 12
    last = entries(tmp_path)[-1]["tasks"]["1 birds vision–text"]
    assert (max(last["deviation"]) < 0.02) is (method == "dns")


@pytest.mark.slow
def test_a_run_that_dies_records_the_same_and_measures_what_it_would_have_without(
    tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config.method = "dns"
    summary = continual.run(tiny_config, tmp_path / "without")
    tiny_config.evaluation.stability = True
    assert continual.run(tiny_config, tmp_path / "whole") == summary
    save = Checkpoints.save

    def dying(self: Checkpoints, epochs_done: int, *state: object) -> None:
        steps_done = epochs_done // tiny_config.training.epochs
        if steps_done != 3:  # once with the checkpoint of the step, once without
            save(self, epochs_done, *state)
        if steps_done >= 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", dying)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                continual.run(tiny_config, tmp_path / "broken")
    assert continual.run(tiny_config, tmp_path / "broken") == summary
    assert (tmp_path / "broken" / NAME).read_bytes() == (tmp_path / "whole" / NAME).read_bytes()
    assert events(tmp_path / "broken") == events(tmp_path / "whole")
    assert [event["step"] for event in events(tmp_path / "whole")] == [1, 2, 3, 4]
    assert not (tmp_path / "without" / NAME).exists() and not events(tmp_path / "without")


def test_capacity_and_plasticity_are_there_for_what_was_trained(tiny_config: ConfigDict, tmp_path: Path) -> None:
    tiny_config.evaluation.stability, tiny_config.dns.biases = True, "stacked"
    continual.run(tiny_config, tmp_path)
    first, *_, last = entries(tmp_path)
    assert set(first["capacity"]) == {"vision", "text"} and set(last["capacity"]) == {
        "vision",
        "text",
        "audio",
        "depth",
    }
    for modality, now in first["capacity"].items():
        assert now["parameters"] > max(now["free"]) >= max(last["capacity"][modality]["free"])
        assert 1 <= now["effective_rank"] <= last["capacity"][modality]["effective_rank"] + 1e-6 or modality == "vision"
        soonest, latest = now["steps_left"]
        assert soonest >= 0 and (latest is None or soonest <= latest)
    assert all(np.shape(entry["first_order_decrease"]) == (2,) for entry in entries(tmp_path))
    ratios = np.array([entry["higher_order_ratio"] for entry in entries(tmp_path)])
    assert ratios.shape == (4, 2, 3) and np.all(ratios[..., 2] < ratios[..., 0])


def test_joint_training_has_nothing_to_record(tiny_config: ConfigDict, tmp_path: Path) -> None:
    tiny_config.method, tiny_config.evaluation.stability = "joint", True
    continual.run(tiny_config, tmp_path)
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize(("mode", "expected"), [("ours", ("relative", "leafwise")), ("released", ("absolute", "free"))])
def test_projectors_are_made_as_the_config_of_dns_says(
    mode: str, expected: tuple[str, str], tiny_config: ConfigDict, tmp_path: Path
) -> None:
    tiny_config.dns.mode = mode
    stream = open_stream(tiny_config.stream.steps, tiny_config.cache_dir, "tiny")
    found = StabilityRecord(Workdir(tmp_path), stream, tiny_config).protection
    assert (found.rule, found.biases) == expected
