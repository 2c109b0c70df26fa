"""Raw media -> features on disk, once. Reading them needs neither torch nor jax: `open_cache(path)`."""

from feature_cache.errors import CacheError, MediaError, UnknownNameError, UserError, WeightsError
from feature_cache.manifest import ClassLabel, Manifest, MediaSource, ModalitySpec
from feature_cache.reader import FeatureCache, open_cache
from feature_cache.shards import Rows
from feature_cache.writer import CacheWriter

__all__ = [
    "CacheError",
    "CacheWriter",
    "ClassLabel",
    "FeatureCache",
    "Manifest",
    "MediaError",
    "MediaSource",
    "ModalitySpec",
    "Rows",
    "UnknownNameError",
    "UserError",
    "WeightsError",
    "open_cache",
]
