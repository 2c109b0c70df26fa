"""What every pocket encoder promises, on real media of all its modalities."""

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from feature_cache.datasets.base import Clip, Video
from feature_cache.encoders import POCKET
from feature_cache.encoders.pocket.pocket_encoder import PocketEncoder
from feature_cache.errors import UnknownNameError
from feature_cache.manifest import MODALITY_ORDER
from tests.encoders.media import MEDIA, picture


@pytest.fixture(params=POCKET)
def encoder(request: pytest.FixtureRequest) -> PocketEncoder:
    encoder = request.getfixturevalue(request.param)
    assert encoder.name == request.param
    return encoder


def embed(encoder: PocketEncoder, modality: str, media: list) -> np.ndarray:
    return encoder.embed(modality, [encoder.preprocess(modality, medium) for medium in media])


def test_every_modality_is_tested_and_they_are_in_storage_order(encoder: PocketEncoder) -> None:
    assert set(encoder.modalities) == set(MEDIA)
    assert list(encoder.modalities) == sorted(encoder.modalities, key=MODALITY_ORDER.index)


@pytest.mark.parametrize("modality", MEDIA)
def test_embeddings_have_the_manifests_width_and_length(encoder: PocketEncoder, modality: str) -> None:
    features = embed(encoder, modality, MEDIA[modality])
    spec = encoder.modalities[modality]
    assert features.dtype == np.float32
    assert features.shape == (len(MEDIA[modality]), spec.dim)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), spec.scale, rtol=1e-5)
    assert spec.scale**2 == pytest.approx(20)


@pytest.mark.parametrize("modality", MEDIA)
def test_an_embedding_does_not_depend_on_its_batch(encoder: PocketEncoder, modality: str) -> None:
    together = embed(encoder, modality, MEDIA[modality])
    apart = np.concatenate([embed(encoder, modality, [medium]) for medium in MEDIA[modality]])
    reversed_ = embed(encoder, modality, MEDIA[modality][::-1])[::-1]
    np.testing.assert_allclose(together, apart, atol=1e-5)
    np.testing.assert_allclose(together, reversed_, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01


@pytest.mark.parametrize("modality", MEDIA)
def test_the_same_batch_gives_the_same_bits(encoder: PocketEncoder, modality: str) -> None:
    media = MEDIA[modality]
    np.testing.assert_array_equal(embed(encoder, modality, media), embed(encoder, modality, media))


def test_an_empty_batch_has_no_rows(encoder: PocketEncoder) -> None:
    for modality, spec in encoder.modalities.items():
        assert encoder.embed(modality, []).shape == (0, spec.dim)


@pytest.mark.parametrize("modality", MEDIA)
def test_a_medium_of_another_modality_is_refused(encoder: PocketEncoder, modality: str) -> None:
    with pytest.raises(TypeError, match="Expected a medium of type"):
        encoder.preprocess(modality, b"bytes")  # type: ignore[arg-type]


def test_an_unknown_modality_is_refused_with_the_nearest_one(encoder: PocketEncoder) -> None:
    with pytest.raises(UnknownNameError, match="did you mean vision"):
        encoder.preprocess("visoin", "a cat")
    with pytest.raises(UnknownNameError, match=f"modality of {encoder.name}"):
        encoder.embed("thermal", [])


def test_a_clip_of_one_frame_is_that_picture_and_a_clip_without_frames_is_refused(encoder: PocketEncoder) -> None:
    still = embed(encoder, "vision", [picture("stove")])
    np.testing.assert_allclose(embed(encoder, "video", [Clip([picture("stove")] * 3)]), still, atol=1e-5)
    with pytest.raises(ValueError, match="at least one frame"):
        encoder.preprocess("video", Clip([]))
    with pytest.raises(TypeError, match="type Image"):
        encoder.preprocess("video", Clip(["a frame"]))  # type: ignore[list-item]


def test_of_a_long_video_eight_frames_count(encoder: PocketEncoder) -> None:
    frames = [picture("stove").rotate(9 * turns, fillcolor="white") for turns in range(40)]
    seen = encoder.preprocess("video", Film(frames))
    middle_of_eighths = [frames[number] for number in (2, 7, 12, 17, 22, 27, 32, 37)]
    np.testing.assert_array_equal(seen, encoder.preprocess("video", Clip(middle_of_eighths)))
    assert len(encoder.preprocess("video", Film(frames[:3]))) == 8
    with pytest.raises(ValueError, match="at least one frame"):
        encoder.preprocess("video", Film([]))


class Film(Video):
    """A video that is no `Clip`."""

    rate = 25.0

    def __init__(self, frames: list[Image.Image]) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return len(self._frames)

    def pick(self, indices: Sequence[int]) -> list[Image.Image]:
        return [self._frames[index] for index in indices]


def test_the_weights_have_a_digest_that_stays(encoder: PocketEncoder) -> None:
    digest = encoder.weights_sha256()
    assert len(bytes.fromhex(digest)) == 32
    assert type(encoder)("cpu").weights_sha256() == digest


def test_construction_imports_no_heavy_library() -> None:
    heavy = ("torch", "transformers", "tokenizers", "scipy", "PIL", "onnxruntime", "ctranslate2")
    lines = [
        "import sys",
        "from feature_cache.encoders import POCKET, REGISTRY",
        "from feature_cache.registry import resolve",
        "for name in POCKET:",
        "    encoder = resolve(REGISTRY, 'encoder', name)()",
        "    encoder.name, encoder.preprocessing_version, encoder.modalities, encoder.weights_sha256()",
        f"print([name for name in {heavy} if name in sys.modules])",
    ]
    command = [sys.executable, "-W", "error", "-c", "\n".join(lines)]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout == "[]\n"
