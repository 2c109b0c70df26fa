"""Downloads that are killed, interrupted, or started twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import extract_features
from feature_cache.datasets.nyudv2 import NyuDepthV2
from tests.sources.archives import nyu_frame, tar_of
from tests.sources.downloads import REPO, Download, nyu_archives
from tests.sources.servers import REVISION, Site

SCRIPT = """
import sys
from dataclasses import replace
import extract_features
from feature_cache.sources.provenance import PROVENANCE
if __name__ == "__main__":
    PROVENANCE["nyudv2"] = replace(PROVENANCE["nyudv2"], disk_size=None)  # this machine's disk may be small
    sys.exit(extract_features.main(sys.argv[1:]))
"""


def start(root: Path, site: Site) -> "subprocess.Popen[bytes]":
    """Fetches nyudv2 in a process of its own."""
    command = [sys.executable, "-c", SCRIPT, "download", "--dataset=nyudv2", f"--data_root={root}", "--yes"]
    repository = Path(extract_features.__file__).parent
    environment = {**os.environ, "HF_ENDPOINT": site.url, "PYTHONPATH": str(repository)}
    return subprocess.Popen(command, cwd=repository, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_when(process: "subprocess.Popen[bytes]", condition: Callable[[], bool]) -> None:
    """Kills without warning once the condition holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)  # ends when the last of its processes closes the pipe


def test_killed_at_any_point_a_second_run_goes_on(site: Site, small: None, tmp_path: Path, download: Download) -> None:
    """Killed within a file, then while it converts; at last nothing has come twice but what was under way."""
    archives = nyu_archives()
    train = f"/datasets/{REPO['nyudv2']}/resolve/{REVISION}/data/train-000000.tar"
    site.add_repository(REPO["nyudv2"], archives)
    assert train in site.files
    site.block, site.slow = 1 << 9, {train: 0.01}
    root = tmp_path / "media"
    kill_when(start(root, site), lambda: site.sent.get(train, 0) > 2_000)
    assert not list(root.rglob("train-000000.tar")) and not list(root.rglob("*.png"))
    there = next(root.rglob("train-000000.tar.part")).stat().st_size
    assert 0 < there < len(site.files[train])
    site.slow = {}
    kill_when(start(root, site), lambda: bool(list(root.rglob("rgb.png"))))
    assert (train, f"bytes={there}-") in site.requests
    code, said = download("nyudv2", "--yes")
    assert code == 0, said
    assert len([path for path, _ in site.requests if path == train]) == 2, "the whole file is not fetched again"
    items = NyuDepthV2(root).items("train")
    for seed, item in enumerate(items):
        assert np.array_equal(np.asarray(item.open("vision")), nyu_frame(seed)[1].transpose(1, 2, 0))


def test_two_processes_do_not_fetch_into_the_same_folder(
    site: Site, small: None, tmp_path: Path, download: Download
) -> None:
    archives = nyu_archives()
    site.add_repository(REPO["nyudv2"], archives)
    train = next(path for path in site.files if path.endswith("train-000000.tar"))
    site.block, site.slow = 1 << 9, {train: 0.02}
    process = start(tmp_path / "media", site)
    try:
        deadline = time.monotonic() + 60
        while not site.sent.get(train) and time.monotonic() < deadline:
            time.sleep(0.01)
        code, said = download("nyudv2", "--yes")
    finally:
        process.kill()
        process.communicate()
    assert code == 1 and "Another process is fetching into" in said


@pytest.mark.parametrize("when", ["fetching", "converting"])
def test_an_interrupt_ends_it_with_a_word_on_how_to_go_on(site: Site, tmp_path: Path, when: str) -> None:
    frames = dict.fromkeys((f"train/den_0001/{number:05d}.h5" for number in range(200)), nyu_frame(0, 120, 160)[0])
    site.add_repository(REPO["nyudv2"], {"data/train-000000.tar": tar_of(frames)})
    train = next(path for path in site.files if path.endswith("train-000000.tar"))
    site.slow = {train: 0.01} if when == "fetching" else {}
    process = start(tmp_path / "media", site)
    deadline = time.monotonic() + 60
    while not (site.sent.get(train) if when == "fetching" else list(tmp_path.rglob("rgb.png"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130, said
    assert "To go on, give the same command again" in said and "Traceback" not in said
