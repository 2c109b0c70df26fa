"""Reads a pickled structure of arrays without running what a pickle could: everything but numpy arrays is refused."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise ValueError(f"it asks for {module}.{name}, which is no part of a numpy array")
        return _ALLOWED[module, name]


def read_object_array(path: Path) -> Any:
    """The single Python object in a `.npy` file that holds an array of objects.

    Raises `ValueError` if the file is something else, or needs anything but lists, numbers, strings and numpy arrays.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if shape != () or dtype != np.dtype(object):
            raise ValueError(f"it holds an array of shape {shape} and type {dtype} instead of one object")
        try:
            content: np.ndarray[Any, Any] = _ArraysOnly(file).load()
        except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, TypeError) as error:
            raise ValueError(f"it is cut off or damaged ({error})") from error
    return content.item()
