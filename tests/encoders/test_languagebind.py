"""What the encoder languagebind promises, with its real architecture and tiny random weights."""

import math
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import CLIPTokenizer

from feature_cache.datasets.base import Clip, Waveform
from feature_cache.encoders import REGISTRY
from feature_cache.encoders.languagebind import LanguageBind
from feature_cache.encoders.languagebind_snapshot import FOLDERS, TOWERS, Snapshot
from feature_cache.errors import UnknownNameError, UserError, WeightsError
from feature_cache.manifest import MODALITY_ORDER
from feature_cache.registry import resolve
from tests.encoders.media import depth_of_a_ball, photo, picture, sound, walk_past
from tests.encoders.tiny_languagebind import DIM, TinyLanguageBind

PICTURES = [photo("cat"), picture("stove"), Image.new("L", (30, 50), 90), picture("desk"), picture("hot_dog")]
SOUNDS = [sound("flute"), sound("marimba"), sound("guitar")]
NOISE = Waveform(np.random.default_rng(0).normal(0, 0.1, 70_000).astype(np.float32), 22_050)
MEDIA = {
    "vision": PICTURES,
    "text": ["cat", "the small black dog that sleeps in the sofa", "", "x" * 400, "🐈 قطة"],
    "audio": [*SOUNDS, NOISE, Waveform(np.zeros(3200, np.float32), 16_000)],
    "thermal": PICTURES[::-1],
    "depth": [depth_of_a_ball(size, 2.0 + size / 10) for size in (5, 10, 20, 30, 40)],
    "video": [walk_past(picture) for picture in PICTURES],
    "tactile": PICTURES,
}


@pytest.fixture(scope="module")
def encoder(languagebind_weights: Path) -> LanguageBind:
    return LanguageBind("cpu", weights=languagebind_weights)


@pytest.fixture(scope="module")
def prepared(encoder: LanguageBind) -> dict[str, list[np.ndarray]]:
    return {modality: [encoder.preprocess(modality, medium) for medium in media] for modality, media in MEDIA.items()}


