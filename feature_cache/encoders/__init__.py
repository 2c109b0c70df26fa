"""The encoders by name. A new one is one new file and one line here."""

POCKET = ("pocketbind", "pocketbind_lite2", "pocketraw")
"""Those whose weights come inside packages."""
REGISTRY: dict[str, str] = {
    "languagebind": "feature_cache.encoders.languagebind:LanguageBind",
    "pocketbind": "feature_cache.encoders.pocketbind:PocketBind",
    "pocketbind_lite2": "feature_cache.encoders.pocketbind_lite2:PocketBindLite2",
    "pocketraw": "feature_cache.encoders.pocketraw:PocketRaw",
}
