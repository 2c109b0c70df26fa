import os
from pathlib import Path

import pytest

import extract_features
from tests.feature_cache import tiny as tiny_suite


class Tiny:
    """The tiny suite in a temporary folder: its media, its cache, and the command line that makes one of the other."""

    def __init__(self, root: Path) -> None:
        self.data_root = tiny_suite.write_tones(root / "media")
        self.cache_dir = root / "caches"
        self.cache = self.cache_dir / "tinybind" / "tones"
        self.log = root / "log"

    def flags(self, *more: str) -> list[str]:
        """Train, validation and test of 10, 3 and 5 items become 3, 1 and 2 shards."""
        named = [
            "--encoder=tinybind",
            "--dataset=tones",
            f"--data_root={self.data_root}",
            f"--cache_dir={self.cache_dir}",
        ]
        return [*named, "--shard_size=4", "--batch_size=3", "--workers=0", *more]

    def extract(self, *more: str) -> int:
        return extract_features.main(self.flags(*more))

    def embedded(self, modality: str) -> list[str]:
        """What the encoder has embedded since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line.partition(" ")[2] for line in lines if line.startswith(modality)]

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.cache.iterdir())}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    for registry, name, target in tiny_suite.REGISTRIES:
        monkeypatch.setitem(registry, name, target)
    suite = Tiny(tmp_path)
    monkeypatch.setenv("TINY_LOG", str(suite.log))
    return suite


@pytest.fixture
def subprocess_environment() -> dict[str, str]:
    """For processes that are to find the packages of this repository from anywhere."""
    return {**os.environ, "PYTHONPATH": str(Path(extract_features.__file__).parent)}
