"""The tiny stream with a grid, as a config file."""

from ml_collections import ConfigDict

from tests import tiny_config


def get_config() -> ConfigDict:
    """16 runs: two learning rates × two seeds of vanilla and joint, and of dns with each of two thresholds."""
    config = tiny_config.get_config()
    config.seeds = 2
    config.training.epochs = 1
    config.evaluation.split = "validation"
    config.sweep = ConfigDict(
        {
            "method": ("vanilla", "dns", "joint"),
            "training": {"learning_rate": (3e-3, 1e-2)},
            "dns": {"input_threshold": (3e-3, 0.1)},
        }
    )
    return config
