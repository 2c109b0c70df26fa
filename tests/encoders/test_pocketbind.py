"""What the whole encoder makes of real pictures, sounds and texts."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from feature_cache.datasets.pocket.pictures import on_white
from feature_cache.encoders.pocket import efficientnet_lite, yamnet
from feature_cache.encoders.pocket.conse import conse, top_classes
from feature_cache.encoders.pocket.pocketbind import PocketBind
from feature_cache.encoders.pocket.pocketbind_lite2 import PocketBindLite2
from feature_cache.encoders.pocket.pocketraw import PocketRaw
from tests.encoders.media import FURNITURE, RECORDED, photo, picture, sound, walk_past


def run_python(*lines: str) -> str:
    command = [sys.executable, "-W", "error", "-c", "\n".join(lines)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def embed(encoder: PocketBind, modality: str, media: list) -> np.ndarray:
    return encoder.embed(modality, [encoder.preprocess(modality, medium) for medium in media])


# --- what the media mean


@pytest.mark.parametrize(
    "name, expected", [("cat", {"Egyptian cat", "tabby, tabby cat", "tiger cat"}), ("coffee", {"espresso", "cup"})]
)
def test_a_photo_is_recognised(pocketbind: PocketBind, name: str, expected: set[str]) -> None:
    probabilities = pocketbind._efficientnet.probabilities(pocketbind.preprocess("vision", photo(name))[None].copy())
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


@pytest.mark.parametrize("name", ["pocketbind", "pocketbind_lite2"])
@pytest.mark.parametrize("modality", ["vision", "video"])
def test_a_photo_and_a_clip_are_nearest_to_what_they_show(
    name: str, modality: str, request: pytest.FixtureRequest
) -> None:
    encoder: PocketBind = request.getfixturevalue(name)
    shown: list = [photo("cat"), photo("coffee")]
    if modality == "video":
        shown = [walk_past(picture) for picture in shown]
    texts = ["a cat", "a cup of coffee", "a truck", "a slice of pizza", "a trumpet", "the stock market"]
    logits = embed(encoder, modality, shown) @ embed(encoder, "text", texts).T
    assert logits.argmax(1).tolist() == [0, 1]
    second, best = np.sort(logits, axis=1)[:, -2:].T
    assert (best > second + 4).all()


def test_a_clip_of_a_cat_is_near_its_photo_and_far_from_another(pocketbind: PocketBind, pocketraw: PocketRaw) -> None:
    for encoder in (pocketbind, pocketraw):
        cat, coffee = embed(encoder, "vision", [photo("cat"), photo("coffee")]) / np.sqrt(20)
        clip = embed(encoder, "video", [walk_past(photo("cat"))])[0] / np.sqrt(20)
        assert clip @ cat > 0.85
        assert clip @ coffee < clip @ cat - 0.4


def test_a_clip_is_the_mean_of_its_frames_probabilities(pocketbind: PocketBind) -> None:
    frames = [pocketbind.preprocess("vision", picture(name)) for name in ("stove", "barrel")]
    mean = pocketbind._efficientnet.probabilities(np.stack(frames)).astype(np.float64).mean(0)
    expected = conse(mean[None], pocketbind._imagenet_names)[0] * np.sqrt(20)
    np.testing.assert_allclose(pocketbind.embed("video", [np.stack(frames)])[0], expected, atol=1e-4)


@pytest.mark.parametrize("name", ["pocketbind", "pocketbind_lite2"])
def test_most_pictures_of_furniture_find_their_names_among_all(name: str, request: pytest.FixtureRequest) -> None:
    encoder: PocketBind = request.getfixturevalue(name)
    pictures = embed(encoder, "vision", [picture(name) for name in FURNITURE])
    names = embed(encoder, "text", [name.replace("_", " ") for name in FURNITURE])
    found = (pictures @ names.T).argmax(1) == np.arange(len(FURNITURE))
    assert len(FURNITURE) == 23
    assert found.sum() >= 16, [name for name, hit in zip(FURNITURE, found, strict=True) if not hit]


def test_the_two_backbones_are_different_spaces(pocketbind: PocketBind, pocketbind_lite2: PocketBindLite2) -> None:
    texts = ["a cat", "a truck", "the stock market"]
    first, second = embed(pocketbind, "text", texts), embed(pocketbind_lite2, "text", texts)
    assert np.abs((first * second).sum(1)).max() < 12  # of 20, were they the same
    assert pocketbind.weights_sha256() != pocketbind_lite2.weights_sha256()


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


# --- how a medium is shown


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


# --- what is loaded when


def test_text_loads_no_other_network() -> None:
    loaded = run_python(
        "import sys",
        "from feature_cache.encoders.pocket.pocketbind import PocketBind",
        "encoder = PocketBind('cpu')",
        "encoder.embed('text', [encoder.preprocess('text', 'a cat')])",
        "print('torch' in sys.modules, 'efficientnet_lite_pytorch' in sys.modules, '_yamnet' in vars(encoder))",
    )
    assert loaded == "True False False\n"
