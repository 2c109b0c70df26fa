"""LanguageBind's networks: Zhu et al., "LanguageBind", ICLR 2024, arXiv:2310.01852; the architecture is upstream's.

A checkpoint is a CLIP model: a text tower, a tower for one other modality, a projection for each, and a temperature.
Importing this module imports torch.
"""

import copy
import importlib
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from feature_cache.encoders.languagebind_snapshot import SIZE, Snapshot, remedy
from feature_cache.encoders.weights.packages import PackageFile
from feature_cache.encoders.weights.state_dicts import load_strictly, read_state_dict
from feature_cache.errors import WeightsError


class TextTower(nn.Module):
    """Token ids -> embeddings of unit length."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        model = load(snapshot)
        self.transformer, self.projection = model.text_model, model.text_projection

    def forward(self, tokens: Tensor) -> Tensor:
        """Int64 [n, 77] -> float32 [n, dim]. The end token has the highest id; what follows the first fills up."""
        ends = tokens.argmax(1, keepdim=True)
        mask = (torch.arange(tokens.shape[1], device=tokens.device) <= ends).long()
        pooled = self.transformer(input_ids=tokens, attention_mask=mask)[1]
        return exactly_projected(pooled, self.projection)


class MediaTower(nn.Module):
    """Pixels or spectra -> embeddings of length exp(logit_scale)."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        model = load(snapshot)
        self.transformer, self.projection = model.vision_model, model.visual_projection
        self.scale = float(model.logit_scale.exp())

    def forward(self, media: Tensor) -> Tensor:
        """Float32 [n, 3, h, w], or [n, 3, frames, h, w] of videos -> float32 [n, dim]."""
        pooled = self.transformer(pixel_values=media)[1]
        return self.scale * exactly_projected(pooled, self.projection)


def exactly_projected(pooled: Tensor, projection: nn.Module) -> Tensor:
    """What a projection makes of the transformer's output, at length 1; in float32 whatever the precision.

    First and last layer are hardly any of the work, but up to a third of what bfloat16 costs in exactness.
    """
    with torch.autocast(pooled.device.type, enabled=False):
        return nn.functional.normalize(projection(pooled.float()), dim=-1, eps=0)


def load(snapshot: Snapshot) -> Any:
    """Upstream's model of a snapshot, on the CPU, for inference. Raises `WeightsError` unless every weight is there."""
    model = build(snapshot.kind, _constructible(snapshot.config))
    path, how = snapshot.weights, remedy(snapshot.folder)
    load_strictly(model, renamed(read_state_dict(path, how), model.state_dict()), path, how)
    accept_any_shape(model)
    return model.eval().requires_grad_(False)


def build(kind: str, fields: Mapping[str, Any]) -> Any:
    """Upstream's model of a kind, "image" to "video", of the sizes in `fields`, a config.json; without its weights."""
    from transformers.modeling_utils import no_init_weights

    model_class, config_class = architecture(kind)
    config = config_class.from_dict(fields)
    for part in (config, config.text_config, config.vision_config):
        part._attn_implementation = "eager"  # upstream's layers choose none, and transformers 4.57 has no default
    with no_init_weights():
        return model_class(config)


def accept_any_shape(model: Any) -> None:
    """Lets a model take pictures that are no squares, spectra among them."""
    if isinstance(model.vision_model.embeddings.patch_embedding, nn.Conv2d):  # not one that spans frames
        model.vision_model.embeddings = _Patches(model.vision_model.embeddings)


def logit_scale(snapshot: Snapshot) -> float:
    """Logarithm of the inverse temperature. Raises `WeightsError` if the checkpoint has none."""
    path, how = snapshot.weights, remedy(snapshot.folder)
    state = read_state_dict(path, how)
    if "logit_scale" not in state:
        raise WeightsError(f"{path} has no logit_scale, so it is none of LanguageBind's checkpoints. {how}")
    return float(state["logit_scale"])


def architecture(kind: str) -> tuple[Any, Any]:
    """Upstream's model and configuration classes: "image", "audio", … Raises `WeightsError` without their packages."""
    found = importlib.metadata.version("transformers")
    if int(found.split(".")[0]) >= 5:
        raise WeightsError(
            f"transformers {found} is installed, with which LanguageBind's text tower silently loses its causal mask "
            "and embeds otherwise. Run `pip install 'transformers>=4.57,<5'`."
        )
    with _bare_package():
        model = importlib.import_module(f"languagebind.{kind}.modeling_{kind}")
        config = importlib.import_module(f"languagebind.{kind}.configuration_{kind}")
    name = f"LanguageBind{kind.capitalize()}"
    return getattr(model, name), getattr(config, f"{name}Config")


@contextmanager
def _bare_package() -> Iterator[None]:
    """The package without its own `__init__`, which wants libraries that decode media."""
    if "languagebind" in sys.modules:
        yield
        return
    bare = ModuleType("languagebind")
    bare.__path__ = [str(PackageFile("languagebind", "languagebind/_compat.py").locate().parent)]
    sys.modules["languagebind"] = bare
    try:
        yield
    finally:
        del sys.modules["languagebind"]


def renamed(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's parameters under the names that today's packages give them.

    What PEFT calls `q_proj.base_layer.weight` beside a low-rank adapter, it called `q_proj.weight` when the checkpoints
    were made. Positions that count 0, 1, 2 … were saved then and mostly are not now; `expected`, the model's own state,
    has them.
    """
    names = {name.replace(".base_layer.", "."): name for name in expected}
    kept = {names.get(name, name): value for name, value in state.items() if not _counts(name)}
    return kept | {name: value for name, value in expected.items() if _counts(name)}


def _counts(name: str) -> bool:
    return name.endswith(".position_ids")


def _constructible(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of config.json in which the picture's size is one number, as before a model that was built changed it."""
    result = copy.deepcopy(dict(config))
    for key in ("vision_config", "vision_config_dict"):
        if isinstance((result.get(key) or {}).get("image_size"), list):
            result[key]["image_size"] = SIZE
    return result


class _Patches(nn.Module):
    """The embeddings of a picture's patches, also of one that is no square, which newer transformers refuse."""

    def __init__(self, embeddings: Any) -> None:
        super().__init__()
        self.patches, self.first = embeddings.patch_embedding, embeddings.class_embedding
        self.positions: nn.Parameter = embeddings.position_embedding.weight

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, enabled=False):
            patches = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens: Tensor = torch.cat([self.first.expand(len(pixels), 1, -1), patches], 1) + self.positions
        return tokens
