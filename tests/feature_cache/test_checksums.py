import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from feature_cache import checksums
from feature_cache.checksums import sha256_of_file, sha256_of_files


def expected(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    names: list[str] = []
    digest = hashlib.file_digest

    def counting(file, kind):  # type: ignore[no-untyped-def]
        names.append(Path(file.name).name)
        return digest(file, kind)

    monkeypatch.setattr(checksums.hashlib, "file_digest", counting)
    return names


def test_a_file_is_read_once(tmp_path: Path, hashed: list[str]) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")
    assert [sha256_of_file(path) for _ in range(3)] == [expected(path)] * 3
    assert hashed == ["weights.pth"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["weights.pth", "weights.pth.sha256.json"]


def test_a_changed_file_is_read_again(tmp_path: Path, hashed: list[str]) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"one")
    first = sha256_of_file(path)
    path.write_bytes(b"longer")
    assert sha256_of_file(path) == expected(path) != first
    path.write_bytes(b"sixsix")
    os.utime(path, ns=(1, 1))
    assert sha256_of_file(path) == expected(path)
    assert len(hashed) == 3


def test_a_file_of_the_same_size_and_time_in_its_place_is_read(tmp_path: Path, hashed: list[str]) -> None:
    path, other = tmp_path / "weights.pth", tmp_path / "other.pth"
    path.write_bytes(b"one")
    first = sha256_of_file(path)
    other.write_bytes(b"two")
    shutil.copystat(path, other)
    other.replace(path)
    assert sha256_of_file(path) == expected(path) != first
    path.write_bytes(b"six")  # the same inode
    os.utime(path, ns=(os.stat(path).st_atime_ns, 1))
    second = os.stat(path)
    sha256_of_file(path)
    time.sleep(0.02)  # longer than a tick of the kernel's clock
    path.write_bytes(b"ten")
    os.utime(path, ns=(second.st_atime_ns, second.st_mtime_ns))
    assert (os.stat(path).st_mtime_ns, os.stat(path).st_size) == (second.st_mtime_ns, second.st_size)
    assert sha256_of_file(path) == expected(path)
    assert hashed == ["weights.pth"] * 4


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"sha256": 5}', b'{"sha256": "ab"}', b"\xff"])
def test_a_damaged_note_is_written_again(tmp_path: Path, note: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")
    sidecar = tmp_path / "weights.pth.sha256.json"
    sidecar.write_bytes(note)
    assert sha256_of_file(path) == expected(path)
    assert expected(path).encode() in sidecar.read_bytes()


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checksums, "write_atomically", refuse)
    assert sha256_of_file(path) == expected(path)
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pth"]


def test_several_files_count_in_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(path.name.encode())
    digests = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)
    assert sha256_of_files(paths) == hashlib.sha256(digests).hexdigest() != sha256_of_files(paths[::-1])
