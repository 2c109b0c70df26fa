"""One sweep of the tiny stream in float64, trained once and looked at by many tests."""

from pathlib import Path

import pyarrow as pa
import pytest
from ml_collections import ConfigDict

from cmcl_jax.sweeps import load_sweep, sweep

TINY = "tests/sweeps/tiny_sweep.py"


@pytest.fixture(scope="session")
def tiny_sweep(tiny_caches: Path) -> ConfigDict:
    return load_sweep(TINY, [f"cache_dir={tiny_caches}", "dtype=float64"])


@pytest.fixture(scope="session")
def swept(tiny_sweep: ConfigDict, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    folder = tmp_path_factory.mktemp("sweep")
    return folder, sweep(tiny_sweep, folder, chunk=3)
