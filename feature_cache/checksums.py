"""SHA-256 of large files, computed once: a small file beside each remembers it."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from feature_cache.atomic import write_atomically

SUFFIX = ".sha256.json"


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content.

    It is read from `<path>.sha256.json` if that was written for this very file as it is now, and written there
    otherwise, unless the folder cannot be written.
    """
    state = os.stat(path)
    # Copying tools set the time of modification; nobody sets the time of change.
    stamp = {
        "size": state.st_size,
        "modified_ns": state.st_mtime_ns,
        "changed_ns": state.st_ctime_ns,
        "inode": state.st_ino,
    }
    note = path.with_name(path.name + SUFFIX)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(note.read_bytes())
        if known == {**stamp, "sha256": known["sha256"]} and len(bytes.fromhex(known["sha256"])) == 32:
            return str(known["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # a read-only folder: it is computed again next time
        write_atomically(note, json.dumps({**stamp, "sha256": digest}).encode() + b"\n")
    return digest


def sha256_of_files(paths: Sequence[Path]) -> str:
    """Hexadecimal SHA-256 of the files' own digests, in the order given."""
    return hashlib.sha256(b"".join(bytes.fromhex(sha256_of_file(path)) for path in paths)).hexdigest()
