"""The encoders by name. A new one is one new file and one line here."""

REGISTRY: dict[str, str] = {
    "pocketbind": "feature_cache.encoders.pocketbind:PocketBind",
    "pocketbind_lite2": "feature_cache.encoders.pocketbind_lite2:PocketBindLite2",
    "pocketraw": "feature_cache.encoders.pocketraw:PocketRaw",
}
POCKET = tuple(REGISTRY)
"""Those whose weights come inside packages."""
