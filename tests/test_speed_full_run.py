"""The two sides of the benchmark of a whole run compute the same; how fast they are is not tested."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.speed import our_run, profile, torch_loop
from benchmarks.speed.agreement import agreement
from benchmarks.speed.caches import caches_of
from benchmarks.speed.plan import write_plan
from benchmarks.speed.torch_evaluation import accuracy, ranks_by_sorting, retrieval

STEPS = (
    ("esc50", ("text", "audio"), ("accuracy", "recall")),
    ("clotho", ("text", "audio"), ("recall",)),
)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of width 32 in float64, a few updates each."""
    folder = tmp_path_factory.mktemp("speed")
    cache_dir = caches_of(folder, width=32, scale=0.02, test_scale=0.05)
    return write_plan(folder, cache_dir, STEPS, dtype="float64", epochs=2)


def finished(plan: Path, folder: Path, variant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    theirs = torch_loop.Run(plan).finish(dns=variant != "vanilla")
    return theirs, our_run.finish(plan, variant, folder / "run")


@pytest.mark.parametrize("variant", [pytest.param("vanilla", marks=pytest.mark.slow), "dns released"])
def test_both_sides_train_the_same_heads_to_the_same_metrics(plan: Path, tmp_path: Path, variant: str) -> None:
    theirs, ours = finished(plan, tmp_path, variant)
    found = agreement(theirs, ours, json.loads(plan.read_text())["ties"])
    assert found.loss < 1e-9
    assert found.metrics < 1e-4  # of percentage points: ours are stored in single precision
    assert np.ptp(np.asarray(ours["losses"])[0]) > 1e-3  # it trained
    assert {"training", "evaluation"} <= set(ours["seconds"])


def test_sorting_finds_the_ranks_worked_out_by_hand() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [9.0, 8.0, 7.0], [0.5, 0.1, 0.0]])
    assert ranks_by_sorting(scores).tolist() == [0, 1, 2]
    assert ranks_by_sorting(scores.T).tolist() == [1, 0, 2]
    found = retrieval(scores, galleries=torch.tensor([[0, 1, 2], [2, 0, 1]]))
    assert found["full"] == pytest.approx([100 * 2 / 6, 100, 100])
    assert found["galleries"] == pytest.approx(found["full"])
    assert accuracy(scores, torch.tensor([0, 1, 0])) == pytest.approx(200 / 3)


def test_runs_of_different_plans_are_not_compared() -> None:
    with pytest.raises(ValueError, match="losses have shapes"):
        agreement({"losses": [[1.0]]}, {"losses": [[1.0, 2.0]]}, [])


def test_the_parts_of_a_profile_add_up_to_the_run(plan: Path) -> None:
    cache_dir = Path(json.loads(plan.read_text())["cache_dir"])
    seconds = profile.profile("vanilla", cache_dir, epochs=1, steps=STEPS[:1])
    parts = [seconds[part] for part in profile.PARTS]
    assert all(part > 0 for part in parts)
    assert 0.2 * seconds["total"] < sum(parts) < seconds["total"]
    assert all(seconds[f"{part} compiling"] <= seconds[part] for part in profile.PARTS)
    assert [row[0] for row in profile.table({"vanilla": seconds}).rows] == [*profile.PARTS, "total"]
