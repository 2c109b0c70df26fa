"""An encoder's published weights that do not come inside a package: where they are looked for, and how to get them.

An encoder that has some says so by the class attribute `checkpoint`; `python extract_features.py weights` shows and
fetches them.
"""

import shlex
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from feature_cache.downloading import DownloadError, OtherFileError, Progress, download
from feature_cache.encoders.base import default_weights
from feature_cache.errors import WeightsError


@dataclass(frozen=True)
class Checkpoint(ABC):
    """What an encoder's weights are. Where they are several files, override `place` to be their folder.

    Attributes:
        name: of the file, or the folder, that holds them.
        license: SPDX identifier where there is one.
        home: the page that describes them.
        size: bytes to be fetched; None = unknown.
    """

    name: str
    license: str
    home: str
    size: int | None

    @abstractmethod
    def fetch(self, place: Path, progress: Progress) -> None:
        """Brings the weights to `place`, resuming what an earlier call began.

        Raises `DownloadError` if that fails; its message has the steps to take by hand if there is no other way.
        """

    def place(self, encoder: str, weights: Path | None) -> Path:
        """The file of the weights; `weights` is what --weights says: that file, or the folder it is in.

        >>> FileCheckpoint("a.pth", "MIT", "https://example.org", None, "https://example.org/a.pth").place("mine", None)
        PosixPath('weights/mine/a.pth')
        """
        if weights is None:
            return default_weights(encoder) / self.name
        is_folder = weights.is_dir() or (not weights.suffix and not weights.exists())
        return weights / self.name if is_folder else weights

    def begun(self, place: Path) -> bool:
        """Whether something of it has been fetched, so that somebody has accepted the licence."""
        return place.exists()

    def locate(self, encoder: str, weights: Path | None) -> Path:
        """`place`, if there is something. Raises `WeightsError` with the command that fetches them."""
        place = self.place(encoder, weights)
        if not place.exists():
            raise WeightsError(
                f"The encoder {encoder} has no weights: {place} does not exist. To get them, run "
                f"`{weights_command(encoder, weights)}`; if you have them elsewhere, name the file or its folder with "
                "--weights."
            )
        return place


@dataclass(frozen=True)
class FileCheckpoint(Checkpoint):
    """One file behind an address.

    Attributes:
        url: http or https.
        sha256: hexadecimal, of the file; None = unknown.
    """

    url: str
    sha256: str | None = None

    def fetch(self, place: Path, progress: Progress) -> None:
        try:
            download(self.url, place, self.sha256, self.size, progress)
        except OtherFileError as error:
            raise OtherFileError(
                f"{error} If {self.home} has another file by now, fetch it by hand and name it with --weights, which is "
                "not compared with this checksum."
            ) from error


@dataclass(frozen=True)
class ManualCheckpoint(Checkpoint):
    """One file that only a person with a browser can fetch.

    Attributes:
        steps: what that person has to do, a sentence each; "{place}" stands for where the file belongs.
    """

    steps: tuple[str, ...]

    def fetch(self, place: Path, progress: Progress) -> None:
        if place.exists():
            return
        steps = (f"\n  {number}. {step.format(place=place)}" for number, step in enumerate(self.steps, 1))
        raise DownloadError(f"{self.name} cannot be fetched without a person. Please:{''.join(steps)}")


def weights_command(encoder: str, weights: Path | None = None) -> str:
    """The command that fetches an encoder's weights, or says how to.

    >>> weights_command("imagebind", Path("my models"))
    "python extract_features.py weights --encoder=imagebind '--weights=my models'"
    """
    where = [] if weights is None else [f"--weights={weights}"]
    return shlex.join(["python", "extract_features.py", "weights", f"--encoder={encoder}", *where])
