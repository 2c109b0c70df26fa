"""The pocket suite: real media, real encoders, in minutes on a laptop. Its caches are in the repository."""

from ml_collections import ConfigDict

from configs.defaults import default_config


def get_config() -> ConfigDict:
    """Five steps over three datasets: pictures, sounds and rendered depth, all against text."""
    config = default_config()
    config.encoder = "pocketbind"
    config.stream.steps = (
        ("emoji", ("vision", "text"), ("accuracy", "recall")),
        ("instruments", ("text", "audio"), ("accuracy", "recall")),
        ("furniture", ("text", "depth"), ("accuracy", "recall")),
        ("furniture", ("vision", "text"), ("accuracy", "recall")),
        ("furniture", ("vision", "depth"), ("recall",)),
    )
    config.seeds = 5
    config.training.epochs = 10  # the next three: best for vanilla on the validation split
    config.training.learning_rate = 1e-3
    config.training.temperature = 1.0
    config.evaluation.credit = "any"  # captions repeat: 128 instruments, several "chair"
    return config
