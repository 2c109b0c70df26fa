"""The encoders by name. A new one is one new file and one line here."""

REGISTRY: dict[str, str] = {
    "pocketbind": "feature_cache.encoders.pocket.pocketbind:PocketBind",
    "pocketbind_lite2": "feature_cache.encoders.pocket.pocketbind_lite2:PocketBindLite2",
    "pocketraw": "feature_cache.encoders.pocket.pocketraw:PocketRaw",
    "imagebind": "feature_cache.encoders.imagebind:ImageBind",
    "languagebind": "feature_cache.encoders.languagebind:LanguageBind",
    "unibind": "feature_cache.encoders.unibind:UniBind",
}
POCKET = ("pocketbind", "pocketbind_lite2", "pocketraw")
"""Those whose weights come inside packages."""
