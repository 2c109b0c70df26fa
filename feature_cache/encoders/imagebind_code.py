"""ImageBind's network, out of the package imagebind-unofficial.

Girdhar et al., "ImageBind: One Embedding Space To Bind Them All", CVPR 2023, arXiv:2305.05665. The package has the
code of github.com/facebookresearch/ImageBind, whose licence, CC-BY-NC-SA-4.0, keeps it out of this project.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from feature_cache.encoders.weights.packages import PackageFile

if TYPE_CHECKING:
    from torch import nn

VOCABULARY = PackageFile("imagebind-unofficial", "imagebind/bpe/bpe_simple_vocab_16e6.txt.gz")
"""OpenAI's byte-pair encoding."""
_MODEL = PackageFile("imagebind-unofficial", "imagebind/models/imagebind_model.py")

HUGE: Mapping[str, int] = {
    "out_embed_dim": 1024,
    "vision_embed_dim": 1280, "vision_num_blocks": 32, "vision_num_heads": 16,
    "text_embed_dim": 1024, "text_num_blocks": 24, "text_num_heads": 16,
    "audio_embed_dim": 768, "audio_num_blocks": 12, "audio_num_heads": 12,
    "audio_num_mel_bins": 128, "audio_target_len": 204,
    "depth_embed_dim": 384, "depth_num_blocks": 12, "depth_num_heads": 8,
    "thermal_embed_dim": 768, "thermal_num_blocks": 12, "thermal_num_heads": 12,
    "imu_embed_dim": 512, "imu_num_blocks": 6, "imu_num_heads": 8,
}  # fmt: skip
"""imagebind_huge, the one that was published: widths, numbers of blocks and heads; 1.2 billion parameters."""
_NO_TRAINING = {"audio_drop_path": 0.0, "depth_drop_path": 0.0, "thermal_drop_path": 0.0, "imu_drop_path": 0.0}


def build(architecture: Mapping[str, int], device: str = "meta") -> "nn.Module":
    """The network for inference; on "meta" without memory for its parameters, elsewhere with random ones.

    It takes {tower: batch} and gives {tower: embeddings}; the towers are vision, text, audio, depth, thermal and imu.

    Raises:
        WeightsError: the package is not installed.
        ImportError: a package that it needs is not installed.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class RealNumbers(TorchFunctionMode):
        """The code reads a few numbers back from `linspace`, which "meta" has none of."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **{**(kwargs or {}), **({"device": "cpu"} if func is torch.linspace else {})})

    network_class = _network_class()
    with torch.device(device), RealNumbers():
        network: nn.Module = network_class(**architecture, **_NO_TRAINING)
    return network.eval().requires_grad_(False)


def _network_class() -> Any:
    package = _MODEL.locate().parents[1]
    with _stand_ins(str(package)):
        return importlib.import_module("imagebind.models.imagebind_model").ImageBindModel


@contextmanager
def _stand_ins(package: str) -> Iterator[None]:
    """What the import would otherwise fail at, for as long as it lasts.

    The package's own `__init__` wants libraries that decode media, and `pkg_resources`, which is gone. timm would want
    torchvision; of it the code takes two names, of which inference uses one.
    """
    import torch

    parent = ModuleType("imagebind")
    parent.__path__ = [package]
    layers = ModuleType("timm.layers")
    vars(layers).update(trunc_normal_=torch.nn.init.trunc_normal_, DropPath=None)
    names = {"imagebind": parent, "timm": ModuleType("timm"), "timm.layers": layers}
    names = {name: module for name, module in names.items() if name not in sys.modules}
    sys.modules.update(names)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
