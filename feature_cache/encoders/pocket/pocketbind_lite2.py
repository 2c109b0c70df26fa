"""The encoder "pocketbind_lite2": as "pocketbind", but with other networks for pictures and for texts.

text                  Paraphrase-MiniLM-L3, 384 wide, the common space
vision, video, depth  EfficientNet-Lite2 -> ConSE
the rest              as in pocketbind
"""

from typing import ClassVar

from feature_cache.encoders.pocket.efficientnet_lite import LITE2
from feature_cache.encoders.pocket.pocket_encoder import PARAPHRASE, Parts
from feature_cache.encoders.pocket.pocketbind import PocketBind


class PocketBindLite2(PocketBind):
    """See the module's docstring."""

    name: ClassVar[str] = "pocketbind_lite2"
    preprocessing_version: ClassVar[str] = "1"
    parts: ClassVar[Parts] = Parts(PARAPHRASE, LITE2)
