"""Reads the variables out of a model file of CTranslate2 (opennmt.net/CTranslate2, binary version 6)."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_variables(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    data, at = file.read_bytes(), 0

    def number(form: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{form}", data, at)
        at += struct.calcsize(f"<{form}")
        return int(value)

    def name() -> str:
        nonlocal at
        length = number("H")
        at += length
        return data[at - length : at - 1].decode()  # ends with a zero

    assert number("I") == 6
    assert name() == "WhisperSpec"
    number("I")  # revision of the specification
    variables = {}
    for _ in range(number("I")):
        key = name()
        shape = [number("I") for _ in range(number("B"))]
        dtype, size = np.dtype(TYPES[number("B")]), number("I")
        at += size
        variables[key] = np.frombuffer(data[at - size : at], dtype).reshape(shape)
    return variables
