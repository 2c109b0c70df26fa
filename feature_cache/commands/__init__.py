"""The commands of `extract_features.py` besides extraction itself. A new one is one new file and one line here."""

REGISTRY: dict[str, str] = {
    "weights": "feature_cache.commands.weights:main",
}
"""Each is a function that takes the arguments after the command's name and returns the exit code."""
