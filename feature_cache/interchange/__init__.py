"""Features that come from elsewhere and go elsewhere. A new format is one new file and a line in one or both dicts.

A reader takes a `base.Request` and returns a `base.Incoming`; a writer takes a cache and a folder, writes, and returns
what the format has no place for, a sentence each.
"""

IMPORTS: dict[str, str] = {
    "hdf5": "feature_cache.interchange.hdf5:read",
    "npz": "feature_cache.interchange.npz:read",
    "parquet": "feature_cache.interchange.parquet:read",
    "webdataset": "feature_cache.interchange.webdataset:read",
}
EXPORTS: dict[str, str] = {
    "hdf5": "feature_cache.interchange.hdf5:write",
    "npz": "feature_cache.interchange.npz:write",
    "parquet": "feature_cache.interchange.parquet:write",
    "tfds": "feature_cache.interchange.tfds:write",
    "webdataset": "feature_cache.interchange.webdataset:write",
}
