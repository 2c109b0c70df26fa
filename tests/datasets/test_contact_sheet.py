"""The contact sheet shows what the datasets have, by a rule; whether it is beautiful is for eyes."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feature_cache.datasets import POCKET, REGISTRY
from feature_cache.datasets.base import Clip, Dataset, Item, Waveform
from feature_cache.datasets.pocket.contact_sheet import CREDITS, Band, contact_sheet, main, spectrogram
from feature_cache.datasets.pocket.examples import examples_of, examples_over_splits
from feature_cache.datasets.pocket.sheet import WIDTH, Sheet, broken
from feature_cache.manifest import SPLITS
from feature_cache.registry import resolve
from tests.datasets.tiny_media import need_synthesizer


@pytest.fixture(scope="module")
def loaded(tiny_media: Path) -> list[Dataset]:
    need_synthesizer()
    return [resolve(REGISTRY, "dataset", name)(tiny_media) for name in POCKET]


@pytest.fixture(scope="module")
def sheet(loaded: list[Dataset]) -> Sheet:
    return contact_sheet(loaded)


def texts(sheet: Sheet) -> list[str]:
    return [text.get_text() for text in sheet.figure.texts]


class Numbers:
    """Grey pictures whose captions are numbers; a thing is in all splits."""

    name = "numbers"
    modalities = ("vision", "text")

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes

    def items(self, split: str) -> list[Item]:
        return [
            Item(f"{n}-{split}", f"{n:02d}", media={"vision": lambda n=n: Image.new("L", (2, 2), n)})
            for n in reversed(range(self.sizes[split]))
        ]


def captions(dataset: Numbers, count: int) -> list[tuple[str, int]]:
    """Split and number of the examples, each of which shows its own picture."""
    examples = examples_of(dataset, count)
    for example in examples:
        [(_, picture)] = example.media
        assert picture.getpixel((0, 0)) == int(example.caption)
    return [(example.media[0][0], int(example.caption)) for example in examples]


def test_the_command_writes_a_png_of_its_width_and_the_same_bytes_twice(tiny_media: Path, tmp_path: Path) -> None:
    need_synthesizer()
    written = []
    for name in ("first", "second"):
        out = tmp_path / name / "examples.png"
        assert main([f"--data_root={tiny_media}", f"--out={out}"]) == 0
        written.append(out.read_bytes())
    assert written[0] == written[1]
    with Image.open(io.BytesIO(written[0])) as picture:
        assert (picture.format, picture.mode, picture.width) == ("PNG", "RGB", WIDTH)


def test_every_dataset_has_its_name_modalities_and_counts(sheet: Sheet, loaded: list[Dataset]) -> None:
    found = texts(sheet)
    assert [text for text in found if text in POCKET] == list(POCKET)
    for dataset in loaded:
        title = found[found.index(dataset.name) :]
        assert title[1] == " · ".join(dataset.modalities)
        assert title[2:5] == [f"{len(dataset.items(split)):,} {split}" for split in SPLITS]


def test_every_example_has_its_caption_and_no_text_leaves_the_sheet(sheet: Sheet, loaded: list[Dataset]) -> None:
    found = " ".join(texts(sheet))
    for dataset in loaded:
        band = Band(dataset)
        assert all(" ".join(band.caption(example)) == example.caption for row in band.rows for example in row)
        assert all(line in found for row in band.rows for example in row for line in band.caption(example))
    for text in sheet.figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= WIDTH and box.y0 >= 0 and box.y1 <= sheet.height, text


def test_no_text_is_on_another_and_no_medium_on_another(sheet: Sheet) -> None:
    boxes = [text.get_window_extent() for text in sheet.figure.texts]
    drawn = [axes.get_window_extent().padded(-0.5) for axes in sheet.figure.axes]
    for several in (boxes, drawn):
        assert [(a, b) for n, a in enumerate(several) for b in several[:n] if a.overlaps(b)] == []


def test_the_credits_are_on_it(sheet: Sheet) -> None:
    assert CREDITS in " ".join(texts(sheet))


def test_examples_are_evenly_spaced_over_the_captions_and_at_other_places_in_every_split() -> None:
    dataset = Numbers(train=60, validation=60, test=60)
    expected = [("train", 5), ("train", 15), ("train", 25), ("validation", 35), ("test", 45), ("test", 55)]
    assert captions(dataset, 6) == expected


def test_few_items_give_fewer_examples_and_none_twice() -> None:
    assert captions(Numbers(train=1, validation=0, test=2), 6) == [("train", 0), ("test", 1)]


def test_a_thing_in_all_splits_is_one_example_with_the_split_of_each_medium() -> None:
    first, second = examples_over_splits(Numbers(train=4, validation=4, test=4), 2)
    assert (first.caption, second.caption) == ("01", "03")
    assert sorted(split for split, _ in first.media) == sorted(SPLITS)


def test_the_three_drawings_of_an_emoji_are_together(tiny_media: Path) -> None:
    dataset = resolve(REGISTRY, "dataset", "emoji_styles")(tiny_media)
    for row in Band(dataset).rows:
        for example in row:
            assert [split for split, _ in example.media][:2] == ["train", "train"] and len(example.media) == 3


def test_of_a_clip_every_other_frame_is_shown() -> None:
    class Clips(Numbers):
        def items(self, split: str) -> list[Item]:
            clip = Clip([Image.new("L", (2, 2), n) for n in range(6)])
            return [Item(split, "counting", media={"vision": lambda: clip})]

    example = examples_of(Clips(), 6)[0]
    assert [raw.getpixel((0, 0)) for _, raw in example.media] == [0, 2, 4]


@pytest.mark.parametrize("seconds", [0.02, 0.3, 0.98, 2.5])
def test_a_spectrogram_is_as_long_as_its_sound_and_has_low_tones_below(seconds: float) -> None:
    time = np.arange(round(16_000 * seconds)) / 16_000
    low, high = (
        spectrogram(Waveform(np.sin(2 * np.pi * pitch * time).astype(np.float32), 16_000)) for pitch in (300, 5000)
    )
    assert low.shape == (64, round(100 * seconds))
    assert low[:, 0].argmax() < 16 < 48 < high[:, 0].argmax()


def test_lines_are_as_long_as_they_can_be_and_no_word_is_lost() -> None:
    text = "pulling back to train the trapezius"
    assert broken(text, 10_000, 19) == [text]
    lines = broken(text, 230, 19)
    assert " ".join(lines) == text and len(lines) == 2
    assert broken("two words", 1, 19) == ["two", "words"]


def test_missing_media_are_named_with_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--data_root={tmp_path}", f"--out={tmp_path / 'examples.png'}"]) == 1
    message = capsys.readouterr().err
    assert "fluent-emoji-3d" in message and "make pocket-media" in message
    assert not (tmp_path / "examples.png").exists()
