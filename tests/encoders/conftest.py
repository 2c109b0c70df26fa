from collections.abc import Iterator

import pytest
import torch

from feature_cache.encoders.pocketbind import PocketBind
from feature_cache.encoders.pocketbind_lite2 import PocketBindLite2
from feature_cache.encoders.pocketraw import PocketRaw


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
