"""Files appear whole or not at all."""

import os
import secrets
from pathlib import Path

from feature_cache import lock

SUFFIX = ".tmp"


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a temporary file beside `path` and renames it once its bytes are on the disk."""
    try:
        _write(path, data)
    except FileNotFoundError:
        # A machine that does not see our locks took it for a dead process's, as when it started in this moment.
        _write(path, data)


def _write(path: Path, data: bytes) -> None:
    # A name of its own, so that two processes cannot mix their bytes; not `tempfile`, whose files are private.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        with lock.held(temporary):  # which tells `remove_temporaries` that its process lives
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def remove_temporaries(folder: Path) -> None:
    """Removes what a killed `write_atomically` left in `folder`, and nothing that a living one is at."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if path.is_file():
            lock.remove_if_unlocked(path)
