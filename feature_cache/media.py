"""Fetches the media of the pocket suite with the package clients.

    python -m feature_cache.media --data_root=media

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
from collections.abc import Collection
from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from feature_cache.archives import ARCHIVES, STAMP, Archive, datasets, is_unpacked
from feature_cache.errors import MediaError, UserError
from feature_cache.registry import check_name

SCRATCH = ".unfinished-"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def by_hand(archive: Archive, data_root: Path) -> str:
    """How to get the archive without its client."""
    where = "a Debian 12 machine" if archive.is_debian else "another machine"
    return (
        f"or run `{' '.join(download_command(archive))}` on {where}, save what it writes as {archive.path(data_root)} "
        "and run `make pocket-media` again"
    )


def download_command(archive: Archive) -> list[str]:
    """The package client's command that writes the archive into the current folder."""
    return ["apt-get", "download", archive.package] if archive.is_debian else ["npm", "pack", archive.package]


def require_client(client: str, archive: Archive, data_root: Path) -> None:
    """Raises `MediaError` if a program is not installed."""
    if shutil.which(client):
        return
    advice = {
        "npm": "Install it (Debian and Ubuntu: sudo apt-get install npm; macOS: brew install node) and run "
        f"`make pocket-media` again, {by_hand(archive, data_root)}.",
        "apt-get": f"It comes with Debian and Ubuntu only; elsewhere{by_hand(archive, data_root).removeprefix('or')}.",
        "dpkg-deb": "Install it (Fedora: sudo dnf install dpkg; Arch: sudo pacman -S dpkg; macOS: brew install dpkg) "
        "and run `make pocket-media` again; what is downloaded already stays.",
    }[client]
    raise MediaError(f"{client}, which {archive.package} needs, is not installed. {advice}")


def download(archive: Archive, data_root: Path, progress: Progress, task: TaskID) -> None:
    """Downloads an archive with its package client into its place; raises `MediaError` if it can't."""
    command = download_command(archive)
    client = command[0]
    require_client(client, archive, data_root)
    place = archive.path(data_root)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=place.parent) as scratch:
        run(command, Path(scratch), archive, data_root, progress, task)
        fetched = Path(scratch) / archive.filename
        if not fetched.is_file():
            found = ", ".join(sorted(os.listdir(scratch))) or "nothing"
            raise MediaError(
                f"`{' '.join(command)}` was to write {archive.filename} but wrote {found}. Run it by hand to see why, "
                f"{by_hand(archive, data_root)}."
            )
        actual = sha256_of(fetched)
        if actual != archive.sha256:
            raise MediaError(
                f"{archive.filename} as fetched with {client} has the SHA-256 {actual} instead of {archive.sha256}: "
                "this system's package source offers another build, or the download is damaged. Run "
                f"`make pocket-media` again, {by_hand(archive, data_root)}."
            )
        with fetched.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(fetched, place)


def run(command: list[str], folder: Path, archive: Archive, data_root: Path, progress: Progress, task: TaskID) -> None:
    """Runs a package client in `folder`; the bar follows the size of what it has written there."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
                progress.update(task, completed=min(bytes_in(folder), archive.size))
        except BaseException:
            process.kill()
            process.wait()
            raise
        output.seek(0)
        printed = output.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        hint = " `sudo apt-get update` refreshes the list of packages." if archive.is_debian else ""
        raise MediaError(
            f"`{' '.join(command)}` failed with exit status {process.returncode}: "
            f"{' / '.join(printed[-3:]) or 'it printed nothing'}.{hint} Check the network and run `make pocket-media` "
            f"again, {by_hand(archive, data_root)}."
        )


def bytes_in(folder: Path) -> int:
    """The size of all files directly in a folder; one that vanishes meanwhile counts as empty."""
    total = 0
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            total += entry.stat().st_size
    return total


def unpack(archive: Archive, data_root: Path) -> None:
    """Unpacks a downloaded archive; its folder appears whole, with its stamp, or not at all."""
    path, folder = archive.path(data_root), archive.folder(data_root)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder.parent) as scratch:
        content = Path(scratch) / archive.name
        if archive.is_debian:
            require_client("dpkg-deb", archive, data_root)
            done = subprocess.run(["dpkg-deb", "-x", path, content], capture_output=True, text=True)
            if done.returncode:
                raise MediaError(
                    f"`dpkg-deb -x {path}` failed: {done.stderr.strip() or 'it printed nothing'}. Is the disk full? "
                    "Run `make pocket-media` again."
                )
        else:
            with tarfile.open(path) as tar:
                # Python 3.11.0 to 3.11.3 have no filters; the checksum has vouched for the content.
                tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
                tar.extractall(content)
        (content / STAMP).write_text(archive.sha256 + "\n")
        os.sync()
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(content, folder)


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed run left half done."""
    for leftover in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def fetch(archive: Archive, data_root: Path, progress: Progress) -> None:
    """Brings one archive from wherever it stands to unpacked; raises `MediaError` if that fails."""
    task = progress.add_task(f"{archive.dataset}: {archive.name}", total=archive.size, state="")
    if not is_unpacked(archive, data_root):
        path = archive.path(data_root)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        if not (path.is_file() and sha256_of(path) == archive.sha256):
            progress.update(task, state="fetching")
            download(archive, data_root, progress, task)
        progress.update(task, completed=archive.size, state="unpacking")
        unpack(archive, data_root)
    progress.update(task, completed=archive.size, state="ready")


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
            try:
                fetch(archive, data_root, progress)
            except (MediaError, OSError, tarfile.TarError) as error:
                progress.update(progress.tasks[-1].id, state="failed")
                failures.append(f"{archive.dataset}: {error}")
    return failures


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser("python -m feature_cache.media", description="Fetches the pocket suite's media.")
    parser.add_argument("--data_root", type=Path, default=Path("media"), help="where to put them (default: media)")
    parser.add_argument("--dataset", default="all", help=f"all, or one of {', '.join(datasets())}")
    arguments = parser.parse_args(argv)
    console = Console(stderr=True)
    try:
        check_name([*datasets(), "all"], "dataset", arguments.dataset)
    except UserError as error:
        console.print(str(error), markup=False, soft_wrap=True)
        return 2
    names = datasets() if arguments.dataset == "all" else [arguments.dataset]
    failures = fetch_all(names, arguments.data_root, console)
    for failure in failures:
        console.print("\n" + failure, markup=False, soft_wrap=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
