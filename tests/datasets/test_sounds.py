from pathlib import Path

import numpy as np
import pytest
import soundfile

from feature_cache.datasets.pocket.sound_names import CAPTIONS
from feature_cache.datasets.pocket.sounds import SECONDS, Sounds, read_sound
from feature_cache.errors import MediaError
from feature_cache.manifest import SPLITS
from tests.datasets.tiny_media import sounds_folder, write_sounds


def test_every_sample_is_an_item_and_says_what_it_is(tiny_media: Path) -> None:
    dataset = Sounds(tiny_media)
    captions = {item.id: item.caption for split in SPLITS for item in dataset.items(split)}
    assert captions == CAPTIONS and len(captions) == 165
    assert not any("_" in caption for caption in captions.values())


def test_takes_of_one_sound_share_a_split(tiny_media: Path) -> None:
    dataset = Sounds(tiny_media)
    for prefix in ("tabla_ghe", "mehackit_robot", "glitch_perc"):
        homes = [split for split in SPLITS for item in dataset.items(split) if item.id.startswith(prefix)]
        assert len(homes) > 4 and len(set(homes)) == 1


def test_channels_are_mixed_and_the_rate_is_kept(tiny_media: Path) -> None:
    sound = read_sound(sounds_folder(tiny_media) / "misc_crow.flac")
    assert sound.rate == 8_000 and sound.samples.dtype == np.float32
    np.testing.assert_allclose(sound.samples, np.full(800, 0.25), atol=1e-4)


def test_a_long_sound_is_cut_off(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros(1_000 * (SECONDS + 3)), 1_000)
    assert len(read_sound(tmp_path / "long.flac").samples) == SECONDS * 1_000


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_folder_of_other_samples_is_an_error_that_names_one(tmp_path: Path, change: str) -> None:
    write_sounds(tmp_path)
    path = sounds_folder(tmp_path) / "misc_crow.flac"
    path.rename(path.with_stem("misc_cow")) if change == "unknown" else path.unlink()
    with pytest.raises(MediaError, match=r"known samples, but misc_crow differs.*delete .*sonic-pi-samples and run"):
        Sounds(tmp_path)
