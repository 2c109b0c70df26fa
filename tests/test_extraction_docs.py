"""The commands of docs/extraction.md, as they stand there, on tiny weights and tiny media."""

import re
import shlex
from pathlib import Path

import pytest

import extract_features
import run
from feature_cache import commands, encoders, open_cache
from tests.encoders.tiny_binders import TinyImageBind, write_checkpoint
from tests.raw_datasets import write_raw_datasets

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/extraction.md").read_text()
ELSEWHERE = {"weights", "download"}
"""Commands that want a network; tests/feature_cache and tests/sources run them against a server on this machine."""


def documented(program: str) -> list[list[str]]:
    """The arguments of every indented call of a program, continuation lines joined."""
    lines = re.sub(r"\\\n\s*", "", PAGE).splitlines()
    calls = [line for line in lines if line.startswith(f"    .venv/bin/python {program} ")]
    return [shlex.split(call, comments=True)[2:] for call in calls]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights and media where the page has them by then."""
    monkeypatch.setitem(encoders.REGISTRY, "imagebind", "tests.encoders.tiny_binders:TinyImageBind")
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "weights/imagebind", TinyImageBind)
    write_raw_datasets(tmp_path / "media")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "caches/pocketbind").mkdir(parents=True)
    (tmp_path / "caches/pocketbind/emoji").symlink_to(ROOT / "caches/pocketbind/emoji")
    for name in ("cat.jpg", "coffee.jpg"):
        (tmp_path / name).symlink_to(ROOT / "tests/samples" / name)
    (tmp_path / "birds.csv").write_text("vision,text,split\ncat.jpg,a cat,train\ncoffee.jpg,a cup of coffee,test\n")
    return tmp_path


def partial_caches() -> None:
    """What the command `merge` joins."""
    for index, name in enumerate("ab"):
        flags = ["--encoder=imagebind", "--dataset=tvl", f"--cache_dir={name}", "--shard_size=3", "--workers=0"]
        assert extract_features.main([*flags, f"--shard={index}/2"]) == 0


def reference_features() -> None:
    """What the command `import` reads."""
    arguments = ["export", "--to=hdf5", "--cache=caches/imagebind/esc50", "--path=features_storage"]
    assert extract_features.main(arguments) == 0


BEFORE = {"merge": partial_caches, "import": reference_features}


@pytest.mark.slow
def test_the_commands_of_the_page_run(checkout: Path) -> None:
    ran = []
    for arguments in documented("extract_features.py"):
        command = "" if arguments[0].startswith("-") else arguments[0]
        if command in ELSEWHERE or "--engine=ray" in arguments:
            continue
        BEFORE.get(command, lambda: None)()
        assert extract_features.main(arguments) == 0, arguments
        ran.append(command)
    assert set(ran) == {"", *commands.REGISTRY} - ELSEWHERE - {"describe"}
    for cache in ("imagebind/esc50", "imagebind/tvl", "pocketbind/birds"):
        open_cache(checkout / "caches" / cache).verify()
    assert (checkout / "imported/imagebind/esc50/manifest.json").is_file()


@pytest.mark.slow
def test_the_training_of_the_page_runs_on_what_it_extracts(checkout: Path) -> None:
    assert extract_features.main(["--encoder=imagebind", "--dataset=paper"]) == 0
    assert extract_features.main(["--encoder=pocketbind", "--dataset=folder", "--pairs=birds.csv"]) == 0
    paper, birds = documented("run.py")
    for arguments in (paper, birds):
        assert run.main([*arguments, "--config.seeds=1", "--config.training.epochs=1"]) == 0


def test_the_page_names_every_command_and_every_dataset_of_the_paper() -> None:
    from feature_cache.datasets import PAPER

    for name in (*commands.REGISTRY, *PAPER, "imagebind", "languagebind", "unibind"):
        assert f"`{name}`" in PAGE or f" {name} " in PAGE or f"`{name} " in PAGE, name
