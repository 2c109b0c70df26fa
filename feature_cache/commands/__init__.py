"""The commands of `extract_features.py` besides extraction itself. A new one is one new file and one line here."""

REGISTRY: dict[str, str] = {
    "describe": "feature_cache.commands.describe:main",
    "download": "feature_cache.commands.download:main",
    "weights": "feature_cache.commands.weights:main",
    "inspect": "feature_cache.commands.inspect:main",
    "merge": "feature_cache.commands.merge:main",
    "import": "feature_cache.commands.bring:import_main",
    "export": "feature_cache.commands.bring:export_main",
}
"""Each is a function that takes the arguments after the command's name and returns the exit code."""
