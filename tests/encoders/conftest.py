from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from feature_cache.encoders.pocket.pocketbind import PocketBind
from feature_cache.encoders.pocket.pocketbind_lite2 import PocketBindLite2
from feature_cache.encoders.pocket.pocketraw import PocketRaw
from tests.encoders.tiny_languagebind import write_tiny_languagebind


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on busy cores take many times longer than one alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pocketbind() -> PocketBind:
    return PocketBind("cpu")


@pytest.fixture(scope="session")
def pocketbind_lite2() -> PocketBindLite2:
    return PocketBindLite2("cpu")


@pytest.fixture(scope="session")
def pocketraw() -> PocketRaw:
    return PocketRaw("cpu")


@pytest.fixture(scope="session")
def languagebind_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of LanguageBind's five checkpoints, tiny ones."""
    return write_tiny_languagebind(tmp_path_factory.mktemp("languagebind"))
