import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from feature_cache.datasets.pocket.gm_names import FAMILIES, INSTRUMENTS, OCTAVE
from feature_cache.datasets.pocket.instruments import Instruments
from feature_cache.datasets.pocket.soundfont import note
from feature_cache.errors import MediaError
from feature_cache.manifest import SPLITS
from tests.datasets.tiny_media import need_synthesizer, soundfont_path, write_soundfont


@pytest.fixture(scope="module")
def instruments(tiny_media: Path) -> Instruments:
    need_synthesizer()
    return Instruments(tiny_media)


@pytest.fixture
def soundfont(tmp_path: Path) -> Path:
    need_synthesizer()
    write_soundfont(tmp_path / "tiny.sf2", programs=3, highest_key_of_program_0=60)
    return tmp_path / "tiny.sf2"


def pitch_and_velocity(item_id: str) -> tuple[int, int]:
    _, pitch, velocity = item_id.split("-")
    return int(pitch[1:]), int(velocity[1:])


def test_general_midi_has_128_distinct_instruments_in_16_families_of_8() -> None:
    assert [len(names) for names in FAMILIES.values()] == [8] * 16
    assert len(set(INSTRUMENTS)) == 128
    assert set(OCTAVE) <= set(INSTRUMENTS)


@pytest.mark.parametrize(
    "program, name",
    [(0, "piano"), (40, "violin"), (56, "trumpet"), (73, "flute"), (104, "sitar"), (114, "steel"), (127, "gunshot")],
)
def test_names_stand_at_their_general_midi_program(program: int, name: str) -> None:
    assert name in INSTRUMENTS[program]


@pytest.mark.parametrize("split, notes", [("train", 10), ("validation", 2), ("test", 4)])
def test_every_instrument_plays_equally_often_in_a_split(instruments: Instruments, split: str, notes: int) -> None:
    assert Counter(item.label for item in instruments.items(split)) == dict.fromkeys(range(128), notes)


def test_no_pitch_class_is_heard_in_two_splits(instruments: Instruments) -> None:
    heard = {split: {pitch_and_velocity(item.id)[0] % 12 for item in instruments.items(split)} for split in SPLITS}
    assert all(heard[a].isdisjoint(heard[b]) for a, b in itertools.combinations(SPLITS, 2))


def test_no_velocity_is_heard_in_two_splits(instruments: Instruments) -> None:
    heard = {split: {pitch_and_velocity(item.id)[1] for item in instruments.items(split)} for split in SPLITS}
    assert all(heard[a].isdisjoint(heard[b]) for a, b in itertools.combinations(SPLITS, 2))


def test_the_open_label_is_the_family(instruments: Instruments) -> None:
    for item in instruments.items("test"):
        family = instruments.open_classes[item.open_label]
        assert item.caption in FAMILIES[family.name] and family.name in family.text


def test_the_text_is_the_class_text(instruments: Instruments) -> None:
    for item in instruments.items("test"):
        assert item.open("text") == instruments.classes[item.label].text


def test_a_clip_sounds_at_the_pitch_in_its_id(instruments: Instruments) -> None:
    for item in instruments.items("test")[::37]:
        clip = item.open("audio")
        spectrum = np.abs(np.fft.rfft(clip.samples[:16_000] * np.hanning(16_000)))
        expected = 440 * 2 ** ((pitch_and_velocity(item.id)[0] - 69) / 12)
        assert spectrum.argmax() * clip.rate / 16_000 == pytest.approx(expected, abs=1.0)


def test_a_clip_lasts_one_and_a_half_seconds_at_16_khz_with_its_peak_at_nine_tenths(instruments: Instruments) -> None:
    clip = instruments.items("train")[0].open("audio")
    assert (clip.rate, clip.samples.shape, clip.samples.dtype) == (16_000, (24_000,), np.float32)
    assert np.abs(clip.samples).max() == pytest.approx(0.9, rel=1e-6)
    assert np.isfinite(clip.samples).all()


def test_a_key_that_is_let_go_falls_silent(soundfont: Path) -> None:
    samples = note(soundfont, 1, 69, 100).samples
    held, end = samples[4_000:14_000], samples[-2_000:]
    assert np.abs(end).max() < 0.05 * np.abs(held).max()


def test_a_note_does_not_depend_on_what_was_played_before(soundfont: Path, tmp_path: Path) -> None:
    write_soundfont(tmp_path / "other.sf2", programs=3)
    for pitch in (40, 90, 61):
        note(soundfont, 2, pitch, 127)
    np.testing.assert_array_equal(note(soundfont, 1, 57, 64).samples, note(tmp_path / "other.sf2", 1, 57, 64).samples)


def test_a_silent_note_is_an_error_that_says_which(soundfont: Path) -> None:
    with pytest.raises(ValueError, match=r"tiny.sf2 is silent at program 0, pitch 61, velocity 64"):
        note(soundfont, 0, 61, 64)
    assert np.abs(note(soundfont, 0, 60, 64).samples).max() > 0


def test_a_program_that_the_soundfont_lacks_is_an_error_that_says_which(soundfont: Path) -> None:
    with pytest.raises(ValueError, match=r"tiny.sf2 cannot play program 3, pitch 60, velocity 64"):
        note(soundfont, 3, 60, 64)


def test_a_damaged_soundfont_is_an_error_that_names_it(tmp_path: Path) -> None:
    need_synthesizer()
    (tmp_path / "bad.sf2").write_bytes(b"RIFF but not a SoundFont")
    with pytest.raises(MediaError, match=r"bad.sf2 .*make pocket-media"):
        note(tmp_path / "bad.sf2", 0, 60, 64)


def test_a_missing_synthesizer_is_reported_with_the_command_that_installs_it(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
sys.modules["tinysoundfont"] = None  # importing it raises ModuleNotFoundError
from feature_cache.datasets.pocket.soundfont import note
from feature_cache.errors import MediaError
try:
    note(Path({str(tmp_path / "any.sf2")!r}), 0, 60, 64)
except MediaError as error:
    print(error)
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "`pip install --no-deps tinysoundfont==0.3.7`" in printed


def test_a_missing_soundfont_is_reported_before_any_note_is_played(tmp_path: Path) -> None:
    write_soundfont(soundfont_path(tmp_path))
    Instruments(tmp_path)
    soundfont_path(tmp_path).unlink()
    with pytest.raises(MediaError, match=r"FluidR3_GM.sf2 is missing: delete .*fluid-soundfont-gm and run"):
        Instruments(tmp_path)
