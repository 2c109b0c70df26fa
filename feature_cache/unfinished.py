"""`unfinished.json`: what the cache in a folder without a manifest is to become. `merge` joins caches by it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from feature_cache.atomic import write_atomically
from feature_cache.errors import DamagedCacheError
from feature_cache.manifest import SPLITS, Manifest
from feature_cache.schema import SchemaError, decode

UNFINISHED_FILE = "unfinished.json"


@dataclass(frozen=True)
class Unfinished:
    """
    Attributes:
        manifest: of the finished cache, without splits; with the record of the class texts if they are there.
        shards: per split and shard the checksum of its items (`shard_record.items_checksum`).
    """

    manifest: Manifest
    shards: dict[str, tuple[str, ...]]

    def write(self, folder: Path) -> None:
        """Writes it into the folder of a cache."""
        write_atomically(folder / UNFINISHED_FILE, self._to_json())

    @property
    def checksum(self) -> str:
        """Equal for runs that make the same cache in the same shards."""
        return hashlib.sha256(self._to_json()).hexdigest()

    def _to_json(self) -> bytes:
        fields = {"shards": self.shards, "manifest": json.loads(self.manifest.to_json())}
        return json.dumps(fields, indent=2, ensure_ascii=False).encode()

    @classmethod
    def load(cls, folder: Path) -> "Unfinished":
        """Reads it. Raises `CacheError`."""
        path = folder / UNFINISHED_FILE
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            shards: dict[str, tuple[str, ...]] = decode(dict[str, tuple[str, ...]], fields["shards"])
            manifest = Manifest.from_json(json.dumps(fields["manifest"]))
        except (OSError, ValueError, LookupError, TypeError, RecursionError, SchemaError) as error:
            raise DamagedCacheError(path, f"{type(error).__name__}: {error}") from None
        if set(shards) != set(SPLITS):
            raise DamagedCacheError(path, f"its splits should be {', '.join(SPLITS)}, but are {', '.join(shards)}")
        return cls(manifest, shards)
