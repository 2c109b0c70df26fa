"""Every command and every line of code in the README, run as it stands there."""

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
QUICK = ["--config.seeds=1", "--config.training.epochs=1"]


def commands() -> list[list[str]]:
    """The indented commands, without their comments, continuation lines joined."""
    lines = re.sub(r"\\\n\s*", "", README).splitlines()
    return [shlex.split(line, comments=True) for line in lines if re.match(r" {4}(make|python) ", line)]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what a checkout has, in which commands may write."""
    for name in ("run.py", "extract_features.py", "configs", "cmcl_jax", "feature_cache", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "caches").mkdir()
    (tmp_path / "caches" / "pocketbind").symlink_to(ROOT / "caches" / "pocketbind")
    return tmp_path


def test_its_pictures_and_its_links_are_there() -> None:
    linked = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert "docs/demo/accuracy_and_recall.png" in linked
    assert all((ROOT / link).is_file() for link in linked)


def test_its_make_targets_exist() -> None:
    targets = [command[1] for command in commands() if command[0] == "make"]
    assert targets == ["demo", "test", "pocket-cache"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.slow
def test_its_code_and_its_commands_run(checkout: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        subprocess.run([sys.executable, "-c", block], check=True, cwd=checkout, capture_output=True)
    runs = [command for command in commands() if command[0] == "python"]
    assert [command[1:3] for command in runs] == [["run.py", "train"], ["run.py", "report"], ["run.py", "train"]]
    for command in runs:
        quick = QUICK if command[2] == "train" else []
        subprocess.run([sys.executable, *command[1:], *quick], check=True, cwd=checkout, capture_output=True)
        if command[2] == "report":
            assert "report.md" in {path.name for path in (checkout / "runs/pocket_dns").iterdir()}
        (checkout / "runs/pocket_dns/report.md").unlink(missing_ok=True)  # train wrote one too


@pytest.mark.slow
def test_its_table_is_what_the_demo_prints(tmp_path: Path) -> None:
    """To within half a point: other processors round differently, and batches of one item tip over."""
    assert run.main([f"--workdir={tmp_path}"]) == 0
    shown, printed = (table(text) for text in (README, (tmp_path / "report.md").read_text()))
    assert shown.keys() == printed.keys()
    for method, numbers in shown.items():
        np.testing.assert_allclose(numbers, printed[method], atol=0.5)


def table(markdown: str) -> dict[str, list[float]]:
    """The means in the first table of a page, by row."""
    [rows, *_] = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    cells = [[cell.strip(" *") for cell in row.strip("|\n").split("|")] for row in rows.splitlines()[2:]]
    return {
        name: [float(cell.split(" ")[0].replace("−", "-")) if cell != "–" else np.nan for cell in numbers]
        for name, *numbers in cells
    }
