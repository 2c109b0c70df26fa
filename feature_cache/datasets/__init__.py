"""The datasets by name. A new one is one new file and one line here."""

REGISTRY: dict[str, str] = {
    "emoji": "feature_cache.datasets.emoji:Emoji",
    "instruments": "feature_cache.datasets.instruments:Instruments",
    "furniture": "feature_cache.datasets.furniture:Furniture",
}
