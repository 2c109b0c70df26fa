"""Every command and every line of code in the README, run as it stands there."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMPARISON = json.loads((ROOT / "docs/pocket/comparison.json").read_text())
"""What `make pocket-table` wrote."""
QUICK = ["--config.seeds=1", "--config.training.epochs=1"]
TWO_RUNS = [
    *QUICK,
    "--config.sweep.method=vanilla,dns",
    "--config.sweep.training.learning_rate=1e-3",
    "--config.sweep.dns.input_threshold=3e-3",
    "--config.sweep.dns.output_threshold=3e-3",
]


def commands() -> list[list[str]]:
    """The indented commands, without their comments, continuation lines joined."""
    lines = re.sub(r"\\\n\s*", "", README).splitlines()
    return [shlex.split(line, comments=True) for line in lines if re.match(r" {4}(make|python) ", line)]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what a checkout has, in which commands may write."""
    for name in ("run.py", "extract_features.py", "configs", "cmcl_jax", "feature_cache", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "caches/pocketbind").mkdir(parents=True)
    for cache in (ROOT / "caches/pocketbind").iterdir():
        (tmp_path / "caches/pocketbind" / cache.name).symlink_to(cache)
    for name in ("cat.jpg", "coffee.jpg"):
        (tmp_path / name).symlink_to(ROOT / "tests/samples" / name)
    (tmp_path / "birds.csv").write_text("vision,text,split\ncat.jpg,a cat,train\ncoffee.jpg,a cup of coffee,test\n")
    return tmp_path


def test_its_pictures_and_its_links_are_there() -> None:
    linked = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert "docs/pocket/levels.png" in linked
    assert all((ROOT / link).is_file() for link in linked)


def test_its_make_targets_exist() -> None:
    targets = [command[1] for command in commands() if command[0] == "make"]
    assert targets == ["demo", "test", "extract-deps", "pocket-cache", "pocket-table"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.slow
def test_its_code_and_its_commands_run(checkout: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        subprocess.run([sys.executable, "-c", block], check=True, cwd=checkout, capture_output=True)
    runs = [command for command in commands() if command[0] == "python"]
    assert [command[2] for command in runs] == [
        "train", "report", "compare", "sweep", "--encoder=pocketbind", "inspect", "train",
    ]  # fmt: skip
    shared = {**os.environ, "CMCL_COMPILATION_CACHE": str(checkout / "programs")}  # as users have it, but not at home
    for command in runs:
        quick = {"train": QUICK, "compare": [*QUICK, "--orders=1"], "sweep": TWO_RUNS}.get(command[2], [])
        whole = [sys.executable, *command[1:], *quick]
        subprocess.run(whole, check=True, cwd=checkout, capture_output=True, env=shared)
        if command[2] == "report":
            assert "report.md" in {path.name for path in (checkout / "runs/pocket_dns").iterdir()}
        (checkout / "runs/pocket_dns/report.md").unlink(missing_ok=True)  # train wrote one too


def test_its_table_is_that_of_the_comparison() -> None:
    levels = COMPARISON["levels"]
    keys = ("acc", "bwt_a", "r1", "r5", "r10", "bwt_r10")
    expected = {method: [entries[key]["mean"] for key in keys] for method, entries in levels.items()}
    start = levels["vanilla"]
    expected["zero-shot"] = [start[f"zero_shot_{key}"]["mean"] if "bwt" not in key else None for key in keys]
    expected["random"] = [start.get(f"chance_{key}") for key in keys]
    shown = table(README)
    assert shown.keys() == expected.keys()
    for name, numbers in shown.items():
        np.testing.assert_allclose(numbers, np.array(expected[name], float), atol=0.0501)


@pytest.mark.slow
def test_the_comparison_is_what_a_run_gives(tmp_path: Path) -> None:
    """To within a point and a half: other processors round differently, and single items tip over."""
    order, seeds = COMPARISON["order_seeds"][0], 3
    config = ["--config=configs/pocket.py", f"--config.stream.order_seed={order}", f"--config.seeds={seeds}"]
    for method in ("vanilla", "dns", "joint"):
        folder = tmp_path / method
        assert run.main(["train", *config, f"--config.method={method}", f"--workdir={folder}"]) == 0
        summary = json.loads((folder / "summary.json").read_text())
        for key in ("acc", "r10"):
            recorded = np.mean(COMPARISON["levels"][method][key]["scores"][0][:seeds])
            assert summary[key]["mean"] == pytest.approx(recorded, abs=1.5)


def table(markdown: str) -> dict[str, list[float]]:
    """The means in the first table of a page, by row."""
    [rows, *_] = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    cells = [[cell.strip(" *") for cell in row.strip("|\n").split("|")] for row in rows.splitlines()[2:]]
    return {
        name: [float(cell.split(" ")[0].replace("−", "-")) if cell != "–" else np.nan for cell in numbers]
        for name, *numbers in cells
    }
