"""The floor of an update: its operations and bytes over what this machine was measured to do.

One update of a pair of linear heads, `d` inputs and outputs each, on a batch of `B` rows in float32:

* operations: forward `2 B d²` and weight gradient `2 B d²` a head, and three products of scores, `6 B² d`. Nothing
  flows back into the features.
* bytes: the forward product reads the kernel (4 a parameter). AdamW reads kernel, two moments and gradient and writes
  kernel and two moments (28), and the gradient, which the clip's global norm needs whole, is written once (4): 36.
  Features of the batch are `8 B d`.

The floor is their sum, `operations / peak + bytes / bandwidth`: products and element-wise passes follow each other.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

BYTES_PER_PARAMETER = 36
HEADS = 2
PRECISION = jax.lax.Precision.HIGHEST


class Peaks(NamedTuple):
    """What the device did at best in this process.

    Attributes:
        flops: of a float32 product of square matrices, operations per second.
        bandwidth: of one element-wise pass over arrays of the size of an update's, bytes read and written per second.
    """

    flops: float
    bandwidth: float


def measure_peaks(width: int, gemm_size: int = 2048, repeats: int = 7) -> Peaks:
    """The best of so many repeats.

    Args:
        width: of the heads; bandwidth is that of two arrays `(2, width, width)`, in the caches or not as an update's.
        gemm_size: of the square matrices.
        repeats: of each.
    """
    square = jnp.ones((gemm_size, gemm_size), jnp.float32)
    product = jax.jit(functools.partial(jnp.matmul, precision=PRECISION))
    flops = 2 * gemm_size**3 / _best(lambda: product(square, square), repeats)

    passes = max(1, round(5e7 / (HEADS * width * width * 4)))  # a call itself costs as much as a small pass

    @functools.partial(jax.jit, donate_argnums=0)
    def scaled(arrays: Any) -> Any:
        return jax.lax.fori_loop(0, passes, lambda i, a: tuple(0.999 * x + 1e-3 * (i + 1) for x in a), arrays)

    held = [tuple(jnp.ones((HEADS, width, width), jnp.float32) for _ in range(2))]

    def stream() -> Any:
        held[0] = scaled(held[0])
        return held[0]

    moved = passes * 2 * 2 * HEADS * width * width * 4
    return Peaks(flops, moved / _best(stream, repeats))


def floor_seconds(peaks: Peaks, width: int, batch: int) -> float:
    """The floor of one update, in seconds; see above.

    >>> round(1e3 * floor_seconds(Peaks(flops=400e9, bandwidth=30e9), width=1024, batch=64), 2)
    3.94
    """
    return operations(width, batch) / peaks.flops + bytes_moved(width, batch) / peaks.bandwidth


def operations(width: int, batch: int) -> int:
    """Floating-point operations of one update."""
    return HEADS * 4 * batch * width**2 + 6 * batch**2 * width


def bytes_moved(width: int, batch: int) -> int:
    """Bytes of one update."""
    return HEADS * (BYTES_PER_PARAMETER * width * (width + 1) + 4 * batch * width)


def _best(run: Callable[[], Any], repeats: int) -> float:
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
