"""The tiny stream as a config file, for the command line: `--config=tests/tiny_config.py`."""

from ml_collections import ConfigDict

from configs.defaults import default_config
from tests.tiny_caches import STEPS


def get_config() -> ConfigDict:
    """Four steps over three tiny datasets, two seeds, a second to train."""
    config = default_config()
    config.encoder = "tiny"
    config.stream.steps = STEPS
    config.seeds = 2
    config.training.epochs = 2
    config.training.batch_size = 16
    config.training.learning_rate = 1e-2
    return config
