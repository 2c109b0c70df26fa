"""A sweep over the pocket suite: three methods, their learning rates, the thresholds of dns; chosen on validation."""

from ml_collections import ConfigDict

from configs import pocket


def get_config(encoder: str = "pocketbind") -> ConfigDict:
    """96 runs: 4 learning rates × 3 seeds of vanilla and of joint, and of dns with each of 6 pairs of thresholds.

    `config.sweep` is a tree like the config, with a tuple of values for every field that varies; a method's own fields
    vary in its runs alone. The number of seeds is config.seeds. `--config.sweep.dns.rule=relative,energy` sweeps
    another field, `--config.sweep.method=dns` fewer values of one.
    """
    config = pocket.get_config(encoder)
    config.seeds = 3
    config.training.epochs = 5  # half of the pocket suite's, to be quick
    config.evaluation.split = "validation"  # on test rows no setting may be chosen
    config.sweep = ConfigDict(
        {
            "method": ("vanilla", "dns", "joint"),
            "training": {"learning_rate": (3e-4, 1e-3, 3e-3, 1e-2)},
            "dns": {"input_threshold": (1e-3, 3e-3, 1e-2), "output_threshold": (1e-3, 3e-3)},
        }
    )
    return config
