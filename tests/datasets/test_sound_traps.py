"""ESC-50, Clotho and VGGSound are not laid out as one expects: each trap with a layout written for it."""

import io
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from feature_cache.datasets import esc50, vggsound_s
from feature_cache.datasets.base import Waveform
from feature_cache.datasets.clotho import Clotho
from feature_cache.datasets.esc50 import Esc50
from feature_cache.datasets.vggsound_s import VggSoundS
from feature_cache.errors import MediaError
from tests.datasets.opened import by_id, empty, pitch_of
from tests.raw_datasets import ESC_FILES, VGG_ROOT, encoded, write_csv, write_esc50_file
from tests.raw_files import moving_square, tone, write_audio, write_video


def esc_row(name: str, category: str, sound: bytes = b"") -> dict[str, object]:
    return {
        "filename": name, "fold": 1, "target": 0, "category": category, "esc10": False, "src_file": 1, "take": "A",
        "audio": {"bytes": sound, "path": None},
    }  # fmt: skip


def write_esc(root: Path, first: list[dict[str, object]], second: list[dict[str, object]]) -> None:
    esc50.forget()
    for name, rows in zip(ESC_FILES, (first, second), strict=True):
        write_esc50_file(root / "esc50/data" / name, rows)


def test_esc50_tests_on_the_second_file_from_row_600_on(tmp_path: Path) -> None:
    files = [[esc_row(f"{part}-{row:04d}.wav", f"c{row % 50:02d}") for row in range(1000)] for part in range(2)]
    write_esc(tmp_path, *files)
    dataset = Esc50(tmp_path)
    assert len(dataset.items("train")) == 1600 and len(dataset.classes) == 50
    assert [item.id for item in dataset.items("test")] == [f"1-{row:04d}.wav" for row in range(600, 1000)]


def test_esc50_opens_the_sound_of_its_own_row_in_any_order(tmp_path: Path) -> None:
    sounds = {f"1-{row}-A.wav": encoded(tone(200.0 + 40 * row, 16_000, 0.2), 16_000) for row in range(20)}
    rows = [esc_row(name, "dog", sound) for name, sound in sounds.items()]
    write_esc(tmp_path, rows[:11], rows[11:])
    dataset = Esc50(tmp_path)
    items = [*dataset.items("train"), *dataset.items("test")]
    assert len(items) == 20
    for number in np.random.default_rng(0).permutation(20):
        expected, _ = soundfile.read(io.BytesIO(sounds[items[number].id]), dtype="float32")
        opened = items[number].open("audio")
        assert isinstance(opened, Waveform) and np.array_equal(opened.samples, expected)


def test_esc50_keeps_no_more_than_one_row_group_of_sounds(tmp_path: Path) -> None:
    rows = [esc_row(f"{row}.wav", "dog", encoded(tone(300, 8_000, 0.1), 8_000)) for row in range(12)]
    write_esc(tmp_path, rows[:6], rows[6:])
    for item in Esc50(tmp_path).items("train"):
        item.open("audio")
    kept = esc50._sounds_of.cache_info()
    assert kept.currsize == 1 and kept.misses < kept.hits


def test_esc50_says_what_large_row_groups_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [esc_row(f"{row}.wav", "dog", encoded(tone(300, 8_000, 0.1), 8_000)) for row in range(12)]
    write_esc(tmp_path, rows[:6], rows[6:])
    assert Esc50(tmp_path).notes == ()
    monkeypatch.setattr(esc50, "LARGE", 1_000)
    (note,) = Esc50(tmp_path).notes
    assert "fewer --workers" in note


@pytest.mark.parametrize("harm", ["one file", "no parquet", "no audio"])
def test_esc50_names_the_file_that_is_not_right(harm: str, tmp_path: Path) -> None:
    write_esc(tmp_path, [esc_row("1.wav", "dog")], [esc_row("2.wav", "dog")])
    second = tmp_path / "esc50/data" / ESC_FILES[1]
    match harm:
        case "one file":
            second.unlink()
        case "no parquet":
            second.write_text("no")
        case "no audio":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({"filename": ["2.wav"], "category": ["dog"]}), second)
    expected = "should have 2 .parquet files, but has 1" if harm == "one file" else f"{second.name} should be a Parquet"
    with pytest.raises(MediaError, match=expected.replace(".", r"\.")):
        Esc50(tmp_path)


def write_clotho_split(root: Path, split: str, table: list[list[str]], encoding: str = "utf-8") -> None:
    write_csv(root / f"clotho/clotho_captions_{split}.csv", [["file_name", "caption_1", "caption_2"], *table])
    path = root / f"clotho/clotho_captions_{split}.csv"
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))


