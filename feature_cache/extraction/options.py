"""How to extract: what the flags of the command line say, except for who does it."""

from dataclasses import dataclass

from feature_cache.lock import Share


@dataclass(frozen=True)
class Options:
    """How to extract.

    Attributes:
        batch_size: media that are embedded at once.
        dtype: "float16" or "float32", of the stored features.
        normalize: bring every embedding to length 1 before it is stored.
        shard_size: rows of a shard, the unit of resuming; a shard is a fixed range of a split's items.
        overwrite: make every shard again.
        max_failure_rate: the largest share of items that may fail in a finished cache.
        retry_failures: make the shards again that miss an item.
        share: which shards this run makes; whichever run finds the last one there finishes the cache.
    """

    batch_size: int = 32
    dtype: str = "float16"
    normalize: bool = False
    shard_size: int = 512
    overwrite: bool = False
    max_failure_rate: float = 0.01
    retry_failures: bool = False
    share: Share = Share()  # noqa: RUF009 (it is frozen)
