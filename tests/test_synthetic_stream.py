"""The paper's 11 steps on synthetic features, from the two command lines to the report."""

import json
from pathlib import Path

import numpy as np
import pytest

import run
from cmcl_jax.config import load_config
from configs.paper import STEPS
from feature_cache.synthetic.__main__ import main

# The least time in which all of it can be seen: so little data wants a higher learning rate than the paper's.
GENERATE = ["--width=128", "--factor=0.02", "--test_factor=0.1"]
TRAIN = ["--config=configs/paper.py:synthetic", "--config.seeds=1", "--config.training.learning_rate=2e-3"]


@pytest.fixture(scope="module")
def vanilla(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of Vanilla."""
    folder = tmp_path_factory.mktemp("synthetic")
    assert main([f"--cache_dir={folder}", *GENERATE]) == 0
    flags = [f"--config.cache_dir={folder}", f"--workdir={folder / 'run'}", "--config.method=vanilla"]
    assert run.main(["train", *TRAIN, *flags]) == 0
    return folder / "run"


def test_the_variant_is_the_papers_setting_on_synthetic_features() -> None:
    synthetic, imagebind = (load_config(f"configs/paper.py:{name}").to_dict() for name in ("synthetic", "imagebind"))
    assert synthetic.pop("encoder") == "synthetic" and imagebind.pop("encoder") == "imagebind"
    assert synthetic == imagebind


@pytest.mark.slow
def test_vanilla_learns_every_step_and_forgets(vanilla: Path) -> None:
    summary = {name: entry["mean"] for name, entry in json.loads((vanilla / "summary.json").read_text()).items()
               if isinstance(entry, dict)}  # fmt: skip
    recall = np.load(vanilla / "r10_matrix.npy")[0]
    assert recall.shape == (len(STEPS) + 1, len(STEPS))
    for i, (_, _, metrics) in enumerate(STEPS):
        if "recall" in metrics:
            assert recall[i + 1, i] > recall[i, i] + 3, STEPS[i]
    assert summary["learned_a"] > summary["zero_shot_acc"] + 3
    assert summary["learned_r10"] > summary["zero_shot_r10"] + 20
    assert summary["bwt_a"] < -1.5
    assert summary["bwt_r10"] < -1


@pytest.mark.slow
def test_table_and_page_say_that_the_data_are_synthetic(vanilla: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["report", f"--workdir={vanilla}"]) == 0
    assert "11 steps on synthetic, 1 seed (synthetic data)" in capsys.readouterr().out
    page = (vanilla / "report.md").read_text()
    assert page.count("| method (synthetic data) |") == 2


def test_a_missing_cache_names_the_command_that_makes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--config.cache_dir={tmp_path}", f"--workdir={tmp_path / 'run'}"]
    assert run.main(["train", *TRAIN, *flags]) == 1
    assert f"`python -m feature_cache.synthetic --dataset=ucf101 --cache_dir={tmp_path}`" in capsys.readouterr().err
