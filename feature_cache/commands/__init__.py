"""The commands of `extract_features.py` besides extraction itself. A new one is one new file and one line here."""

REGISTRY: dict[str, str] = {
    "describe": "feature_cache.commands.describe:main",
    "download": "feature_cache.commands.download:main",
}
"""Each is a function that takes the arguments after the command's name and returns the exit code."""
