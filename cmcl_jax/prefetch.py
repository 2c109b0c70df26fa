"""Makes the next elements of a sequence while the caller works on this one: the only file that imports Grain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)

AHEAD = 2  # enough to hide how long one takes; each is as large as a block of rows
THREADS = 2


class Source(Protocol[T_co]):
    """A sequence whose elements are made when asked for, by several threads at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> T_co: ...


def prefetched(source: Source[T_co]) -> Iterator[T_co]:
    """The elements in order, made by threads of a Grain loader up to `AHEAD` elements in advance.

    An error while one is made is raised here. The threads end with the iterator.

    >>> list(prefetched("abc"))
    ['a', 'b', 'c']
    """
    import grain  # takes a second, which only those wait for who need it

    dataset = grain.MapDataset.source(source)
    elements = iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)))
    try:
        yield from elements
    finally:
        elements.close()
