"""Fetching, with package clients that are small scripts."""

import hashlib
import os
import re
import shutil
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from feature_cache.datasets.base import Dataset
from feature_cache.datasets.pocket import archives, media
from feature_cache.datasets.pocket.archives import ARCHIVES, STAMP, Archive, dataset_names, is_unpacked, unpacked
from feature_cache.datasets.pocket.emoji import EmojiPictures
from feature_cache.datasets.pocket.exercises import Exercises
from feature_cache.datasets.pocket.furniture import Furniture
from feature_cache.datasets.pocket.instruments import Instruments
from feature_cache.datasets.pocket.sounds import Sounds
from feature_cache.errors import MediaError

NPM = """
import pathlib, shutil, sys
log = pathlib.Path({log!r})
log.write_text(log.read_text() + " ".join(sys.argv[1:]) + "\\n")
{action}
"""
GIVE = "shutil.copy({source!r}, {filename!r})"
DPKG_DEB = """
import sys, tarfile
tarfile.open(sys.argv[2]).extractall(sys.argv[3])
"""


class Registry:
    """A package archive, a client that fetches it, and a log of the client's calls."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin, self.log, self.source = folder / "bin", folder / "log", folder / "source.tgz"
        self.data_root = folder / "media"
        self.bin.mkdir()
        self.log.write_text("")
        (folder / "package").mkdir()
        (folder / "package" / "hello.txt").write_text("hello")
        with tarfile.open(self.source, "w:gz") as tar:
            tar.add(folder / "package", "package")
        data = self.source.read_bytes()
        self.archive = Archive(
            "emoji", "hello", "hello@1.0", "hello-1.0.tgz", len(data), hashlib.sha256(data).hexdigest(), "https://x.y/z"
        )
        self.monkeypatch = monkeypatch
        monkeypatch.setenv("PATH", str(self.bin))
        self.pin(self.archive)

    def pin(self, *archives: Archive) -> None:
        self.monkeypatch.setattr(media, "ARCHIVES", archives)

    def client(self, name: str, action: str | None = None, filename: str = "hello-1.0.tgz") -> None:
        action = GIVE.format(source=str(self.source), filename=filename) if action is None else action
        self.script(name, NPM.format(log=str(self.log), action=action))

    def script(self, name: str, code: str) -> None:
        path = self.bin / name
        path.write_text(f"#!{sys.executable}\n{code}")
        path.chmod(0o755)

    def fetch(self) -> list[str]:
        return media.fetch_all(["emoji"], self.data_root, Console(quiet=True))

    @property
    def calls(self) -> int:
        return len(self.log.read_text().splitlines())

    @property
    def leftovers(self) -> list[str]:
        return [name for name in os.listdir(self.data_root / "emoji") if name.startswith(media.SCRATCH)]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    return Registry(tmp_path, monkeypatch)


def test_an_archive_is_fetched_checked_and_unpacked(registry: Registry) -> None:
    registry.client("npm")
    assert registry.fetch() == []
    assert (registry.archive.folder(registry.data_root) / "package" / "hello.txt").read_text() == "hello"
    assert is_unpacked(registry.archive, registry.data_root)
    assert registry.leftovers == []


def test_a_wheel_is_fetched_with_the_pip_of_this_python_and_unpacked(registry: Registry) -> None:
    wheel = registry.source.with_name("hello-1.0-py3-none-any.whl")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("hello/data.txt", "hello")
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    registry.archive = replace(registry.archive, package="hello==1.0", filename=wheel.name, sha256=sha256)
    registry.pin(registry.archive)
    registry.client("python", action=GIVE.format(source=str(wheel), filename=wheel.name))
    registry.monkeypatch.setattr(sys, "executable", str(registry.bin / "python"))
    assert registry.fetch() == []
    assert (registry.archive.folder(registry.data_root) / "hello" / "data.txt").read_text() == "hello"
    assert registry.log.read_text().startswith("-m pip download ") and registry.log.read_text().endswith(
        " hello==1.0\n"
    )


def test_what_is_there_is_not_fetched_again(registry: Registry) -> None:
    registry.client("npm")
    registry.fetch()
    registry.archive.path(registry.data_root).unlink()
    assert registry.fetch() == []
    assert registry.calls == 1


def test_an_archive_put_there_by_hand_needs_no_client(registry: Registry) -> None:
    place = registry.archive.path(registry.data_root)
    place.parent.mkdir(parents=True)
    shutil.copy(registry.source, place)
    assert registry.fetch() == []
    assert is_unpacked(registry.archive, registry.data_root)


def test_a_truncated_archive_is_fetched_again(registry: Registry) -> None:
    registry.client("npm")
    place = registry.archive.path(registry.data_root)
    place.parent.mkdir(parents=True)
    place.write_bytes(registry.source.read_bytes()[:50])
    assert registry.fetch() == []
    assert place.read_bytes() == registry.source.read_bytes()


def test_a_run_that_was_killed_while_unpacking_is_finished_by_the_next(registry: Registry) -> None:
    registry.client("npm")
    registry.fetch()
    (registry.archive.folder(registry.data_root) / STAMP).unlink()
    (registry.data_root / "emoji" / f"{media.SCRATCH}abc").mkdir()
    assert registry.fetch() == []
    assert is_unpacked(registry.archive, registry.data_root)
    assert registry.leftovers == [] and registry.calls == 1


def test_a_new_pin_replaces_the_old_content(registry: Registry) -> None:
    registry.client("npm")
    registry.pin(replace(registry.archive, sha256="0" * 64))
    stamp = registry.archive.folder(registry.data_root) / STAMP
    stamp.parent.mkdir(parents=True)
    stamp.write_text("1" * 64)
    registry.pin(registry.archive)
    assert registry.fetch() == []
    assert stamp.read_text().strip() == registry.archive.sha256


def test_a_wrong_checksum_is_an_error_and_leaves_nothing(registry: Registry) -> None:
    registry.client("npm", action="pathlib.Path('hello-1.0.tgz').write_text('something else')")
    [failure] = registry.fetch()
    actual = hashlib.sha256(b"something else").hexdigest()
    assert f"hello-1.0.tgz from npm has the SHA-256 {actual} instead of {registry.archive.sha256}" in failure
    assert "run `npm pack hello@1.0` on another machine" in failure and "\n" not in failure
    assert not registry.archive.path(registry.data_root).exists() and registry.leftovers == []


def test_a_client_that_fails_is_quoted(registry: Registry) -> None:
    registry.client("npm", action="pathlib.Path('hello-1.0.tgz').write_text('half'); sys.exit('ENOTFOUND registry')")
    [failure] = registry.fetch()
    assert "`npm pack hello@1.0` failed with exit status 1: ENOTFOUND registry" in failure
    assert not registry.archive.path(registry.data_root).exists() and registry.leftovers == []


def test_a_client_that_writes_something_else_is_an_error(registry: Registry) -> None:
    registry.client("npm", filename="hello-2.0.tgz")
    [failure] = registry.fetch()
    assert "was to write hello-1.0.tgz but wrote hello-2.0.tgz" in failure


def test_a_missing_client_is_named_with_its_remedy_and_the_others_are_still_fetched(registry: Registry) -> None:
    registry.client("npm")
    debian = replace(registry.archive, name="debian", filename="hello_1_all.deb", package="hello=1")
    registry.pin(debian, registry.archive)
    [failure] = registry.fetch()
    assert failure.startswith("emoji: apt-get, which hello=1 needs, is not installed.")
    by_hand = f"on a Debian 12 machine, save what it writes as {debian.path(registry.data_root)}"
    assert f"run `apt-get download hello=1` {by_hand}" in failure
    assert is_unpacked(registry.archive, registry.data_root)


def test_a_debian_package_is_downloaded_and_unpacked_without_being_installed(registry: Registry) -> None:
    debian = replace(registry.archive, filename="hello_1_all.deb", package="hello=1")
    registry.pin(debian)
    registry.client("apt-get", filename="hello_1_all.deb")
    [failure] = registry.fetch()
    assert "dpkg-deb, which hello=1 needs, is not installed" in failure
    registry.script("dpkg-deb", DPKG_DEB)
    assert registry.fetch() == []
    assert (debian.folder(registry.data_root) / "package" / "hello.txt").read_text() == "hello"
    assert registry.calls == 1


def test_only_what_was_unpacked_is_flushed_to_the_disk(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = set()
    monkeypatch.setattr(os, "sync", lambda: pytest.fail("flushes every file system"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.add(os.fstat(descriptor).st_ino))
    registry.client("npm")
    registry.fetch()
    folder = registry.archive.folder(registry.data_root)
    files = [folder / "package" / "hello.txt", folder / STAMP, registry.archive.path(registry.data_root)]
    assert flushed == {file.stat().st_ino for file in files}


def test_the_command_line_reports_success_and_failure(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data_root", str(registry.data_root), "--dataset", "emoji"]
    assert media.main(arguments) == 1
    assert "npm, which hello@1.0 needs, is not installed" in capsys.readouterr().err
    registry.client("npm")
    assert media.main(arguments) == 0


def test_several_datasets_can_be_named(registry: Registry) -> None:
    registry.client("npm")
    registry.pin(*(replace(registry.archive, dataset=name) for name in dataset_names()))
    assert media.main([f"--data_root={registry.data_root}", "--dataset=furniture,emoji"]) == 0
    assert sorted(os.listdir(registry.data_root)) == ["emoji", "furniture"]


def test_an_interrupted_run_leaves_nothing_half_done_and_says_how_to_go_on(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.client("npm", action="import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(60)")
    assert media.main([f"--data_root={registry.data_root}"]) == 130
    assert "Stopped. To go on, give the same command again." in capsys.readouterr().err
    assert registry.leftovers == []


@pytest.mark.parametrize("below", ["", "/media"])
def test_a_data_root_that_cannot_be_a_folder_is_named_once(
    registry: Registry, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        media.main([f"--data_root={registry.source}{below}"])
    assert capsys.readouterr().err.count(f"--data_root={registry.source}{below} cannot be made a folder") == 1


def test_a_dataset_folder_that_cannot_be_written_is_reported_with_a_remedy(registry: Registry) -> None:
    registry.data_root.mkdir()
    (registry.data_root / "emoji").write_text("")
    [failure] = registry.fetch()
    assert failure.startswith(f"emoji: hello cannot be written into {registry.data_root}: ")
    assert "name another folder with --data_root" in failure


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--dataset=emojis", "There is no dataset 'emojis'; did you mean emoji"),
        ("--data-root=x", "there is no flag '--data-root=x'; the nearest are: --data_root"),
        ("--data=x", "there is no flag '--data=x'"),
    ],
)
def test_what_is_misspelt_is_named_with_the_nearest(
    argument: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        media.main([argument])
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "construct, file",
    [
        (EmojiPictures, "data-by-emoji.json"),
        (Furniture, "Scopia.sh3f"),
        (Instruments, "FluidR3_GM.sf2"),
        (Sounds, "misc_crow.flac"),
        (Exercises, "watch_dataset.npy"),
    ],
)
def test_the_advice_for_damaged_media_mends_them(
    construct: type[Dataset], file: str, tiny_media: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.pin(*(repacked(archive, tiny_media, registry.data_root) for archive in ARCHIVES))
    monkeypatch.setattr(archives, "ARCHIVES", media.ARCHIVES)
    fetch = [f"--data_root={registry.data_root}", f"--dataset={construct.name}"]
    assert media.main(fetch) == 0
    construct(registry.data_root)
    [damaged] = registry.data_root.rglob(file)
    damaged.unlink()
    with pytest.raises(MediaError, match="run `make pocket-media`") as caught:
        construct(registry.data_root)
    [advised] = re.findall(r"delete (\S+) and run", str(caught.value))
    shutil.rmtree(advised)
    assert media.main(fetch) == 0
    construct(registry.data_root)


def repacked(archive: Archive, source: Path, data_root: Path) -> Archive:
    """Writes a tar of an archive's tiny content to where its download would be; the archive pinned to that."""
    archive = replace(archive, filename=f"{archive.name}.tgz")
    path = archive.path(data_root)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for entry in archive.folder(source).iterdir():
            tar.add(entry, entry.name)
    return replace(archive, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("content", [b"0" * 64, b"\xff\x00"])
def test_media_of_another_version_are_reported_as_missing(tmp_path: Path, content: bytes) -> None:
    stamp = ARCHIVES[0].folder(tmp_path) / STAMP
    stamp.parent.mkdir(parents=True)
    stamp.write_bytes(content)
    with pytest.raises(MediaError, match="missing, unfinished or of another version"):
        unpacked(tmp_path, ARCHIVES[0].name)
