import io
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from feature_cache.sources.split_zip import SplitZipError, open_volumes, volumes
from feature_cache.sources.unpack import UnpackError, unpack
from tests.sources.archives import seven_zip_of, split_zip_of, tar_of, zip_of

FILES = {"a.txt": b"alpha", "deep/er/b c.bin": bytes(range(256)) * 40, "empty": b"", "Été/ü.txt": "Ω".encode()}
MAKERS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    ".zip": zip_of,
    ".tar": tar_of,
    ".tar.gz": lambda files: tar_of(files, "w:gz"),
    ".tgz": lambda files: tar_of(files, "w:gz"),
    ".7z": seven_zip_of,
}


def saved(folder: Path, suffix: str, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"archive{suffix}"
    path.write_bytes(MAKERS[suffix](files))
    return path


def content(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def nothing(done: int, total: int) -> None:
    pass


@pytest.mark.parametrize("suffix", MAKERS)
def test_every_kind_gives_back_what_went_in(tmp_path: Path, suffix: str) -> None:
    seen: list[tuple[int, int]] = []
    archive = saved(tmp_path / "in", suffix, FILES)
    unpack(archive, tmp_path / "out", lambda done, total: seen.append((done, total)))
    assert content(tmp_path / "out") == FILES
    assert seen == sorted(seen)
    assert content(tmp_path / "in") == {archive.name: archive.read_bytes()}


@pytest.mark.parametrize("suffix", MAKERS)
@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil_of_an_archive.txt", "a/../../evil.txt", "a\\..\\evil.txt"])
def test_a_path_that_leaves_the_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, name: str
) -> None:
    with monkeypatch.context() as patch:  # py7zr would not write such names
        patch.setattr("py7zr.py7zr.check_archive_path", lambda name: True)
        patch.setattr("py7zr.SevenZipFile._sanitize_archive_arcname", staticmethod(lambda name: name))
        path = saved(tmp_path / "in", suffix, {"good.txt": b"1", name: b"evil"})
    out = tmp_path / "deep" / "out"
    with pytest.raises(UnpackError, match="outside of its folder"):
        unpack(path, out, nothing)
    assert not list(tmp_path.rglob("evil*")) and not Path("/tmp/evil_of_an_archive.txt").exists()


def test_links_in_a_tar_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    with pytest.raises(UnpackError, match="a link or a device in it, 'link'"):
        unpack(path, tmp_path / "out", nothing)


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
    with pytest.raises(UnpackError, match="a link or a device in it, 'link'"):
        unpack(path, tmp_path / "out", nothing)


@pytest.mark.parametrize("suffix", MAKERS)
@pytest.mark.parametrize("keep", [0, 40, 0.6])
def test_a_truncated_archive_is_an_error_that_says_what_to_do(tmp_path: Path, suffix: str, keep: float) -> None:
    random = np.random.default_rng(0).bytes(100_000)
    archive = saved(tmp_path, suffix, {"noise": random})
    data = archive.read_bytes()
    archive.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(UnpackError, match="delete it and give the same command again"):
        unpack(archive, tmp_path / "out", nothing)
    assert not (tmp_path / "out/noise").exists()


@pytest.mark.parametrize(
    "suffix", [".zip", ".7z", ".tar.xz", ".tar.bz2"]
)  # the others do not notice: checksums of whole archives are for downloads
def test_flipped_bytes_are_an_error_that_says_what_to_do(tmp_path: Path, suffix: str) -> None:
    random = np.random.default_rng(0).bytes(100_000)
    if suffix in MAKERS:
        archive = saved(tmp_path, suffix, {"noise": random})
    else:
        archive = tmp_path / f"archive{suffix}"
        with tarfile.open(archive, f"w:{suffix.rpartition('.')[2]}") as tar:
            member = tarfile.TarInfo("noise")
            member.size = len(random)
            tar.addfile(member, io.BytesIO(random))
    data = bytearray(archive.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    archive.write_bytes(data)
    with pytest.raises(UnpackError, match="delete it and give the same command again"):
        unpack(archive, tmp_path / "out", nothing)
    assert not (tmp_path / "out/noise").exists()


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_after_a_kill_only_what_is_missing_is_written(tmp_path: Path, suffix: str) -> None:
    archive = saved(tmp_path, suffix, FILES)
    out = tmp_path / "out"

    class Killed(BaseException):
        pass

    def die(done: int, total: int) -> None:
        if (out / "deep/er/b c.bin").exists():
            raise Killed

    with pytest.raises(Killed):
        unpack(archive, out, die)
    early = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert 0 < len(early) < len(FILES)
    unpack(archive, out, nothing)
    assert content(out) == FILES
    assert {path: path.stat().st_mtime_ns for path in early} == early


def test_a_file_of_another_length_is_replaced(tmp_path: Path) -> None:
    archive = saved(tmp_path, ".zip", FILES)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.txt").write_bytes(b"alph")
    unpack(archive, tmp_path / "out", nothing)
    assert content(tmp_path / "out") == FILES


@pytest.mark.parametrize("suffix", MAKERS)
def test_members_are_placed_and_left_out(tmp_path: Path, suffix: str) -> None:
    archive = saved(tmp_path, suffix, FILES)

    def place(path: PurePosixPath) -> PurePosixPath | None:
        return PurePosixPath("flat") / path.name if path.suffix == ".txt" else None

    unpack(archive, tmp_path / "out", nothing, place)
    assert content(tmp_path / "out") == {"flat/a.txt": FILES["a.txt"], "flat/ü.txt": FILES["Été/ü.txt"]}


@pytest.mark.parametrize("name", ["archive.rar", "archive.txt"])
def test_an_unknown_kind_is_for_the_hand(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnpackError, match="by hand"):
        unpack(tmp_path / name, tmp_path, nothing)


@pytest.fixture(scope="module")
def split_files() -> dict[str, bytes]:
    random = np.random.default_rng(1)
    return {f"tvl_dataset/{part}/{n}.jpg": random.bytes(9_000 + n) for part in ("a", "b") for n in range(12)}


@pytest.fixture(scope="module")
def split_zip(split_files: dict[str, bytes]) -> dict[str, bytes]:
    if not shutil.which("zip"):
        pytest.skip("zip is not installed")
    return split_zip_of(split_files, "sharded")


def test_an_archive_that_info_zip_has_split_is_read(
    tmp_path: Path, split_files: dict[str, bytes], split_zip: dict[str, bytes]
) -> None:
    assert len(split_zip) >= 4
    for name, data in split_zip.items():
        (tmp_path / name).write_bytes(data)
    unpack(tmp_path / "sharded.zip", tmp_path / "out", nothing)
    assert content(tmp_path / "out") == split_files


def test_a_missing_volume_is_named(tmp_path: Path, split_zip: dict[str, bytes]) -> None:
    for name, data in split_zip.items():
        if name != "sharded.z02":
            (tmp_path / name).write_bytes(data)
    with pytest.raises(SplitZipError, match=r"sharded\.z02 is missing"):
        unpack(tmp_path / "sharded.zip", tmp_path / "out", nothing)
    for name in ("sharded.z01", "sharded.z03", "sharded.z04"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises((SplitZipError, UnpackError)):
        unpack(tmp_path / "sharded.zip", tmp_path / "out", nothing)


@pytest.mark.parametrize("width", [32, 64])
def test_an_archive_split_by_hand_is_read_also_with_64_bit_directories(tmp_path: Path, width: int) -> None:
    """The format by its specification: volumes cut anywhere, entries with the number of their volume."""
    files = {f"{n}.bin": np.random.default_rng(n).bytes(700 + n) for n in range(6)}
    cut, last = by_hand(files, width)
    (tmp_path / "x.z01").write_bytes(cut[0])
    (tmp_path / "x.z02").write_bytes(cut[1])
    (tmp_path / "x.zip").write_bytes(cut[2] + last)
    with open_volumes(volumes(tmp_path / "x.zip")) as joined, zipfile.ZipFile(joined) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files


def by_hand(files: dict[str, bytes], width: int) -> tuple[list[bytes], bytes]:
    """Three volumes of stored members, the last still without its directory; and the directory."""
    import struct
    import zlib

    body, at = b"", {}
    for name, data in files.items():
        at[name] = len(body)
        head = struct.pack(
            "<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), 0
        )
        body += head + name.encode() + data
    starts = [0, at["2.bin"], at["4.bin"]]
    pieces = [body[: starts[1]], body[starts[1] : starts[2]], body[starts[2] :]]
    directory = b""
    for name, data in files.items():
        disk = sum(at[name] >= start for start in starts) - 1
        offset, extra = at[name] - starts[disk], b""
        size, field_disk, field_offset = len(data), disk, offset
        if width == 64:
            extra = struct.pack("<2H3QI", 1, 28, size, size, offset, disk)
            size, field_disk, field_offset = 0xFFFFFFFF, 0xFFFF, 0xFFFFFFFF
        numbers = (20, 20, 0, 0, 0, 33, zlib.crc32(data), size, size, len(name), len(extra), 0, field_disk, 0, 0)
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", *numbers, field_offset) + name.encode() + extra
    place = len(pieces[2])
    if width == 32:
        return pieces, directory + struct.pack("<4s4H2IH", b"PK\5\6", 2, 2, 6, 6, len(directory), place, 0)
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 2, 2, 6, 6, len(directory), place)
    locator = struct.pack("<4sIQI", b"PK\6\7", 2, place + len(directory), 3)
    return pieces, directory + end + locator + struct.pack(
        "<4s4H2IH", b"PK\5\6", 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0
    )


def test_volumes_are_one_file_for_random_reading(tmp_path: Path) -> None:
    data = np.random.default_rng(3).bytes(1000)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("noise", data)
    (tmp_path / "x.zip").write_bytes(zipped.getvalue())
    with open_volumes([tmp_path / "x.zip"]) as joined:
        for start in range(0, 900, 97):
            joined.seek(start)
            assert joined.read(50) == zipped.getvalue()[start : start + 50]
        with zipfile.ZipFile(joined) as archive:
            assert archive.read("noise") == data
