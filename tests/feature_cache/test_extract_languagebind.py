"""The whole way from files to a cache with LanguageBind, whose towers are tiny."""

from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import extract_features
from feature_cache import datasets, open_cache
from feature_cache.datasets.base import ClassLabel, Item, MediaSource
from feature_cache.decoding.audio import open_waveform
from feature_cache.decoding.depth import open_depth
from feature_cache.decoding.pictures import open_picture
from feature_cache.decoding.video import open_video
from feature_cache.encoders.languagebind import LanguageBind
from tests.encoders.tiny_languagebind import DIM, write_tiny_languagebind
from tests.raw_files import moving_square, tone, write_audio, write_picture, write_video

MODALITIES = ("vision", "text", "audio", "thermal", "depth", "video", "tactile")


class Everything:
    """One thing in every modality, four times, out of files; the last one's sound is broken."""

    name: ClassVar[str] = "everything"
    version: ClassVar[str] = "1"
    modalities = MODALITIES
    classes = (ClassLabel("square", "a square"), ClassLabel("other", "something else"))
    open_classes = ()
    sources = (MediaSource("made up", "1", "CC0-1.0", "https://example.org"),)
    synthetic = True

    def __init__(self, data_root: Path) -> None:
        self.root = data_root

    def items(self, split: str) -> list[Item]:
        return [self._item(number) for number in range(4)] if split == "train" else []

    def _item(self, number: int) -> Item:
        openers = {
            "vision": (open_picture, "jpg"), "thermal": (open_picture, "jpg"), "tactile": (open_picture, "jpg"),
            "audio": (open_waveform, "wav"), "depth": (open_depth, "png"), "video": (open_video, "mp4"),
        }  # fmt: skip
        media = {name: partial(opened, self.root / f"{number}.{end}") for name, (opened, end) in openers.items()}
        return Item(str(number), f"square {number}", 0, media=media)


def write_everything(root: Path) -> None:
    for number in range(4):
        frames = moving_square(10 + number, seed=number)
        write_picture(root / f"{number}.jpg", frames[0])
        write_picture(root / f"{number}.png", np.full((48, 64), 1000 + 500 * number, np.uint16))
        write_video(root / f"{number}.mp4", frames)
        write_audio(root / f"{number}.wav", tone(300 + 100 * number, 22_050, 0.2 + number), 22_050)
    (root / "3.wav").write_bytes(b"")


def test_the_command_line_extracts_every_modality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(datasets.REGISTRY, "everything", f"{__name__}:Everything")
    weights = write_tiny_languagebind(tmp_path / "weights")
    write_everything(tmp_path)
    flags = [
        "--encoder=languagebind", "--dataset=everything", f"--data_root={tmp_path}", f"--cache_dir={tmp_path}/caches",
        "--device=cpu", "--dtype=float32", "--max_failure_rate=0.5",
    ]  # fmt: skip
    assert extract_features.main([*flags, f"--weights={tmp_path / 'none'}"]) == 1
    assert "weights --encoder=languagebind" in capsys.readouterr().err
    assert extract_features.main([*flags, f"--weights={weights}"]) == 0
    cache = open_cache(tmp_path / "caches" / "languagebind" / "everything")
    cache.verify()
    encoder = LanguageBind("cpu", weights=weights)
    assert cache.manifest.weights_sha256 == encoder.weights_sha256()
    assert cache.ids("train") == ["0", "1", "2"]
    for modality in MODALITIES:
        assert cache.manifest.modalities[modality] == encoder.modalities[modality]
        features = cache.features("train", modality)
        assert features.shape == (3, DIM)
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), encoder.modalities[modality].scale, rtol=1e-5)
        assert np.linalg.norm(features[0] - features[1]) > 1e-3
    text = encoder.embed("text", [encoder.preprocess("text", "a square")])
    np.testing.assert_allclose(np.asarray(cache.class_features)[:1], text, atol=1e-6)
