"""The encoders by name. A new one is one new file and one line here."""

REGISTRY: dict[str, str] = {
    "pocketbind": "feature_cache.encoders.pocketbind:PocketBind",
}
