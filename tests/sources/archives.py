"""Archives made in tests: the real formats, with content that tells one file from another."""

import io
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import py7zr


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    """`mode` as in `tarfile.open`: "w:gz" compresses."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def seven_zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(content, name)
    return buffer.getvalue()


def split_zip_of(files: dict[str, bytes], name: str, size: str = "64k") -> dict[str, bytes]:
    """The volumes by their names, as Info-ZIP's `zip -s` writes them. `OSError` where `zip` is not installed."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for path, content in files.items():
            (root / "in" / path).parent.mkdir(parents=True, exist_ok=True)
            (root / "in" / path).write_bytes(content)
        command = ["zip", "-q", "-r", "-s", size, root / f"{name}.zip", "."]
        subprocess.run(command, cwd=root / "in", check=True, capture_output=True)
        return {path.name: path.read_bytes() for path in sorted(root.glob(f"{name}.z*"))}


def nyu_frame(seed: int, height: int = 12, width: int = 16) -> tuple[bytes, np.ndarray, np.ndarray]:
    """An HDF5 file as the hub has them, its picture [3, h, w] and its depth [h, w] in metres."""
    random = np.random.default_rng(seed)
    rgb = random.integers(0, 256, (3, height, width), dtype=np.uint8)
    depth = random.uniform(0.5, 10, (height, width)).astype(np.float32)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["rgb"], file["depth"] = rgb, depth
    return buffer.getvalue(), rgb, depth
