"""Weights on the Hugging Face hub: a folder for each repository, and every file checked against what the hub says."""

import hashlib
import json
import shlex
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_cache.atomic import write_atomically
from feature_cache.checksums import sha256_of_file
from feature_cache.downloading import DownloadError, Progress, first_cause
from feature_cache.encoders.base import default_weights
from feature_cache.encoders.weights.checkpoints import Checkpoint

RECORD = "hub.json"
"""Beside the files: the repository, its commit, and the SHA-256 of each file that was fetched."""
_PARTS = ".cache/huggingface/download/*.incomplete"
_PAUSE = 0.5  # seconds between looks at how much has arrived


@dataclass(frozen=True)
class Repository:
    """A repository of the hub.

    Attributes:
        name: "owner/name"; the second part is the folder.
        revision: the commit; None = the newest, which is then recorded.
    """

    name: str
    revision: str | None = None

    @property
    def folder(self) -> str:
        """Where its files belong, below the checkpoint's place."""
        return self.name.partition("/")[2]


@dataclass(frozen=True)
class HubCheckpoint(Checkpoint):
    """Several repositories.

    Attributes:
        repositories: whose folders lie in the checkpoint's place.
        files: what is wanted of each; of a tuple the first that the repository has.
        endpoint: of the hub; None = the hub itself, or what the variable HF_ENDPOINT says.
    """

    repositories: tuple[Repository, ...]
    files: tuple[str | tuple[str, ...], ...]
    endpoint: str | None = None

    def place(self, encoder: str, weights: Path | None) -> Path:
        """The folder of the repositories' folders."""
        return default_weights(encoder) if weights is None else weights

    def begun(self, place: Path) -> bool:
        return any((place / repository.folder).exists() for repository in self.repositories)

    def fetch(self, place: Path, progress: Progress) -> None:
        for repository in self.repositories:
            self._fetch(repository, place / repository.folder, progress)

    def _fetch(self, repository: Repository, folder: Path, progress: Progress) -> None:
        if _is_recorded(repository, folder):
            return
        from huggingface_hub import HfApi, snapshot_download

        try:
            api = HfApi(endpoint=self.endpoint)
            info = api.model_info(repository.name, revision=repository.revision, files_metadata=True)
            wanted = self._choose(repository, {file.rfilename: file for file in info.siblings or ()})
            for path in (folder / file.rfilename for file in wanted if not _is_right(folder / file.rfilename, file)):
                path.unlink(missing_ok=True)  # the hub's own client would take it for the file
            with _reporting(folder, [file.rfilename for file in wanted], sum(file.size for file in wanted), progress):
                names = [file.rfilename for file in wanted]
                snapshot_download(
                    repository.name,
                    revision=info.sha,
                    local_dir=folder,
                    allow_patterns=names,
                    endpoint=self.endpoint,
                )
        except OSError as error:  # the hub's errors, and those of connections, are among them
            reason = " ".join(str(first_cause(error)).split()).rstrip(".") or type(error).__name__
            raise DownloadError(
                f"{repository.name} could not be fetched from the Hugging Face hub: {reason}. Try again, which goes on "
                f"from what has arrived. {self._by_hand(repository, folder)}"
            ) from error
        digests = {file.rfilename: self._verified(repository, folder, file) for file in wanted}
        record = {"repository": repository.name, "revision": info.sha, "sha256": digests}
        write_atomically(folder / RECORD, json.dumps(record, indent=2).encode() + b"\n")

    def _choose(self, repository: Repository, found: dict[str, Any]) -> list[Any]:
        """What the hub says of each wanted file."""
        alternatives = [(file,) if isinstance(file, str) else file for file in self.files]
        missing = [names for names in alternatives if not any(name in found for name in names)]
        if missing:
            raise DownloadError(
                f"{repository.name} on the Hugging Face hub has no {' or '.join(missing[0])}, only "
                f"{', '.join(sorted(found)) or 'nothing'}. See https://huggingface.co/{repository.name}."
            )
        return [found[next(name for name in names if name in found)] for names in alternatives]

    def _verified(self, repository: Repository, folder: Path, file: Any) -> str:
        """SHA-256 of a file that is what the hub says; another one is removed, so that it is fetched next time."""
        path = folder / file.rfilename
        if not path.is_file():
            raise DownloadError(f"{path} did not arrive from the Hugging Face hub. {self._by_hand(repository, folder)}")
        if not _is_right(path, file):
            path.unlink()
            raise DownloadError(
                f"{path} arrived damaged and was removed: its checksum is not the one that the Hugging Face hub says, "
                f"{_checksum(file)}. Run the same command again, which fetches it anew."
            )
        return sha256_of_file(path)

    def _by_hand(self, repository: Repository, folder: Path) -> str:
        files = [name if isinstance(name, str) else name[-1] for name in self.files]
        revision = [] if repository.revision is None else ["--revision", repository.revision]
        command = shlex.join(["hf", "download", repository.name, *files, *revision, "--local-dir", str(folder)])
        return f"Or, on a machine that reaches it, run `{command}`."


def _is_recorded(repository: Repository, folder: Path) -> bool:
    """Whether all files of the repository are there as they were when they were verified."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
        if record["repository"] != repository.name or repository.revision not in (None, record["revision"]):
            return False
        return all(sha256_of_file(folder / name) == digest for name, digest in record["sha256"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_right(path: Path, file: Any) -> bool:
    """Whether a file is there and is what the hub says: of a large one its SHA-256, of another one git's name."""
    if not path.is_file():
        return False
    return (sha256_of_file(path) if file.lfs else _git_name(path)) == _checksum(file)


def _checksum(file: Any) -> str:
    return str(file.lfs.sha256 if file.lfs else file.blob_id)


def _git_name(path: Path) -> str:
    """What git calls a file's content: SHA-1 over its length and itself."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@contextmanager
def _reporting(folder: Path, names: Sequence[str], total: int, progress: Progress) -> Iterator[None]:
    """Reports meanwhile how much of a folder has arrived; the hub's own bars would get in the way of another one."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    done = threading.Event()

    def report() -> None:
        while not done.wait(_PAUSE):
            progress(_arrived(folder, names), total)

    had_bars = not are_progress_bars_disabled()
    if had_bars:
        disable_progress_bars()
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if had_bars:
            enable_progress_bars()
    progress(total, total)


def _arrived(folder: Path, names: Sequence[str]) -> int:
    """Bytes of the files, and of what becomes one, that are there."""
    sizes = 0
    for path in [*(folder / name for name in names), *folder.glob(_PARTS)]:
        try:
            sizes += path.stat().st_size
        except OSError:  # not there yet, or whole by now and renamed
            continue
    return sizes