def relative(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest distance of rows, as a part of their length."""
    return float((np.linalg.norm(actual - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


def test_it_is_registered_and_every_modality_is_tested_in_storage_order(encoder: LanguageBind) -> None:
    assert resolve(REGISTRY, "encoder", "languagebind") is LanguageBind
    assert list(LanguageBind.modalities) == list(encoder.modalities) == list(MEDIA)
    assert list(MEDIA) == sorted(MEDIA, key=MODALITY_ORDER.index)


def test_the_class_knows_the_published_width_and_an_encoder_that_of_its_checkpoints(encoder: LanguageBind) -> None:
    assert {spec.dim for spec in LanguageBind.modalities.values()} == {768}
    assert {spec.dim for spec in encoder.modalities.values()} == {DIM}
    assert {spec.dim for spec in TinyLanguageBind.modalities.values()} == {DIM}


@pytest.mark.parametrize("modality", MEDIA)
def test_embeddings_have_the_length_of_their_towers_temperature(
    modality: str, encoder: LanguageBind, prepared: dict, languagebind_weights: Path
) -> None:
    path = Snapshot(languagebind_weights / TOWERS[modality]).weights
    safe = path.suffix == ".safetensors"
    logit_scale = load_file(path)["logit_scale"] if safe else torch.load(path, weights_only=True)["logit_scale"]
    scale = 1.0 if modality == "text" else math.exp(logit_scale)
    assert encoder.modalities[modality].scale == pytest.approx(scale, rel=1e-6)
    features = encoder.embed(modality, prepared[modality])
    assert (features.shape, features.dtype) == ((5, DIM), np.float32)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), scale, rtol=1e-5)
    assert modality == "text" or 5 < scale < 100


@pytest.mark.parametrize("modality", MEDIA)
@pytest.mark.parametrize("size", [1, 3])
def test_an_embedding_does_not_depend_on_its_batch(
    modality: str, size: int, encoder: LanguageBind, prepared: dict
) -> None:
    media = prepared[modality]
    together = encoder.embed(modality, media)
    parts = [encoder.embed(modality, media[start : start + size]) for start in range(0, len(media), size)]
    assert relative(np.concatenate(parts), together) < 1e-5
    assert relative(encoder.embed(modality, media[::-1])[::-1], together) < 1e-5
    np.testing.assert_array_equal(encoder.embed(modality, media), together)
    assert np.linalg.norm(together[0] - together[1]) > 1e-3 * np.linalg.norm(together[0])


@pytest.mark.parametrize("modality", MEDIA)
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_lower_precisions_stay_within_a_hundredth(
    modality: str, precision: str, encoder: LanguageBind, prepared: dict, languagebind_weights: Path
) -> None:
    lower = LanguageBind("cpu", precision, languagebind_weights)
    features, exact = (one.embed(modality, prepared[modality]) for one in (lower, encoder))
    assert (lower.precision, features.dtype) == (precision, np.float32)
    assert 1e-5 < relative(features, exact) < {"float16": 2e-3, "bfloat16": 1e-2}[precision]


def test_tactile_pictures_go_through_the_tower_of_pictures(encoder: LanguageBind, prepared: dict) -> None:
    features = [encoder.embed(modality, prepared["vision"]) for modality in ("vision", "tactile", "thermal")]
    np.testing.assert_array_equal(features[0], features[1])
    assert relative(features[2], features[0]) > 0.1


def test_texts_have_the_ids_of_transformers_tokenizer(encoder: LanguageBind, languagebind_weights: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(languagebind_weights / TOWERS["text"], pad_token="<|endoftext|>")
    for text in [*MEDIA["text"], "The CAT'S  dog\n12 — naïve"]:
        expected = tokenizer(text, max_length=77, padding="max_length", truncation=True)["input_ids"]
        ids = encoder.preprocess("text", text)
        assert (ids.shape, ids.dtype) == ((77,), np.int64)
        np.testing.assert_array_equal(ids, expected, err_msg=text)


def test_only_the_towers_that_are_asked_for_are_read(languagebind_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(languagebind_weights / "LanguageBind_Image", tmp_path / "LanguageBind_Image")
    encoder = LanguageBind("cpu", weights=tmp_path)
    pixels = encoder.preprocess("vision", photo("cat"))
    assert encoder.embed("vision", [pixels]).shape == (1, encoder.modalities["vision"].dim)
    with pytest.raises(
        WeightsError, match=r"no folder .*LanguageBind_Depth.*weights --encoder=languagebind --weights="
    ):
        encoder.preprocess("text", "cat")
    with pytest.raises(WeightsError, match=r"LanguageBind_Thermal"):
        encoder.embed("thermal", [pixels])
    with pytest.raises(WeightsError, match=r"LanguageBind_Audio_FT"):
        encoder.weights_sha256()


def test_the_digest_changes_with_every_file_that_is_read(languagebind_weights: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(languagebind_weights, tmp_path / "weights", ignore=shutil.ignore_patterns("*.json.*"))
    digest = LanguageBind("cpu", weights=folder).weights_sha256()
    assert len(bytes.fromhex(digest)) == 32
    assert digest == LanguageBind("cuda", weights=languagebind_weights).weights_sha256()
    names = ["config.json", "pytorch_model.bin", "model.safetensors"]
    files = sorted(path for name in names for path in folder.rglob(name))
    files += [folder / TOWERS["text"] / name for name in ("vocab.json", "merges.txt")]
    assert len(files) == 2 * len(FOLDERS) + 2
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        assert LanguageBind("cpu", weights=folder).weights_sha256() != digest, file
        file.write_bytes(content)
    assert LanguageBind("cpu", weights=folder).weights_sha256() == digest
    (folder / TOWERS["text"] / "merges.txt").unlink()
    with pytest.raises(WeightsError, match=r"no file merges\.txt in .*LanguageBind_Depth"):
        LanguageBind("cpu", weights=folder).weights_sha256()


def test_weights_are_looked_for_in_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"no folder weights/languagebind/LanguageBind_Audio_FT"):
        LanguageBind().weights_sha256()


@pytest.mark.parametrize(
    "content, complaint", [("{", "is not JSON"), ("[]", "JSON object"), ("{}", "no projection_dim")]
)
def test_a_damaged_configuration_is_named(content: str, complaint: str, tmp_path: Path) -> None:
    folder = tmp_path / "LanguageBind_Image"
    folder.mkdir()
    (folder / "config.json").write_text(content)
    with pytest.raises(WeightsError, match=rf"LanguageBind_Image/config\.json .*{complaint}"):
        LanguageBind("cpu", weights=tmp_path).embed("vision", [])


def test_a_configuration_of_another_tower_is_no_audio_towers(languagebind_weights: Path, tmp_path: Path) -> None:
    shutil.copytree(languagebind_weights / "LanguageBind_Image", tmp_path / "LanguageBind_Audio_FT")
    with pytest.raises(WeightsError, match="no num_mel_bins"):
        LanguageBind("cpu", weights=tmp_path).preprocess("audio", NOISE)


def test_what_is_no_medium_of_the_modality_is_refused(encoder: LanguageBind) -> None:
    for modality in MEDIA:
        with pytest.raises(TypeError, match="Expected a medium of type"):
            encoder.preprocess(modality, b"bytes")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="did you mean vision"):
        encoder.preprocess("visoin", "a cat")
    with pytest.raises(UnknownNameError, match="modality of languagebind"):
        encoder.embed("imu", [])
    with pytest.raises(ValueError, match="at least one frame"):
        encoder.preprocess("video", Clip([]))
    with pytest.raises(UserError, match="precision=float64"):
        LanguageBind("cpu", "float64")


def test_an_empty_batch_has_no_rows(encoder: LanguageBind) -> None:
    for modality in MEDIA:
        assert encoder.embed(modality, []).shape == (0, DIM)


def run(lines: Sequence[str], *arguments: str) -> str:
    command = [sys.executable, "-W", "error", "-c", "\n".join(lines), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=300, env=environment
    ).stdout.strip()


def test_construction_imports_no_heavy_library_and_reads_no_weights() -> None:
    heavy = ("torch", "transformers", "tokenizers", "scipy", "PIL", "peft", "huggingface_hub", "languagebind")
    lines = [
        "import sys, pickle",
        "from feature_cache.encoders.languagebind import LanguageBind",
        "LanguageBind.name, LanguageBind.preprocessing_version, LanguageBind.modalities['audio']",
        "encoder = LanguageBind('cuda', 'bfloat16')",
        "pickle.loads(pickle.dumps(encoder)), 'text' in encoder.modalities, list(encoder.modalities)",
        f"print([name for name in {heavy} if name in sys.modules])",
    ]
    assert run(lines) == "[]"


@pytest.mark.parametrize("kind", [LanguageBind, TinyLanguageBind])
def test_another_process_prepares_the_same_media_without_torch(
    kind: type[LanguageBind], languagebind_weights: Path, tmp_path: Path
) -> None:
    encoder = kind("cpu", weights=languagebind_weights)
    media = {modality: few[1] for modality, few in MEDIA.items()}
    expected = {modality: encoder.preprocess(modality, medium) for modality, medium in media.items()}
    encoder.embed("vision", [expected["vision"]])
    media["video"] = Clip([frame.copy() for frame in media["video"].frames])
    (tmp_path / "job").write_bytes(pickle.dumps((encoder, {m: medium for m, medium in media.items()})))
    lines = [
        "import pickle, sys, numpy as np",
        "encoder, media = pickle.load(open(sys.argv[1], 'rb'))",
        "arrays = {modality: encoder.preprocess(modality, medium) for modality, medium in media.items()}",
        "np.savez(sys.argv[2], **arrays)",
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])",
    ]
    assert run(lines, str(tmp_path / "job"), str(tmp_path / "arrays.npz")) == "[]"
    arrays = np.load(tmp_path / "arrays.npz")
    for modality, array in expected.items():
        np.testing.assert_array_equal(arrays[modality], array)
