"""Errors that are not this program's own, in one paragraph: what is wrong and what to do."""

import argparse
import errno
from pathlib import Path

from feature_cache import encoders
from feature_cache.errors import UserError
from feature_cache.registry import resolve

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def explained(error: Exception, flags: argparse.Namespace, dataset: str) -> str | None:
    """What to say of an error that ended the extraction of a dataset; None for one that is a bug."""
    if isinstance(error, ImportError):
        return f"{error}. Extraction needs more packages than training; to get them, run `make extract-deps`."
    if _is_out_of_memory(error):
        return f"out of memory with --batch_size={flags.batch_size}; choose a smaller one."
    if isinstance(error, OSError):
        return _explained_system_error(error, flags, dataset)
    return str(error) if isinstance(error, UserError) else None


def _is_out_of_memory(error: Exception) -> bool:
    """Of the machine or of the GPU; the latter's class is known by name, so that torch need not be imported."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _explained_system_error(error: OSError, flags: argparse.Namespace, dataset: str) -> str:
    path = error.filename2 or error.filename or flags.cache_dir
    what = f"{path}: {error.strerror or error}."
    if error.errno in FULL:
        folder = Path(flags.cache_dir) / resolve(encoders.REGISTRY, "encoder", flags.encoder).name / dataset
        return (
            f"{what} The shards in {folder} that are finished stay valid: make space there and give the same command "
            "again, which goes on from them, or choose another --cache_dir."
        )
    return f"{what} Put that right, or choose another --cache_dir or --data_root."
