"""The pocket suite with steps of three modalities: furniture and emoji_clips are each learned in one step."""

from ml_collections import ConfigDict

from configs import pocket
from configs.pocket import OPEN, RECALL

TUPLES = {
    "furniture": ("furniture", ("vision", "text", "depth"), (OPEN, RECALL)),
    "emoji_clips": ("emoji_clips", ("vision", "text", "video"), (OPEN, RECALL)),
}
STEPS = tuple(dict.fromkeys(TUPLES.get(step[0], step) for step in pocket.STEPS))


def get_config(encoder: str = "pocketbind") -> ConfigDict:
    """Eight steps, one for each dataset, and twelve test tasks; all else as in configs/pocket.py."""
    config = pocket.get_config(encoder)
    config.stream.steps = STEPS
    return config
