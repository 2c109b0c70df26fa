"""Files appear whole or not at all."""

import os
import secrets
from pathlib import Path

SUFFIX = ".tmp"


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a temporary file beside `path` and renames it once its bytes are on the disk."""
    # A name of its own, so that two processes cannot mix their bytes; not `tempfile`, whose files are private.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_temporaries(folder: Path) -> None:
    """Removes what a killed `write_atomically` left in `folder`."""
    for path in folder.glob(f"*{SUFFIX}"):
        if path.is_file():
            path.unlink(missing_ok=True)
