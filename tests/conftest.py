import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from tests.tiny_caches import write_tiny_caches
from tests.tiny_config import get_config

os.environ["CMCL_COMPILATION_CACHE"] = "off"  # and so for the commands that tests give
jax.config.update("jax_disable_most_optimizations", True)  # programs of tests are compiled more often than they run


@pytest.fixture(scope="session")
def tiny_caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache_dir with caches of the encoder "tiny"."""
    cache_dir = tmp_path_factory.mktemp("caches")
    write_tiny_caches(cache_dir / "tiny")
    return cache_dir


@pytest.fixture
def tiny_config(tiny_caches: Path) -> ConfigDict:
    """The tiny stream on its caches."""
    config = get_config()
    config.cache_dir = str(tiny_caches)
    return config


@pytest.fixture
def x64() -> Iterator[None]:
    """Arrays are float64 unless said otherwise."""
    with jax.enable_x64(True):
        yield
