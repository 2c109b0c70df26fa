import errno
import fcntl
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from feature_cache.downloading import DownloadError, download
from tests.feature_cache.file_server import Behaviour, serving

CONTENT = random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fetch(server: Behaviour, target: Path, **options: object) -> None:
    download(server.url, target, **{"sha256": SHA256, "size": len(CONTENT), "pause": 0.001, **options})  # type: ignore[arg-type]


def test_a_file_arrives_and_nothing_else_stays(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    with serving(Behaviour(CONTENT)) as server:
        fetch(server, tmp_path / "new" / "weights.pth", progress=lambda *step: seen.append(step))
    assert (tmp_path / "new" / "weights.pth").read_bytes() == CONTENT
    assert files(tmp_path / "new") == ["weights.pth"]
    assert seen == sorted(seen)
    assert len(seen) > 2
    assert seen[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("etag", ['"1"', 'W/"1"', ""])
def test_lost_connections_are_resumed_without_fetching_a_byte_twice(tmp_path: Path, etag: str) -> None:
    with serving(Behaviour(CONTENT, cuts=[1_000_000, 0, 1, 999_999], etag=etag)) as server:
        fetch(server, tmp_path / "weights.pth")
        assert server.sent == len(CONTENT)
        assert server.seen == ["", "bytes=1000000-", "bytes=1000000-", "bytes=1000001-", "bytes=2000000-"]
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_a_killed_download_goes_on_where_it_was(tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    lines = [
        "import sys, time",
        "from pathlib import Path",
        "from feature_cache.downloading import download",
        "slow = lambda done, total: time.sleep(0.02)",
        "import feature_cache.downloading",
        "feature_cache.downloading._BLOCK = 10_000",
        "download(sys.argv[1], Path(sys.argv[2]), progress=slow)",
    ]
    with serving(Behaviour(CONTENT)) as server:
        process = subprocess.Popen([sys.executable, "-c", "\n".join(lines), server.url, str(target)])
        deadline = time.monotonic() + 60
        while not (part_of(target).exists() and part_of(target).stat().st_size > 50_000):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = part_of(target).stat().st_size
        assert 50_000 < kept < len(CONTENT)
        assert not target.exists()
        server.seen.clear()
        fetch(server, target)
        assert server.seen == [f"bytes={kept}-"]
    assert target.read_bytes() == CONTENT
    assert files(tmp_path) == ["weights.pth"]


def test_a_server_that_cannot_send_a_part_sends_all_again(tmp_path: Path) -> None:
    with serving(Behaviour(CONTENT, ranges=False, cuts=[1_000_000, 2_000_000])) as server:
        fetch(server, tmp_path / "weights.pth")
        assert server.sent == 3_000_000 + len(CONTENT)
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_whole(tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    with serving(Behaviour(bytes(2_000_000), etag='"old"', cuts=[500_000])) as server:
        with pytest.raises(DownloadError, match=r"500000 bytes of it are kept in .*weights\.pth\.part"):
            download(server.url, target, retries=0)
        assert part_of(target).stat().st_size == 500_000
        server.content, server.etag = CONTENT, '"new"'
        download(server.url, target)
    assert target.read_bytes() == CONTENT


def test_versions_are_not_mixed_even_by_a_server_that_does_not_heed_if_range(tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    with serving(Behaviour(bytes(2_000_000), etag='"old"', cuts=[500_000], heeds_if_range=False)) as server:
        with pytest.raises(DownloadError):
            download(server.url, target, retries=0)
        server.content, server.etag = CONTENT, '"new"'
        download(server.url, target, pause=0.001)
        assert server.seen == ["", "bytes=500000-", ""]
    assert target.read_bytes() == CONTENT


def test_a_whole_part_of_unknown_size_is_not_fetched_again(tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    part_of(target).write_bytes(CONTENT)
    with serving(Behaviour(CONTENT)) as server:
        fetch(server, target, size=None, retries=0)
        assert server.sent == 0 and server.seen == [f"bytes={len(CONTENT)}-"]
    assert target.read_bytes() == CONTENT
    assert files(tmp_path) == ["weights.pth"]


def test_an_answer_longer_than_the_file_should_be_ends_it(tmp_path: Path) -> None:
    with (
        serving(Behaviour(CONTENT, announce=False)) as server,
        pytest.raises(DownloadError, match="3000000 bytes, but should have 7"),
    ):
        fetch(server, tmp_path / "weights.pth", size=7)
    assert server.seen == [""]
    assert files(tmp_path) == []


def test_a_part_longer_than_the_file_is_thrown_away(tmp_path: Path) -> None:
    for size in (len(CONTENT), None):
        target = tmp_path / f"weights{size}.pth"
        part_of(target).write_bytes(CONTENT + b"more")
        with serving(Behaviour(CONTENT)) as server:
            fetch(server, target, size=size)
        assert target.read_bytes() == CONTENT


def test_a_whole_part_needs_no_server(tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    part_of(target).write_bytes(CONTENT)
    download("http://127.0.0.1:1/file", target, sha256=SHA256, size=len(CONTENT))
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("announce", [True, False])
def test_a_file_of_unknown_size_and_checksum_is_taken_as_it_comes(tmp_path: Path, announce: bool) -> None:
    with serving(Behaviour(CONTENT, announce=announce, etag="")) as server:
        download(server.url, tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_a_wrong_checksum_names_both_and_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    with serving(Behaviour(CONTENT)) as server:
        with pytest.raises(
            DownloadError, match=f"its SHA-256 is {SHA256}, expected {'ab' * 32}.*the same command again"
        ):
            fetch(server, target, sha256="ab" * 32)
        assert files(tmp_path) == []
        fetch(server, target, sha256=SHA256.upper())
    assert target.read_bytes() == CONTENT


def test_a_file_of_another_size_is_not_even_begun(tmp_path: Path) -> None:
    with (
        serving(Behaviour(CONTENT)) as server,
        pytest.raises(DownloadError, match="3000000 bytes, but should have 7"),
    ):
        fetch(server, tmp_path / "weights.pth", size=7)
    assert files(tmp_path) == []


def test_a_file_that_is_there_is_verified_and_not_fetched(tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    target.write_bytes(CONTENT)
    nowhere = "http://127.0.0.1:1/file"
    download(nowhere, target, sha256=SHA256, size=len(CONTENT))
    with pytest.raises(DownloadError, match=r"has 3000000 bytes, but .* has 5\. Delete it \(`rm .*weights\.pth`\)"):
        download(nowhere, target, size=5)
    with pytest.raises(DownloadError, match="SHA-256"):
        download(nowhere, target, sha256="ab" * 32)
    assert target.read_bytes() == CONTENT


def test_an_absent_file_is_not_asked_for_twice(tmp_path: Path) -> None:
    with serving(Behaviour(CONTENT)) as server:
        with pytest.raises(DownloadError, match="answered 404 Not Found"):
            download(server.url + "x", tmp_path / "weights.pth")
        assert len(server.seen) == 1
    assert files(tmp_path) == []


def test_a_busy_server_is_asked_again(tmp_path: Path) -> None:
    with serving(Behaviour(CONTENT, answers=[503, 429, 500])) as server:
        fetch(server, tmp_path / "weights.pth", retries=3)
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_a_server_that_stays_busy_is_given_up(tmp_path: Path) -> None:
    with serving(Behaviour(CONTENT, answers=[503] * 9)) as server:
        with pytest.raises(DownloadError, match=r"answered 503 Service Unavailable, 3 times in a row\. 0 bytes"):
            fetch(server, tmp_path / "weights.pth", retries=2)
        assert len(server.seen) == 3


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1:1/file could not be .*refused.*Check the network"):
        download("http://127.0.0.1:1/file", tmp_path / "weights.pth", retries=1, pause=0.001)


def test_a_disk_without_space_is_noticed_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12, 1_000_000))
    with (
        serving(Behaviour(CONTENT)) as server,
        pytest.raises(DownloadError, match=r"not enough space for .*weights\.pth.*0\.0 GB are free.*make space"),
    ):
        fetch(server, tmp_path / "weights.pth")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_disk_that_fills_up_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("feature_cache.downloading._Transfer._finish", full)
    with serving(Behaviour(CONTENT)) as server, pytest.raises(DownloadError, match="not enough space"):
        fetch(server, tmp_path / "weights.pth")
    assert part_of(tmp_path / "weights.pth").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match=r"cannot be saved as .*Choose another folder"):
        download("http://127.0.0.1:1/file", tmp_path / "file" / "weights.pth")


def test_two_processes_do_not_mix_their_bytes(tmp_path: Path) -> None:
    target = tmp_path / "weights.pth"
    with part_of(target).open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process that fetches the same file"):
            download("http://127.0.0.1:1/file", target)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a", "/etc/passwd"])
def test_only_web_addresses_are_fetched(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="only http:// and https://"):
        download(url, tmp_path / "weights.pth")
