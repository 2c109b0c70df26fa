"""UniBind: ImageBind's towers, trained further (Lyu et al., CVPR 2024, arXiv:2403.12532; github.com/QC-LY/UniBind)."""

from typing import TYPE_CHECKING, ClassVar

from feature_cache.encoders.imagebind import ImageBind
from feature_cache.encoders.weights.checkpoints import Checkpoint, ManualCheckpoint

if TYPE_CHECKING:
    import torch

_PREFIX = "bind."
_POINTS = ("modality_head_point.", "modality_postprocessor_point.")


class UniBind(ImageBind):
    """An `Encoder` with UniBind's published weights; network and preprocessing are ImageBind's.

    Its tower for point clouds is left out.
    """

    name: ClassVar[str] = "unibind"
    preprocessing_version: ClassVar[str] = "2"
    checkpoint: ClassVar[Checkpoint] = ManualCheckpoint(
        name="unibind.pt",
        license="MIT for the code; for the weights, trained from ImageBind's, see CC-BY-NC-SA-4.0",
        home="https://github.com/QC-LY/UniBind",
        size=None,
        steps=(
            "Open https://drive.google.com/file/d/1Dgmj7ajdoT8hYHobJQfgIuB4CbVRoKUn/view in a browser, and download "
            "the file although Google cannot scan it for viruses.",
            "Save it as {place}.",
            "Give the same command again, which tells its SHA-256.",
        ),
    )

    def parameters_of(self, state: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
        """What is ImageBind's of it: its names begin with "bind."; the rest is the tower for point clouds."""
        named = {name.removeprefix(_PREFIX): value for name, value in state.items() if name.startswith(_PREFIX)}
        return {name: value for name, value in named.items() if not name.startswith(_POINTS)}
