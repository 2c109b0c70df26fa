"""A disk that fills up, at whatever moment, costs no more than the shard in flight."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from feature_cache import CacheError, open_cache
from tests.feature_cache.conftest import Tiny
from tests.feature_cache.tiny import SHARDS, command

FILES = 2 * len(SHARDS) + 3
"""Those of the shards, of the class texts, the manifest, and the description of the unfinished cache."""


class Disk:
    """Has no space left from the `full_at`-th file on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written, self.full_at = 0, 0
        self._fsync = os.fsync
        monkeypatch.setattr("os.fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        self.written += 1
        if self.full_at and self.written >= self.full_at:
            os.ftruncate(descriptor, 1)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(descriptor)


@pytest.mark.parametrize("overwrite", [False, True])
def test_disk_that_is_full_at_any_file_leaves_what_resumes_to_the_same_bits(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], overwrite: bool
) -> None:
    disk = Disk(monkeypatch)
    assert tiny.extract() == 0
    assert disk.written == FILES
    whole = tiny.files()
    for full_at in range(1, FILES + 1):
        if not overwrite:
            shutil.rmtree(tiny.cache)
        disk.written, disk.full_at = 0, full_at
        capsys.readouterr()
        assert tiny.extract(*["--overwrite"] * overwrite) == 1
        said = capsys.readouterr().err
        assert f"No space left on device. The shards in {tiny.cache} that are finished stay valid: make space" in said
        assert "Traceback" not in said
        assert not list(tiny.cache.glob("*.tmp"))
        assert not list(tiny.cache.glob("*.lock"))
        if overwrite and full_at == 1:  # nothing was changed yet
            assert tiny.files() == whole
        else:
            with pytest.raises(CacheError, match="unfinished" if full_at > 1 else "it has no manifest"):
                open_cache(tiny.cache)
        tiny.embedded("audio")
        disk.full_at = 0
        assert tiny.extract() == 0
        assert tiny.files() == whole
        finished = min(max(full_at - 2, 0) // 2, len(SHARDS))
        redone = sum(map(len, list(SHARDS.values())[finished:]))
        assert len(tiny.embedded("audio")) == redone or overwrite


def test_limit_on_the_size_of_files_is_reported_like_a_full_disk(
    tiny: Tiny, subprocess_environment: dict[str, str]
) -> None:
    tiny.extract()
    whole = tiny.files()
    shutil.rmtree(tiny.cache)
    largest = max(len(data) for name, data in whole.items() if name != "manifest.json")
    environment = {key: value for key, value in subprocess_environment.items() if key != "TINY_LOG"}
    python, option, code, *flags = command(tiny.flags("--workers=1"))
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest - 1}, {largest - 1})); {code}"
    done = subprocess.run([python, option, limited, *flags], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "File too large. The shards in" in done.stderr
    assert "Traceback" not in done.stderr
    assert tiny.extract() == 0
    assert tiny.files() == whole


def test_lock_is_taken_on_a_full_disk_too(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if b'"pid"' in data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr("os.write", full)
    assert tiny.extract() == 0


def test_folder_that_cannot_be_written_is_named(tiny: Tiny, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert tiny.extract(f"--cache_dir={tmp_path / 'file' / 'below'}") == 1
    assert f"{tmp_path / 'file' / 'below' / 'tinybind'}" in capsys.readouterr().err
