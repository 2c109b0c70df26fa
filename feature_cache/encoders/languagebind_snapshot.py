"""The files of LanguageBind's checkpoints: one folder per tower, as the Hugging Face hub has them. Needs no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from feature_cache.encoders.weights.checkpoints import weights_command
from feature_cache.encoders.weights.hub_checkpoint import HubCheckpoint, Repository
from feature_cache.errors import WeightsError

SIZE = 224
"""Height and width of every picture and frame, in pixels; upstream's processors know no other."""
CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Where the parameters may be; the first that is there is read."""
TOKENIZER = ("vocab.json", "merges.txt")

TOWERS: Mapping[str, str] = {
    "vision": "LanguageBind_Image",
    "text": "LanguageBind_Depth",
    "audio": "LanguageBind_Audio_FT",
    "thermal": "LanguageBind_Thermal",
    "depth": "LanguageBind_Depth",
    "video": "LanguageBind_Video_FT",
    "tactile": "LanguageBind_Image",
}
"""The folder of each modality's tower. Each folder has a text tower, too, which was frozen while the other was trained.
Upstream's `LanguageBind` keeps that of the last folder it is given, which is Depth in all of upstream's examples and in
the public reference."""
FOLDERS = tuple(sorted(set(TOWERS.values())))

CHECKPOINT = HubCheckpoint(
    name="LanguageBind's five towers",
    license="MIT",
    home="https://huggingface.co/LanguageBind",
    size=8_960_000_000,  # about: 4 bytes for each parameter of the architecture
    repositories=(
        Repository("LanguageBind/LanguageBind_Audio_FT", "4820c496563c46acfb1ff9a486fae5319f16257e"),
        Repository("LanguageBind/LanguageBind_Depth"),
        Repository("LanguageBind/LanguageBind_Image", "d8c2e37b439f4fc47c649dc8b90cdcd3a4e0c80e"),
        Repository("LanguageBind/LanguageBind_Thermal"),
        Repository("LanguageBind/LanguageBind_Video_FT", "13f52c20ce666a7d017bcd00522039f4ab034a66"),
    ),
    files=(CONFIG, *TOKENIZER, WEIGHTS),
)

# What upstream's classes assume where config.json is silent. (mean, std and size of the published audio tower are
# -4.2677393, 4.5689974 and 112 x 1036; they are in its config.json.)
_DEFAULTS = {
    "num_frames": 1,
    "num_mel_bins": 0,
    "target_length": 0,
    "audio_sample_rate": 16000,
    "audio_mean": 0.5,
    "audio_std": 0.5,
    "max_depth": 10,
}


@dataclass(frozen=True)
class AudioShape:
    """What the audio tower takes.

    Attributes:
        rate: samples per second.
        bins: mel bins.
        frames: frames of 10 ms in a chunk.
        mean, std: of the log-mel energies it was trained with.
    """

    rate: int
    bins: int
    frames: int
    mean: float
    std: float


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint's folder, e.g. weights/languagebind/LanguageBind_Image."""

    folder: Path

    @property
    def kind(self) -> str:
        """What upstream calls the architecture: "image", "audio", "thermal", "depth" or "video"."""
        return self.folder.name.removeprefix("LanguageBind_").removesuffix("_FT").lower()

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json as it is. Raises `WeightsError` if it is missing or no JSON object."""
        path = self.file(CONFIG)
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise WeightsError(f"{path} is not JSON: {error}. {remedy(self.folder)}") from error
        if not isinstance(config, dict):
            raise WeightsError(f"{path} should hold a JSON object, but holds a {type(config).__name__}.")
        return config

    @cached_property
    def vision_config(self) -> dict[str, Any]:
        """What config.json says of the tower that is not the text's, or what upstream assumes where it is silent."""
        # Upstream lets the second key, which older files have, override the first.
        stated = self.config.get("vision_config_dict") or self.config.get("vision_config") or {}
        return {**_DEFAULTS, **stated}

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return int(self._required(self.config, "projection_dim"))

    @property
    def frames(self) -> int:
        """Frames that the video tower looks at."""
        return int(self.vision_config["num_frames"])

    @property
    def max_depth(self) -> float:
        """Depth in metres that becomes 1; what is farther is cut off."""
        return float(self.vision_config["max_depth"])

    @property
    def audio(self) -> AudioShape:
        """What the audio tower takes. Raises `WeightsError` if this is no audio tower."""
        vision = self.vision_config
        for key in ("num_mel_bins", "target_length"):
            if not vision[key]:
                raise WeightsError(
                    f"{self.folder / CONFIG} has no {key} in its vision_config, which an audio tower has. "
                    f"{remedy(self.folder)}"
                )
        rate, bins, frames = (int(vision[key]) for key in ("audio_sample_rate", "num_mel_bins", "target_length"))
        return AudioShape(rate, bins, frames, float(vision["audio_mean"]), float(vision["audio_std"]))

    @property
    def weights(self) -> Path:
        """The file with the parameters. Raises `WeightsError` without one."""
        found = [self.folder / name for name in WEIGHTS if (self.folder / name).is_file()]
        return found[0] if found else self.file(WEIGHTS[-1])

    @property
    def files(self) -> tuple[Path, ...]:
        """Configuration and parameters. Raises `WeightsError` if one is missing."""
        return (self.file(CONFIG), self.weights)

    @property
    def tokenizer(self) -> tuple[Path, Path]:
        """Vocabulary and merges. Raises `WeightsError` if one is missing."""
        vocabulary, merges = map(self.file, TOKENIZER)
        return vocabulary, merges

    def file(self, name: str) -> Path:
        """A file of the folder. Raises `WeightsError`, with what to run, if it is not there."""
        path = self.folder / name
        if not path.is_file():
            missing = f"file {name} in {self.folder}" if self.folder.is_dir() else f"folder {self.folder}"
            raise WeightsError(
                f"There is no {missing}, of which LanguageBind's embeddings are made. {remedy(self.folder)}"
            )
        return path

    def _required(self, config: Mapping[str, Any], key: str) -> Any:
        if key not in config:
            raise WeightsError(f"{self.folder / CONFIG} has no {key}. {remedy(self.folder)}")
        return config[key]


def remedy(folder: Path) -> str:
    """How to get a checkpoint's folder."""
    return (
        f"Run `{weights_command('languagebind', folder.parent)}`, or, if you have the folders {', '.join(FOLDERS)} "
        "elsewhere, name the folder that they are in with --weights."
    )
