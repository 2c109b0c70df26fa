"""ImageBind and UniBind with their real architecture, but small enough to be built in every test.

`encoders.REGISTRY["imagebind"] = "tests.encoders.tiny_binders:TinyImageBind"` puts one in the place of the real one;
give its checkpoint, which `write_checkpoint` makes, with --weights.
"""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from feature_cache.encoders.imagebind import ImageBind
from feature_cache.encoders.imagebind_code import build
from feature_cache.encoders.unibind import UniBind

if TYPE_CHECKING:  # the processes that only preprocess import this module, too
    import torch

DIM = 16
TOWERS = ("vision", "text", "audio", "depth", "thermal", "imu")
_TOWER = {"embed_dim": 32, "num_blocks": 2, "num_heads": 2}
ARCHITECTURE = {
    "out_embed_dim": DIM,
    "audio_num_mel_bins": 32,
    "audio_target_len": 52,
    **{f"{tower}_{what}": number for tower in TOWERS for what, number in _TOWER.items()},
}


class TinyImageBind(ImageBind):
    architecture: ClassVar = ARCHITECTURE


class TinyUniBind(UniBind):
    architecture: ClassVar = ARCHITECTURE


def tiny_state(seed: int = 0) -> "dict[str, torch.Tensor]":
    """Random parameters of the tiny network, by ImageBind's names, as upstream initialises them."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(ARCHITECTURE, "cpu").state_dict()


def unibind_state(seed: int = 0) -> "dict[str, torch.Tensor]":
    """The same by UniBind's names, with what it has for point clouds."""
    import torch

    points = {
        "bind.modality_head_point.0.weight": torch.ones(3),
        "bind.modality_postprocessor_point.1.log_logit_scale": torch.tensor(0.0),
        "point_encoder.blocks.0.weight": torch.zeros(2, 2),
        "pc_projection": torch.zeros(2, 3),
    }
    return {**{f"bind.{name}": value for name, value in tiny_state(seed).items()}, **points}


def write_checkpoint(folder: Path, encoder: type[ImageBind] = TinyImageBind, seed: int = 0) -> Path:
    """Writes the checkpoint of `TinyImageBind` or `TinyUniBind` into a folder, by its published name."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / encoder.checkpoint.name
    torch.save(unibind_state(seed) if issubclass(encoder, UniBind) else tiny_state(seed), path)
    return path
