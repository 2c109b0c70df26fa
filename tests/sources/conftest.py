from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import extract_features
from feature_cache.sources.inventory import count
from feature_cache.sources.provenance import PROVENANCE
from tests.sources.downloads import Download
from tests.sources.servers import Site, serving


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server that the hub's client takes for the hub."""
    with serving(Site()) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


@pytest.fixture
def download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Download:
    """Runs the command with --data_root=<tmp>/media; gives the exit code and what it says."""

    def run(name: str, *more: str) -> tuple[int, str]:
        code = extract_features.main(["download", f"--dataset={name}", f"--data_root={tmp_path / 'media'}", *more])
        return code, " ".join(capsys.readouterr().err.split())

    return run


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets that are complete with the few files of these tests."""
    pictures = (count("frames", "raw_data", "*/*/*/rgb.png", 4), count("depth", "raw_data", "*/*/*/depth.png", 4))
    enough = {
        "ucf101": (count("clips", "UCF101", "*/*/*.avi", 6),),
        "esc50": (count("files", "data", "*.parquet", 2),),
        "nyudv2": pictures,
        "vggsound_s": (count("clips", "scratch", "**/*.mp4", 4),),
        "llvip": (count("pictures", "LLVIP", "*/*/*.jpg", 12),),
    }
    for name, checks in enough.items():
        monkeypatch.setitem(PROVENANCE, name, replace(PROVENANCE[name], checks=checks, disk_size=None))
