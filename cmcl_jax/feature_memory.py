"""How much memory the features of a step may take, and so whether they are on the device whole or come in blocks."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from feature_cache.errors import UserError

MB = 1 << 20
COPIES = 3  # of its features a step may need so many: as they are and, up to twice as wide, in a run's own coordinates
SHARE = 4  # of a device's memory: with those copies, some is left
BLOCK_MB = 32  # larger blocks are no faster
BLOCKS = 8  # at once, at most: one trains, one is on its way, the others are being read or wait
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def feature_memory(megabytes: float | None = None) -> int:
    """Bytes that the features of a step may take on the device.

    Args:
        megabytes: of 2^20 bytes, `config.feature_memory_mb`. None: a quarter of the device's memory.

    Raises:
        UserError: unless it is None or a number greater than 0.

    >>> feature_memory(0.5)
    524288
    """
    if megabytes is None:
        return device_memory() // SHARE
    if isinstance(megabytes, bool) or not megabytes > 0:
        raise UserError(
            f"config.feature_memory_mb must be None, for a quarter of the device's memory, or a number greater than 0, "
            f"but it is {megabytes!r}."
        )
    return int(megabytes * MB)


def fit_in_memory(features: int, memory: int, side_by_side: int = 1) -> bool:
    """Whether a step's features, all of them on the device, leave room for those in the coordinates of each run.

    Args:
        features: their bytes.
        memory: from `feature_memory`, which is for one run at a time.
        side_by_side: how many runs train at the same time.

    >>> fit_in_memory(80, 100), fit_in_memory(80, 100, side_by_side=2)
    (True, False)
    """
    return features * (1 + (COPIES - 1) * side_by_side) <= COPIES * memory


def block_memory(memory: int) -> int:
    """Bytes of one block of rows where all features may take `memory`.

    >>> block_memory(80), block_memory(1 << 40) // MB
    (10, 32)
    """
    return min(memory // BLOCKS, BLOCK_MB * MB)


def device_memory(device: jax.Device | None = None) -> int:
    """Bytes of a device's memory, the first one's by default; on a CPU, its part of what this process may have."""
    device = device or jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    return int(limit) if limit else _machine_memory() // jax.local_device_count()


def _machine_memory() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = _CGROUP.read_text().strip() if _CGROUP.exists() else ""
    return min(physical, int(allowed)) if allowed.isdigit() else physical
