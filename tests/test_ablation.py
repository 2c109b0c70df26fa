"""`benchmarks.ablation`: stages build on the best of the stage before, orders are paired, equal settings run once."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import ablation
from benchmarks.ablation_variants import STAGES, START, Settings, Variants, promises
from cmcl_jax.config import load_config
from cmcl_jax.methods import method_from_config
from cmcl_jax.report.runs import load_run

ROOT = Path(__file__).parent.parent


def two_thresholds(best: Settings) -> Variants:
    return {f"relative {t}": {**best, "rule": "relative", "input_threshold": t} for t in (1e-3, 0.5)}


def two_sides(best: Settings) -> Variants:
    return {f"one-sided {one}": {**best, "one_sided": one} for one in (False, True)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny_caches: Path, tmp_path: Path) -> list[str]:
    """An ablation of two stages of two variants in two orders; its command line."""
    monkeypatch.setattr(ablation, "STAGES", {"ranks": two_thresholds, "sides": two_sides})
    monkeypatch.setattr(ablation, "BASELINES", {"vanilla": {"method": "vanilla"}})
    config = tmp_path / "config.py"
    config.write_text(
        "from tests import tiny_config\n"
        "def get_config():\n"
        "    config = tiny_config.get_config()\n"
        f"    config.cache_dir = {str(tiny_caches)!r}\n"
        "    return config\n"
    )
    return ["ablation", f"--config={config}", "--orders=2", f"--workdir={tmp_path / 'runs'}"]


def test_every_variant_is_a_method_that_can_be_built() -> None:
    best: Settings = START
    for variants_of in STAGES.values():
        for settings in variants_of(best).values():
            config = load_config("configs/pocket.py")
            config.method = "dns"
            config.dns.update(settings)
            method_from_config(config)
    assert len(promises(START)) == 16 and ("exact", "stacked") not in {
        (settings["project"], settings["biases"]) for settings in promises(START).values()
    }


@pytest.mark.slow
def test_stages_build_on_the_best_variant_so_far(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", small)
    ablation.main()
    shown = capsys.readouterr().out
    assert "Stage ranks" in shown and "Stage sides" in shown
    runs = {folder.name: folder for folder in (tmp_path / "runs/validation").iterdir() if folder.is_dir()}
    scores = {name: np.mean([score(folder / f"order{k}") for k in (0, 1)]) for name, folder in runs.items()}
    thresholds = {name: scores[name] for name in scores if "one_sided=False" in name}
    assert len(thresholds) == 2
    best = max(thresholds, key=lambda name: thresholds[name])
    threshold = best.split("input_threshold=")[1].split(",")[0]
    [one_sided] = [name for name in runs if "one_sided=True" in name]
    assert f"input_threshold={threshold}," in one_sided
    config = load_run(runs[best] / "order1").config
    assert (config["first_seed"], config["stream"]["order_seed"], config["seeds"]) == (1, 1, 1)
    assert config["evaluation"]["split"] == "validation"

    monkeypatch.setattr(ablation, "run", no_run_but_the_finished)
    ablation.main()
    assert capsys.readouterr().out == shown


def score(folder: Path) -> float:
    summary = load_run(folder).summary
    return float(summary["acc"]["mean"] + summary["r10"]["mean"]) / 2


def no_run_but_the_finished(config: Any, folder: Path, progress: Any) -> Any:
    del config, progress
    return load_run(folder).summary


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_documents_tables_are_those_of_the_numbers_beside_it(split: str) -> None:
    found = json.loads((ROOT / f"docs/ablation/{split}.json").read_text())
    scores = {
        name: {key: np.array(values, float) for key, values in of_variant.items()}
        for name, of_variant in found["scores"].items()
    }
    page = (ROOT / "docs/ablation.md").read_text()
    assert found["stages"]
    for stage in found["stages"]:
        assert ablation.table(scores, ablation.Stage(**stage)).markdown() in page


def test_the_default_is_the_finalist_that_won() -> None:
    found = json.loads((ROOT / "docs/ablation/validation.json").read_text())
    best: Settings = START
    for variants_of in list(STAGES.values())[1:]:  # the first is the reference's arithmetic
        names = variants_of(best)
        best = names[max(names, key=lambda name: np.mean(found["scores"][name]["score"]))]
    config = load_config("configs/pocket.py")
    config.method = "dns"
    default = method_from_config(config)
    config.dns.update(best)
    assert method_from_config(config) == default
