import hashlib
import subprocess
import sys

import numpy as np
import pytest

from feature_cache.datasets.pocket.speech_synthesis import RATE, _synthesize, speak
from feature_cache.errors import MediaError


def test_a_spoken_text_is_sound_of_a_sensible_length() -> None:
    spoken = speak("grinning cat with smiling eyes")
    assert spoken.rate == RATE
    assert spoken.samples.dtype == np.float32
    assert 1.0 < spoken.samples.size / RATE < 3.0
    assert 0.1 < np.abs(spoken.samples).max() < 1.0
    assert np.abs(spoken.samples.mean()) < 0.01


@pytest.mark.parametrize("voice", ["en-us", "en", "en-gb-scotland", "en-us+f3", "en+m3"])
def test_a_text_sounds_the_same_whatever_was_spoken_before(voice: str) -> None:
    first = speak("cat face", voice, 150).samples
    for other in ("en-us+f2", "en-gb-scotland", voice):
        speak("a book of trumpets", other, 220)
        np.testing.assert_array_equal(speak("cat face", voice, 150).samples, first)


def test_another_process_at_another_time_makes_the_same_bits() -> None:
    lines = [
        "import hashlib",
        "from feature_cache.datasets.pocket.speech_synthesis import speak",
        "speak('something else', 'en')",
        "print(hashlib.sha256(speak('cat face', 'en-us+f3').samples.tobytes()).hexdigest())",
    ]
    command = [sys.executable, "-W", "error", "-c", "\n".join(lines)]
    there = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    assert there == hashlib.sha256(speak("cat face", "en-us+f3").samples.tobytes()).hexdigest()


def test_voices_differ_and_more_words_per_minute_take_less_time() -> None:
    voices = [speak("cat face", voice).samples for voice in ("en-us", "en", "en-us+f3", "en-us+m1")]
    assert len({voice.tobytes() for voice in voices}) == 4
    lengths = [speak("a truck on the road", rate_wpm=rate).samples.size for rate in (100, 175, 300)]
    assert lengths[0] > 1.2 * lengths[1] > 1.2 * 1.2 * lengths[2]


def test_resampling_keeps_what_lies_below_7_khz_and_lets_nothing_fold_back_there() -> None:
    spoken = speak("six sizzling sausages", "en", 175).samples.astype(np.float64)
    original = _synthesize(b"six sizzling sausages", "en", 175).astype(np.float64)
    blocks = original.size // 441 + 1  # of 20 ms, so that the bins of both spectra lie at the same frequencies
    before = np.abs(np.fft.rfft(original, 441 * blocks))[: 140 * blocks] / 441
    after = np.abs(np.fft.rfft(spoken, 320 * blocks))[: 140 * blocks] / 320
    assert np.linalg.norm(after - before) < 0.002 * np.linalg.norm(before)


@pytest.mark.parametrize("text", ["", "   ", "...", "\n"])
def test_a_text_without_words_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="says nothing at .* has to contain a word"):
        speak(text)


@pytest.mark.parametrize("voice", ["en-usa", "en-us+nobody", "", "+f3", "en-gb"])
def test_an_unknown_voice_is_refused_with_some_that_there_are(voice: str) -> None:
    with pytest.raises(MediaError, match=r"no voice .* It has en-us, en and en-gb-scotland"):
        speak("cat", voice)


@pytest.mark.parametrize("rate", [0, -5, 79, 451])
def test_an_impossible_rate_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match=f"between 80 and 450 words per minute, but is {rate}"):
        speak("cat", rate_wpm=rate)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MediaError, match=r"espeakng-loader, which is not installed: .*pip install espeakng-loader=="):
        speak("cat")
