"""Files appear whole or not at all."""

import os
from pathlib import Path

SUFFIX = ".tmp"


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a temporary file beside `path` and renames it once its bytes are on the disk."""
    temporary = path.with_name(path.name + SUFFIX)
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def remove_temporaries(folder: Path) -> None:
    """Removes what a killed `write_atomically` left in `folder`."""
    for path in folder.glob(f"*{SUFFIX}"):
        path.unlink(missing_ok=True)
