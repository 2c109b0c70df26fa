from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from configs.defaults import default_config
from tests.tiny_caches import STEPS, write_tiny_caches


@pytest.fixture(scope="session")
def tiny_caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache_dir with caches of the encoder "tiny"."""
    cache_dir = tmp_path_factory.mktemp("caches")
    write_tiny_caches(cache_dir / "tiny")
    return cache_dir


@pytest.fixture
def tiny_config(tiny_caches: Path) -> ConfigDict:
    """Four steps over three tiny datasets, two seeds, a second to train."""
    config = default_config()
    config.encoder, config.cache_dir = "tiny", str(tiny_caches)
    config.stream.steps = STEPS
    config.seeds = 2
    config.training.epochs = 2
    config.training.batch_size = 16
    config.training.learning_rate = 1e-2
    return config


@pytest.fixture
def x64() -> Iterator[None]:
    """Arrays are float64 unless said otherwise."""
    with jax.enable_x64(True):
        yield
