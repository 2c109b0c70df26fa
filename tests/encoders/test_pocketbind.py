"""What the whole encoder makes of real pictures, sounds and texts."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from feature_cache.datasets.base import DepthMap, Waveform
from feature_cache.datasets.pictures import on_white
from feature_cache.encoders import efficientnet_lite, yamnet
from feature_cache.encoders.conse import top_classes
from feature_cache.encoders.pocketbind import PocketBind
from feature_cache.errors import UnknownNameError
from tests.encoders.media import FURNITURE, RECORDED, photo, picture, sound


def run_python(*lines: str) -> str:
    command = [sys.executable, "-W", "error", "-c", "\n".join(lines)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def embed(encoder: PocketBind, modality: str, media: list) -> np.ndarray:
    return encoder.embed(modality, [encoder.preprocess(modality, medium) for medium in media])


def depth_of_a_ball(size: int, distance: float) -> DepthMap:
    x, y = np.meshgrid(*[np.linspace(-1.5, 1.5, size)] * 2)
    inside = x**2 + y**2 < 1
    depth = np.full((size, size), np.inf, np.float32)
    depth[inside] = distance - np.sqrt(1 - x[inside] ** 2 - y[inside] ** 2)
    return DepthMap(depth)


MEDIA = {
    "text": ["cat", "a small black cat that sleeps on the sofa", "", "guitar"],
    "vision": [photo("cat"), picture("emoji_cat"), picture("stove"), Image.new("L", (30, 50), 90)],
    "depth": [depth_of_a_ball(40, 2.0), depth_of_a_ball(61, 5.0)],
    "audio": [sound("flute"), Waveform(np.zeros(10, np.float32), 8_000), sound("marimba")],
}


# --- what the media mean


@pytest.mark.parametrize(
    "name, expected", [("cat", {"Egyptian cat", "tabby, tabby cat", "tiger cat"}), ("coffee", {"espresso", "cup"})]
)
def test_a_photo_is_recognised(pocketbind: PocketBind, name: str, expected: set[str]) -> None:
    probabilities = pocketbind._efficientnet.probabilities([pocketbind.preprocess("vision", photo(name))])
    best = top_classes(probabilities, len(expected))[0]
    assert {efficientnet_lite.class_names()[index] for index in best} == expected


@pytest.mark.parametrize(
    "name, expected", [("guitar", "Guitar"), ("flute", "Flute"), ("marimba", "Marimba, xylophone")]
)
def test_an_instrument_is_recognised(pocketbind: PocketBind, name: str, expected: str) -> None:
    scores = pocketbind._yamnet.scores([pocketbind.preprocess("audio", sound(name))])
    best = [yamnet.class_names()[index] for index in top_classes(scores, 5)[0]]
    assert expected in best


def test_texts_of_like_meaning_are_near(pocketbind: PocketBind) -> None:
    cat, kitten, truck, lorry = embed(pocketbind, "text", ["a cat", "a kitten", "a truck", "a lorry"])
    assert cat @ kitten > cat @ truck + 4
    assert truck @ lorry > truck @ kitten + 4


def test_a_photo_is_nearest_to_what_it_shows(pocketbind: PocketBind) -> None:
    texts = ["a cat", "a cup of coffee", "a truck", "a slice of pizza", "a trumpet", "the stock market"]
    logits = embed(pocketbind, "vision", [photo("cat"), photo("coffee")]) @ embed(pocketbind, "text", texts).T
    assert logits.argmax(1).tolist() == [0, 1]
    second, best = np.sort(logits, axis=1)[:, -2:].T
    assert (best > second + 4).all()


def test_most_pictures_of_furniture_find_their_names_among_all(pocketbind: PocketBind) -> None:
    pictures = embed(pocketbind, "vision", [picture(name) for name in FURNITURE])
    names = embed(pocketbind, "text", [name.replace("_", " ") for name in FURNITURE])
    found = (pictures @ names.T).argmax(1) == np.arange(len(FURNITURE))
    assert len(FURNITURE) == 23
    assert found.sum() >= 16, [name for name, hit in zip(FURNITURE, found, strict=True) if not hit]


def test_an_instruments_name_finds_its_sound_and_the_sound_is_far_from_noises(pocketbind: PocketBind) -> None:
    names = ["guitar", "flute", "marimba"]
    logits = embed(pocketbind, "text", [*names, "thunder", "a barking dog", "a car's engine"]) @ (
        embed(pocketbind, "audio", [sound(name) for name in names]).T
    )
    assert logits[:3].argmax(1).tolist() == [0, 1, 2]
    assert (np.diag(logits[:3]) > logits[3:].max(0) + 2).all()


def test_a_recorded_crow_is_nearest_to_a_crow_cawing(pocketbind: PocketBind) -> None:
    texts = ["a crow cawing", "a cat", "a dog", "a truck", "a piano", "rain", "a guitar"]
    logits = embed(pocketbind, "text", texts) @ embed(pocketbind, "audio", [sound("crow", RECORDED)])[0]
    assert texts[int(logits.argmax())] == "a crow cawing"


# --- the contract of encoders


@pytest.mark.parametrize("modality", MEDIA)
def test_embeddings_have_the_manifests_width_and_length(pocketbind: PocketBind, modality: str) -> None:
    features = embed(pocketbind, modality, MEDIA[modality])
    spec = pocketbind.modalities[modality]
    assert features.dtype == np.float32
    assert features.shape == (len(MEDIA[modality]), spec.dim)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), spec.scale, rtol=1e-5)
    assert spec.scale**2 == pytest.approx(20)


@pytest.mark.parametrize("modality", MEDIA)
def test_an_embedding_does_not_depend_on_its_batch(pocketbind: PocketBind, modality: str) -> None:
    together = embed(pocketbind, modality, MEDIA[modality])
    apart = np.concatenate([embed(pocketbind, modality, [medium]) for medium in MEDIA[modality]])
    reversed_ = embed(pocketbind, modality, MEDIA[modality][::-1])[::-1]
    np.testing.assert_allclose(together, apart, atol=1e-5)
    np.testing.assert_allclose(together, reversed_, atol=1e-5)


def test_the_same_batch_gives_the_same_bits(pocketbind: PocketBind) -> None:
    for modality, media in MEDIA.items():
        np.testing.assert_array_equal(embed(pocketbind, modality, media), embed(pocketbind, modality, media))


def test_an_empty_batch_has_no_rows(pocketbind: PocketBind) -> None:
    assert all(pocketbind.embed(modality, []).shape == (0, 384) for modality in pocketbind.modalities)


def test_transparent_pixels_are_white(pocketbind: PocketBind) -> None:
    clear, white = Image.new("RGBA", (20, 10), (0, 0, 0, 0)), Image.new("RGB", (20, 10), "white")
    pixels = pocketbind.preprocess("vision", clear)
    assert (pixels == 255).all()
    np.testing.assert_array_equal(pixels, pocketbind.preprocess("vision", white))


def test_a_picture_looks_the_same_composited_on_white_before(pocketbind: PocketBind) -> None:
    values = np.random.default_rng(0).integers(0, 256, (31, 20, 4), np.uint8)
    picture = Image.fromarray(values)
    pixels = pocketbind.preprocess("vision", picture)
    np.testing.assert_array_equal(pixels, pocketbind.preprocess("vision", on_white(picture)))


def test_the_whole_of_an_oblong_picture_is_seen(pocketbind: PocketBind) -> None:
    pixels = pocketbind.preprocess("vision", Image.new("RGB", (100, 50), "black"))
    assert pixels.shape == (224, 224, 3)
    assert (pixels[70:154] == 0).all()
    assert (pixels[:50] == 255).all()


@pytest.mark.parametrize("modality", MEDIA)
def test_a_medium_of_another_modality_is_refused(pocketbind: PocketBind, modality: str) -> None:
    with pytest.raises(TypeError, match="Expected a medium of type"):
        pocketbind.preprocess(modality, b"bytes")  # type: ignore[arg-type]


def test_an_unknown_modality_is_refused_with_the_nearest_one(pocketbind: PocketBind) -> None:
    with pytest.raises(UnknownNameError, match="did you mean vision"):
        pocketbind.preprocess("visoin", "a cat")
    with pytest.raises(UnknownNameError, match="modality of pocketbind"):
        pocketbind.embed("video", [])


# --- what is loaded when


def test_construction_imports_no_heavy_library() -> None:
    loaded = run_python(
        "import sys",
        "from feature_cache.encoders.pocketbind import PocketBind",
        "encoder = PocketBind()",
        "encoder.name, encoder.preprocessing_version, encoder.modalities, encoder.weights_sha256()",
        "print([name for name in ('torch', 'transformers', 'tokenizers', 'scipy', 'PIL') if name in sys.modules])",
    )
    assert loaded == "[]\n"


def test_text_loads_no_other_network() -> None:
    loaded = run_python(
        "import sys",
        "from feature_cache.encoders.pocketbind import PocketBind",
        "encoder = PocketBind('cpu')",
        "encoder.embed('text', [encoder.preprocess('text', 'a cat')])",
        "print('torch' in sys.modules, 'efficientnet_lite_pytorch' in sys.modules, '_yamnet' in vars(encoder))",
    )
    assert loaded == "True False False\n"


def test_the_weights_have_a_digest_that_stays(pocketbind: PocketBind) -> None:
    digest = pocketbind.weights_sha256()
    assert len(bytes.fromhex(digest)) == 32
    assert PocketBind("cpu").weights_sha256() == digest
