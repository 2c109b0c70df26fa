"""How long an extraction takes and how much disk a cache needs, estimated from what one item costs.

    python -m benchmarks.extraction_cost --tflops=15 --workers=16

Two things are measured, both without weights and without a GPU:

* the arithmetic of one item: operations counted by torch in the published networks, built without memory;
* the decoding of one item: seconds of one core for media of the usual sizes (`MEDIA`), from file to what the network
  takes.

An extraction takes as long as the slower of the two: items × operations / --tflops, or items × seconds / --workers.
--tflops is what the device sustains, not its peak.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from feature_cache.datasets.base import Raw
from feature_cache.decoding.audio import open_waveform
from feature_cache.decoding.depth import open_depth
from feature_cache.decoding.pictures import open_picture
from feature_cache.decoding.video import open_video
from feature_cache.encoders import imagebind_preprocessing, languagebind_preprocessing
from feature_cache.encoders.imagebind_code import HUGE
from feature_cache.encoders.imagebind_code import build as build_imagebind
from feature_cache.encoders.languagebind_snapshot import AudioShape
from tests.raw_files import write_audio, write_picture, write_video

DATASETS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "ucf101": (13_320, ("video",)),
    "esc50": (2_000, ("sound of 5 s",)),
    "nyudv2": (48_238, ("photograph", "depth map")),
    "clotho": (4_884, ("sound of 22 s",)),
    "vggsound_s": (12_002, ("sound track", "large video")),
    "tvl": (43_741, ("photograph", "tactile picture")),
    "llvip": (15_488, ("large photograph", "thermal picture")),
}
"""Items, training and test together, and what each consists of; every item but LLVIP's has a text as well."""
CHUNKS = AudioShape(rate=16_000, bins=112, frames=1036, mean=-4.2677, std=4.5690)


class Medium(NamedTuple):
    """A kind of medium: its modality, and a file of the usual size."""

    modality: str
    write: Callable[[Path], Path]


def noisy_frames(count: int, height: int, width: int) -> np.ndarray[Any, Any]:
    """Frames in uint8 of a drifting pattern with some noise, which codecs find about as hard as a camera's."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (height // 16 + count, width // 16 + 1, 3), np.uint8)
    frames = np.stack([np.kron(coarse[k : k + height // 16 + 1], np.ones((16, 16, 1), np.uint8)) for k in range(count)])
    noise = generator.integers(0, 12, (height, width, 1), np.uint8)
    return np.asarray(frames[:, :height, :width] // 2 + noise, np.uint8)


def picture(height: int, width: int, suffix: str) -> Callable[[Path], Path]:
    """Writes a picture of this size."""
    return lambda folder: write_picture(folder / f"picture{suffix}", noisy_frames(1, height, width)[0])


def sound(seconds: float) -> Callable[[Path], Path]:
    """Writes noise at 44.1 kHz."""
    samples = np.random.default_rng(0).normal(size=round(44_100 * seconds)).astype(np.float32) / 8
    return lambda folder: write_audio(folder / "sound.wav", samples, 44_100)


def video(name: str, seconds: float, height: int, width: int) -> Callable[[Path], Path]:
    """Writes a video at 25 frames per second, an mp4 with a sound track."""
    samples = np.random.default_rng(0).normal(size=round(44_100 * seconds)).astype(np.float32) / 8
    audio = (samples, 44_100) if name.endswith(".mp4") else None
    return lambda folder: write_video(folder / name, noisy_frames(round(25 * seconds), height, width), 25, audio)


def depth(folder: Path) -> Path:
    """Writes a depth map in millimetres, 480 × 640."""
    return write_picture(folder / "depth.png", noisy_frames(1, 480, 640)[0, :, :, 0].astype(np.uint16) * 30 + 500)


MEDIA = {
    "video": Medium("video", video("video.avi", 7.2, 240, 320)),
    "large video": Medium("video", video("large.mp4", 10, 360, 640)),
    "sound track": Medium("audio", video("track.mp4", 10, 360, 640)),
    "sound of 5 s": Medium("audio", sound(5)),
    "sound of 22 s": Medium("audio", sound(22.5)),
    "photograph": Medium("vision", picture(480, 640, ".png")),
    "large photograph": Medium("vision", picture(1024, 1280, ".jpg")),
    "thermal picture": Medium("thermal", picture(1024, 1280, ".jpg")),
    "tactile picture": Medium("vision", picture(240, 320, ".jpg")),
    "depth map": Medium("depth", depth),
}
OPENERS: Mapping[str, Callable[[Path], Raw]] = {
    "video": open_video, "audio": open_waveform, "vision": open_picture, "thermal": open_picture, "depth": open_depth,
}  # fmt: skip
PREPROCESSING: Mapping[str, Mapping[str, Callable[..., object]]] = {
    "imagebind": {
        "vision": imagebind_preprocessing.picture,
        "thermal": imagebind_preprocessing.thermal_picture,
        "depth": imagebind_preprocessing.depth_map,
        "audio": lambda raw: imagebind_preprocessing.sound(raw, 128, 204),
        "video": imagebind_preprocessing.video_clips,
    },
    "languagebind": {
        "vision": languagebind_preprocessing.picture_pixels,
        "thermal": languagebind_preprocessing.picture_pixels,
        "depth": lambda raw: languagebind_preprocessing.depth_pixels(raw, 10.0),
        "audio": lambda raw: languagebind_preprocessing.audio_spectra(raw, CHUNKS),
        "video": lambda raw: languagebind_preprocessing.video_pixels(raw, 8),
    },
}


def operations(network: Callable[[], object]) -> float:
    """Floating-point operations of a call, a multiplication and its addition counted as two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        network()
    return float(counter.get_total_flops())


