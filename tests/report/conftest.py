"""Folders of finished runs, made from numbers that look like those of a real stream."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cmcl_jax.metrics.transfer import summarize

STEPS = [
    "1 emoji vision–text",
    "2 instruments text–audio",
    "3 furniture text–depth",
    "4 furniture vision–text",
    "5 furniture vision–depth",
]
PAIRS = [("vision", "text"), ("text", "audio"), ("text", "depth"), ("vision", "text"), ("vision", "depth")]
TASKS = [
    {
        "name": name.split(" ", 1)[1],
        "step": step,
        "dataset": name.split()[1],
        "pair": pair,
        "metrics": ["recall"] if pair == ("vision", "depth") else ["accuracy", "recall"],
    }
    for step, (name, pair) in enumerate(zip(STEPS, PAIRS, strict=True), start=1)
]
MakeRun = Callable[..., Path]


def matrices(seeds: int, forgets: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Each task rises when its step trains it and then loses `forgets` points a step."""
    rng = np.random.default_rng(seed)
    start = np.array([12.0, 18.0, 15.0, 36.0, 20.0])
    rows, tasks = np.arange(6)[:, None], np.arange(1, 6)
    level = start + np.where(rows >= tasks, 25 - forgets * (rows - tasks), 0.4 * rows)
    noise = rng.normal(0, 1.0, (seeds, 6, 5)) * (rows > 0)
    r10 = level + noise
    accuracy = np.where(np.array(["accuracy" in task["metrics"] for task in TASKS]), 0.8 * r10, np.nan)
    return {"accuracy": accuracy, "open_accuracy": accuracy / 2, "r1": r10 / 4, "r5": 0.7 * r10, "r10": r10}


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a finished run's folder and returns it."""

    def make(
        name: str = "vanilla",
        forgets: float = 3.0,
        seeds: int = 3,
        synthetic: bool = False,
        folder: str | None = None,
        tasks: list[dict[str, object]] = TASKS,
        noise: int = 0,
        order_seed: int | None = None,
        stepwise: bool = True,
    ) -> Path:
        workdir = tmp_path / (folder or name)
        (workdir / "matrices").mkdir(parents=True)
        values = matrices(seeds, forgets, noise)
        for matrix, value in values.items():
            np.save(workdir / f"{matrix}_matrix.npy", value)
        np.save(workdir / "matrices" / "map.npy", values["r10"] / 2)
        summary = summarize(values, np.array([task["step"] for task in TASKS]), stepwise)
        summary |= {"method": name, "synthetic": synthetic}
        for file, content in {
            "config": {"method": name, "seeds": seeds, "encoder": "pocketbind", "stream": {"order_seed": order_seed}},
            "summary": summary,
            "tasks": {"steps": STEPS, "tasks": tasks},
        }.items():
            (workdir / f"{file}.json").write_text(json.dumps(content))
        return workdir

    return make