def write_sound(path: Path, frequency: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, tone(frequency, 16_000, 0.5), 16_000)


def test_clotho_ids_end_at_the_first_dot_and_those_that_collide_are_told_apart(tmp_path: Path) -> None:
    names = {"Rain.Forest 2.wav": 400, "Rain.Forest 1.wav": 600, "A ❄ (wet), loud?.wav": 800}
    for name, frequency in names.items():
        write_sound(tmp_path / "clotho/development" / name, frequency)
    write_sound(tmp_path / "clotho/evaluation/x.wav", 300)
    captions = ["two", 'one, or "1"\nmore', ""]
    write_clotho_split(tmp_path, "development", [[n, c, "other"] for n, c in zip(names, captions, strict=True)])
    write_clotho_split(tmp_path, "evaluation", [["x.wav", "dogs", "other"]], "utf-8-sig")
    dataset = Clotho(tmp_path)
    found = by_id(dataset.items("train"))
    assert {name: item.caption for name, item in found.items()} == {
        "Rain": "two", "Rain~2": 'one, or "1"\nmore', "A ❄ (wet), loud?": "",
    }  # fmt: skip
    assert [round(pitch_of(found[name]), -1) for name in ("Rain", "Rain~2", "A ❄ (wet), loud?")] == [400, 600, 800]
    assert [(item.id, item.caption) for item in dataset.items("test")] == [("x", "dogs")]


def test_clotho_takes_a_sound_that_is_listed_twice_once_with_its_first_caption(tmp_path: Path) -> None:
    for split in ("development", "evaluation"):
        empty(tmp_path / "clotho" / split / "a.wav")
        write_clotho_split(tmp_path, split, [["a.wav", "first", "x"], ["a.wav", "second", "x"]])
    assert [(item.id, item.caption) for item in Clotho(tmp_path).items("train")] == [("a", "first")]


def test_clotho_finds_files_whose_accents_are_spelled_in_another_way(tmp_path: Path) -> None:
    name = "Café à Zürich.wav"
    apart, together = unicodedata.normalize("NFD", name), unicodedata.normalize("NFC", name)
    assert apart != together
    for split, on_disk, in_table in (("development", apart, together), ("evaluation", together, apart)):
        write_sound(tmp_path / "clotho" / split / on_disk, 500)
        write_clotho_split(tmp_path, split, [[in_table, "c", "d"]])
    dataset = Clotho(tmp_path)
    assert [round(pitch_of(dataset.items(split)[0]), -1) for split in ("train", "test")] == [500, 500]


def test_clotho_lists_a_sound_that_is_missing_and_fails_when_it_is_opened(tmp_path: Path) -> None:
    for split in ("development", "evaluation"):
        write_sound(tmp_path / "clotho" / split / "here.wav", 500)
        write_clotho_split(tmp_path, split, [["here.wav", "c", "d"], ["not here.wav", "c", "d"]])
    items = by_id(Clotho(tmp_path).items("train"))
    assert sorted(items) == ["here", "not here"]
    with pytest.raises(FileNotFoundError):
        items["not here"].open("audio")


@pytest.mark.parametrize("harm", ["latin-1", "no column"])
def test_clotho_names_a_table_that_is_not_right(harm: str, tmp_path: Path) -> None:
    for split in ("development", "evaluation"):
        empty(tmp_path / "clotho" / split / "a.wav")
        write_clotho_split(tmp_path, split, [["a.wav", "é", "d"]], "latin-1" if harm == "latin-1" else "utf-8")
    if harm == "no column":
        write_csv(tmp_path / "clotho/clotho_captions_development.csv", [["file_name", "caption"], ["a.wav", "c"]])
    expected = "no CSV file in UTF-8" if harm == "latin-1" else "should have the column 'caption_1', but has"
    with pytest.raises(MediaError, match=f"clotho_captions_development.csv .*{expected}"):
        Clotho(tmp_path)


def write_vgg_table(root: Path, rows: list[tuple[str, int, str, str]], without_video: tuple[str, ...] = ()) -> None:
    write_csv(root / "vggsound/vggsound.csv", rows)
    for youtube, start, _, _ in rows:
        if youtube not in without_video:
            empty(root / VGG_ROOT / "video" / f"{youtube}_{start:06d}.mp4")