def imagebind_operations() -> dict[str, float]:
    """Per modality, of one item through imagebind_huge."""
    import torch

    network = build_imagebind(HUGE)
    shapes = {
        "vision": ("vision", (1, 3, 224, 224)), "text": ("text", (1, 77)), "audio": ("audio", (1, 3, 1, 128, 204)),
        "thermal": ("thermal", (1, 1, 224, 224)), "depth": ("depth", (1, 1, 224, 224)),
        "video": ("vision", (1, 15, 3, 2, 224, 224)),
    }  # fmt: skip

    def run(tower: str, shape: tuple[int, ...]) -> object:
        kind = torch.int64 if tower == "text" else torch.float32
        return network({tower: torch.zeros(shape, dtype=kind, device="meta")})

    return {modality: operations(partial(run, *place)) for modality, place in shapes.items()}


def languagebind_operations() -> dict[str, float]:
    """Per modality, of one item through LanguageBind's towers: ViT-L/14 and CLIP's text tower for it."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from feature_cache.encoders.languagebind_towers import accept_any_shape, build

    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    media = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    media |= {"patch_size": 14, "image_size": 224, "lora_r": 0}
    special = {
        "image": ("vision", {}, (1, 3, 224, 224)), "thermal": ("thermal", {}, (1, 3, 224, 224)),
        "depth": ("depth", {}, (1, 3, 224, 224)),
        "audio": ("audio", {"num_mel_bins": 112, "target_length": 1036}, (1, 3, 112, 1036)),
        "video": ("video", {"add_time_attn": True, "num_frames": 8}, (1, 3, 8, 224, 224)),
    }  # fmt: skip
    found = {}
    for kind, (modality, more, shape) in special.items():
        fields = {"text_config": text, "vision_config": media | more, "projection_dim": 768}
        with FakeTensorMode():
            model = build(kind, fields).eval()
            accept_any_shape(model)
            pixels, tokens = torch.zeros(shape), torch.zeros((1, 77), dtype=torch.int64)
            found[modality] = operations(partial(model.vision_model, pixel_values=pixels))
            found["text"] = operations(partial(model.text_model, input_ids=tokens))
    return found


def decoding_seconds(encoder: str, folder: Path) -> dict[str, float]:
    """Per kind of medium, of one core: the best of three, from the file to what the network takes."""
    seconds = {}
    for name, medium in MEDIA.items():
        path, prepare = medium.write(folder), PREPROCESSING[encoder][medium.modality]
        times = []
        for _ in range(3):
            start = time.perf_counter()
            prepare(OPENERS[medium.modality](path))
            times.append(time.perf_counter() - start)
        seconds[name] = min(times)
    return seconds


def report(encoder: str, tflops: float, workers: int, dim: int, console: Console) -> None:
    """Prints what one item costs, and what a dataset does."""
    count = {"imagebind": imagebind_operations, "languagebind": languagebind_operations}[encoder]()
    with tempfile.TemporaryDirectory() as folder:
        seconds = decoding_seconds(encoder, Path(folder))
    costs = Table("medium", "GFLOP", "ms of a core", title=f"{encoder}: one item")
    costs.add_row("text", f"{count['text'] / 1e9:,.0f}", "")
    for name, medium in MEDIA.items():
        costs.add_row(name, f"{count[medium.modality] / 1e9:,.0f}", f"{1e3 * seconds[name]:,.0f}")
    console.print(costs)
    title = f"{encoder}: a dataset, at {tflops:g} TFLOP/s and {workers} workers"
    table = Table("dataset", "items", "device", "decoding", "cache, float16", title=title)
    total = np.zeros(4)
    for name, (items, media) in DATASETS.items():
        texts = 0 if name == "llvip" else 1
        flops = items * (sum(count[MEDIA[kind].modality] for kind in media) + texts * count["text"])
        cores = items * sum(seconds[kind] for kind in media)
        row = np.array([items, flops / tflops / 1e12, cores / workers, 2 * dim * items * (len(media) + texts)])
        table.add_row(name, *_cells(row))
        total += row
    table.add_row("all seven", *_cells(total))
    console.print(table)


def _cells(row: np.ndarray[Any, Any]) -> tuple[str, ...]:
    items, device, decoding, size = row
    return f"{items:,.0f}", _hours(device), _hours(decoding), f"{size / 1e6:,.0f} MB"


def _hours(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else "< 1 min"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.extraction_cost", description=__doc__, allow_abbrev=False)
    parser.add_argument("--tflops", type=float, default=15.0, help="10^12 operations the device sustains (default: 15)")
    parser.add_argument("--workers", type=int, default=16, help="processes that decode (default: 16)")
    flags = parser.parse_args()
    for encoder, dim in (("imagebind", 1024), ("languagebind", 768)):
        report(encoder, flags.tflops, flags.workers, dim, Console(width=100))


if __name__ == "__main__":
    main()
