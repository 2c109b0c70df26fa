from pathlib import Path

import pytest

from tests.datasets.tiny_media import soundfont_path, write_emoji, write_furniture, write_soundfont


@pytest.fixture(scope="session")
def tiny_media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a few items of every dataset of the pocket suite."""
    data_root = tmp_path_factory.mktemp("media")
    write_emoji(data_root)
    write_furniture(data_root)
    write_soundfont(soundfont_path(data_root))
    return data_root