def test_vggsound_s_takes_the_first_rows_of_the_table_that_have_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vggsound_s, "LIMITS", {"train": 3, "test": 1})
    rows = [
        ("zz", 5, "owl hooting", "test"), ("zz", 30, "hail", "train"), ("-gone", 1, "sea waves", "train"),
        ("yy", 120, "child speech, kid speaking", "train"), ("aa", 0, "never", "test"), ("xx", 1, "hail", "train"),
        ("bb", 2, "never", "train"),
    ]  # fmt: skip
    write_vgg_table(tmp_path, rows, without_video=("-gone",))
    dataset = VggSoundS(tmp_path)
    assert [label.name for label in dataset.classes] == ["child speech, kid speaking", "hail", "owl hooting"]
    assert [(item.id, item.caption, item.label) for item in dataset.items("train")] == [
        ("xx_000001", "hail", 1), ("yy_000120", "child speech, kid speaking", 0), ("zz_000030", "hail", 1),
    ]  # fmt: skip
    assert [(item.id, item.label) for item in dataset.items("test")] == [("zz_000005", 2)]


def published_rule(rows: list[tuple[str, int, str, str]], split: str, most: int) -> list[str]:
    """The published counter, step by step: it is compared before it counts, and a repeated row counts again."""
    count, taken = 0, []
    for youtube, start, _, of_split in rows:
        if of_split != split:
            continue
        if count > most:
            break
        count += 1
        if f"{youtube}_{start:06d}" not in taken:
            taken.append(f"{youtube}_{start:06d}")
    return taken


@pytest.mark.parametrize("most", [1, 2, 3, 30])
def test_vggsound_s_takes_as_many_as_the_published_counter_lets_through(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vggsound_s.LIMITS == {"train": 10_000 + 1, "test": 2_000 + 1}
    monkeypatch.setattr(vggsound_s, "LIMITS", {"train": most + 1, "test": most + 1})
    names = ["q", "p", "q", "o", "n", "n", "m"]
    rows = [(name, 7, "hail", split) for name in names for split in ("test", "train")]
    write_vgg_table(tmp_path, rows)
    dataset = VggSoundS(tmp_path)
    for split in ("train", "test"):
        assert [item.id for item in dataset.items(split)] == sorted(published_rule(rows, split, most))


def test_vggsound_s_hears_the_video_where_no_sound_was_cut(tmp_path: Path) -> None:
    rows = [("cut", 1, "hail", "train"), ("uncut", 2, "hail", "train"), ("test", 3, "hail", "test")]
    write_vgg_table(tmp_path, rows)
    for name in ("cut_000001", "uncut_000002"):
        sound = (tone(500, 44_100, 1.0, channels=2), 44_100)
        write_video(tmp_path / VGG_ROOT / "video" / f"{name}.mp4", moving_square(10), 10, audio=sound)
    write_audio(empty(tmp_path / VGG_ROOT / "audio/cut_000001.mp3"), tone(1_500, 44_100, 1.0), 44_100)
    items = by_id(VggSoundS(tmp_path).items("train"))
    assert round(pitch_of(items["cut_000001"]), -1) == 1_500
    assert round(pitch_of(items["uncut_000002"]), -1) == 500
    assert [len(item.open("video")) for item in items.values()] == [10, 10]  # type: ignore[arg-type]


def test_vggsound_s_lists_a_silent_video_and_fails_when_it_is_heard(tmp_path: Path) -> None:
    write_vgg_table(tmp_path, [("a", 1, "hail", "train"), ("b", 2, "hail", "test")])
    write_video(tmp_path / VGG_ROOT / "video/a_000001.mp4", moving_square(4), 10)
    item = VggSoundS(tmp_path).items("train")[0]
    with pytest.raises(ValueError, match="no sound track"):
        item.open("audio")


@pytest.mark.parametrize("line", [["id", "start", "label", "split"], ["id", "3", "label"]])
def test_vggsound_s_names_the_line_of_the_table_that_is_not_right(line: list[str], tmp_path: Path) -> None:
    write_vgg_table(tmp_path, [("a", 1, "hail", "train")])
    write_csv(tmp_path / "vggsound/vggsound.csv", [["a", "1", "hail", "train"], line])
    with pytest.raises(MediaError, match=r"line 2 of .*vggsound.csv should be id, start, label, split, but is \["):
        VggSoundS(tmp_path)


def test_vggsound_s_says_which_split_has_no_video(tmp_path: Path) -> None:
    write_vgg_table(tmp_path, [("a", 1, "hail", "train"), ("b", 2, "hail", "test")], without_video=("b",))
    with pytest.raises(MediaError, match="no video of the test rows"):
        VggSoundS(tmp_path)
