"""The paper's 11 steps with its hyperparameters: `--config=configs/paper.py:imagebind`.

The variants are imagebind, languagebind and unibind. Settings follow arXiv 2503.14963 and its public reference. A
fourth, synthetic, has the settings of imagebind for made-up features with the norms of ImageBind's
(`python -m feature_cache.synthetic`).
"""

from ml_collections import ConfigDict

from configs.defaults import default_config
from feature_cache.registry import check_name

ACCURACY, RECALL = "accuracy", "recall"
STEPS = (
    ("ucf101", ("text", "video"), (ACCURACY,)),
    ("esc50", ("text", "audio"), (ACCURACY, RECALL)),
    ("nyudv2", ("vision", "depth"), (RECALL,)),
    ("clotho", ("text", "audio"), (RECALL,)),
    ("vggsound_s", ("text", "audio"), (ACCURACY, RECALL)),
    ("vggsound_s", ("text", "video"), (ACCURACY, RECALL)),
    ("vggsound_s", ("audio", "video"), (RECALL,)),
    ("tvl", ("vision", "tactile"), (RECALL,)),
    ("tvl", ("text", "tactile"), (RECALL,)),
    ("tvl", ("vision", "text"), (RECALL,)),
    ("llvip", ("vision", "thermal"), (RECALL,)),
)
LEARNING_RATES = {"imagebind": 1e-4, "languagebind": 1e-3, "unibind": 1e-4, "synthetic": 1e-4}
THRESHOLDS = {"imagebind": 0.01, "languagebind": 1e-4, "unibind": 0.01, "synthetic": 0.01}


def get_config(encoder: str = "imagebind") -> ConfigDict:
    """The published setting for one of the encoders; DNS in its released mode."""
    check_name(LEARNING_RATES, "variant of configs/paper.py", encoder)
    config = default_config()
    config.encoder = encoder
    config.method = "dns"
    config.stream.steps = STEPS
    config.seeds = 10
    config.training.epochs = 5
    config.training.batch_size = 64
    config.training.weight_decay = 1e-3
    config.training.learning_rate = LEARNING_RATES[encoder]
    config.training.direction = "a_to_b"
    config.evaluation.credit = "diagonal"
    config.dns.mode = "released"
    config.dns.input_threshold = THRESHOLDS[encoder]
    return config
