"""The training rows of a step on disk, in the blocks in which they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from cmcl_jax.methods.base import Method
from cmcl_jax.stream import ROLES, Step, Stream
from feature_cache.feature_rows import FeatureRows

HostRows = dict[str, np.ndarray[Any, Any]]  # by role


@dataclass(frozen=True)
class StoredRows:
    """Training rows of a step on disk, the counterpart of `StepFeatures`.

    Attributes:
        by_role: rows of each modality, by its role in the step; equal rows belong together.
        rows: how many of them are trained on, the first ones.
        longest: number of rows of the longest step of the stream, which the order of an epoch depends on.
    """

    by_role: dict[str, FeatureRows]
    rows: int
    longest: int

    @classmethod
    def of(cls, stream: Stream, step: Step, modalities: Sequence[str]) -> StoredRows:
        """Those of some modalities of a step's dataset, usually its own."""
        cache = stream.caches[step.dataset]
        by_role = {role: cache.rows("train", modality) for role, modality in zip(ROLES, modalities, strict=False)}
        return cls(by_role, stream.rows(step), stream.longest)

    @property
    def bytes_per_row(self) -> int:
        """Of all roles, as stored."""
        return sum(rows.shape[1] * rows.dtype.itemsize for rows in self.by_role.values())


class Blocks(NamedTuple):
    """The size of a block, the same for all steps of a stream that have as many modalities and equal widths.

    Attributes:
        batches: of a block.
        batch_size: rows of a batch.
    """

    batches: int
    batch_size: int

    @classmethod
    def within(cls, memory: int, method: Method, stored: StoredRows, runs: int) -> Blocks:
        """Blocks of `memory` bytes for all runs together, but of one batch at least and no longer than an epoch."""
        size = min(method.training.batch_size, stored.longest)
        fitting = memory // (runs * size * stored.bytes_per_row)
        return cls(max(1, min(fitting, -(-stored.longest // size))), size)

    @property
    def rows(self) -> int:
        """Of a block."""
        return self.batches * self.batch_size


class Block(NamedTuple):
    """A block on its way to the device.

    Attributes:
        by_role: `(runs, rows, d)`, or `(rows, d)` where all runs see the same, padded with zeros.
        rows: how many are not padding.
    """

    by_role: HostRows
    rows: int


@dataclass(frozen=True)
class Shuffled:
    """The blocks of an epoch, each run's rows in its own order `(runs, n)`."""

    stored: StoredRows
    orders: Int[np.ndarray, "runs n"]
    rows: int

    def __len__(self) -> int:
        return -(-self.stored.rows // self.rows)

    def __getitem__(self, number: int) -> Block:
        chosen = self.orders[:, number * self.rows : (number + 1) * self.rows]
        by_role = {role: _padded(rows, chosen, self.rows) for role, rows in self.stored.by_role.items()}
        return Block(by_role, chosen.shape[1])


@dataclass(frozen=True)
class InOrder:
    """The same rows in blocks as they are stored."""

    stored: StoredRows
    rows: int

    def __len__(self) -> int:
        return -(-self.stored.rows // self.rows)

    def __getitem__(self, number: int) -> Block:
        first = number * self.rows
        last = min(first + self.rows, self.stored.rows)
        numbers = np.arange(first, last)
        by_role = {role: _padded(rows, numbers, self.rows) for role, rows in self.stored.by_role.items()}
        return Block(by_role, last - first)


def _padded(rows: FeatureRows, numbers: Int[np.ndarray, "*runs n"], length: int) -> np.ndarray[Any, Any]:
    """The rows of these numbers, then zeros up to a length; read into one array instead of being copied into it."""
    missing = length - numbers.shape[-1]
    found = rows[np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, missing)])]
    found[..., length - missing :, :] = 0
    return found
