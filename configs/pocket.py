"""The pocket suite: real media, real encoders, in minutes on a laptop. Its features are in the repository."""

from ml_collections import ConfigDict

from configs.defaults import default_config

ACCURACY, OPEN, RECALL = "accuracy", "open_accuracy", "recall"
STEPS = (
    ("emoji", ("vision", "text"), (OPEN, RECALL)),
    ("instruments", ("text", "audio"), (ACCURACY, OPEN, RECALL)),
    ("furniture", ("text", "depth"), (OPEN, RECALL)),
    ("spoken", ("text", "speech"), (RECALL,)),
    ("emoji_styles", ("vision", "text"), (ACCURACY, OPEN, RECALL)),
    ("exercises", ("text", "imu"), (ACCURACY,)),
    ("emoji_clips", ("text", "video"), (OPEN, RECALL)),
    ("furniture", ("vision", "text"), (OPEN, RECALL)),
    ("sounds", ("text", "audio"), (RECALL,)),
    ("furniture", ("vision", "depth"), (RECALL,)),
    ("emoji_clips", ("vision", "video"), (RECALL,)),
)


def get_config(encoder: str = "pocketbind") -> ConfigDict:
    """Eleven steps over eight datasets and seven modalities; the variant is the encoder whose features are used."""
    config = default_config()
    config.encoder = encoder
    config.stream.steps = STEPS
    config.seeds = 5
    config.training.epochs = 10  # the next three: best for vanilla on the validation split
    config.training.learning_rate = 1e-3
    config.training.temperature = 1.0
    config.evaluation.credit = "any"  # captions repeat: 128 instruments, several "chair"
    return config
