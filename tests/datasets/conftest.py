from pathlib import Path

import pytest

from tests.datasets import tiny_media as write
from tests.raw_datasets import write_raw_datasets


@pytest.fixture(scope="session")
def tiny_media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a few items of every dataset of the pocket suite."""
    data_root = tmp_path_factory.mktemp("media")
    write.write_emoji(data_root)
    write.write_emoji_styles(data_root)
    write.write_emoji_clips(data_root)
    write.write_sounds(data_root)
    write.write_exercises(data_root)
    write.write_furniture(data_root)
    write.write_soundfont(write.soundfont_path(data_root))
    return data_root


@pytest.fixture(scope="session")
def raw_media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a few items of each of the paper's datasets; not to be changed."""
    return write_raw_datasets(tmp_path_factory.mktemp("raw media – été"))
