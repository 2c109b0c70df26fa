"""Rows that are read when asked for, against the same rows in one array."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_cache import open_cache
from feature_cache.errors import DamagedCacheError, UnknownNameError
from tests.stored_rows import write_rows

ARRAYS = {name: np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32) for name in ("a", "b")}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ends=st.lists(st.integers(0, 20), max_size=6),
    numbers=st.lists(st.integers(0, 19), max_size=30),
    cut=st.slices(20),
)
def test_indexing_is_that_of_one_array(
    tmp_path_factory: pytest.TempPathFactory, ends: list[int], numbers: list[int], cut: slice
) -> None:
    counts = np.diff([0, *sorted(ends), 20]).tolist()
    rows = write_rows(tmp_path_factory.mktemp("rows"), ARRAYS, counts)["b"]
    assert (rows.shape, len(rows), rows.dtype, rows.nbytes) == ((20, 3), 20, np.float32, 240)
    for index in (cut, np.array(numbers, int), np.array([numbers, numbers], int), numbers):
        expected = ARRAYS["b"][index] if isinstance(index, slice) else ARRAYS["b"][np.array(index, int)]
        np.testing.assert_array_equal(rows[index], expected)


def test_nothing_stays_mapped(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, ARRAYS, [8, 12])["a"]
    kept = rows.map_shard(1)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the system does not list what is mapped")
    assert str(tmp_path / "1.safetensors") in maps.read_text()
    del kept
    read = rows[:], rows[np.arange(20)]
    assert str(tmp_path) not in maps.read_text()
    np.testing.assert_array_equal(*read)


@pytest.mark.parametrize("index", [[-1], [20], [0.5], np.array([True] * 20)])
def test_rows_that_are_not_there_are_refused(tmp_path: Path, index: list[int]) -> None:
    rows = write_rows(tmp_path, ARRAYS, [20])["a"]
    with pytest.raises(IndexError, match="rows must be"):
        rows[index]


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, ARRAYS, [8, 12])["a"]
    np.testing.assert_array_equal(rows[:], ARRAYS["a"])
    (tmp_path / "1.safetensors").unlink()
    np.testing.assert_array_equal(rows[:8], ARRAYS["a"][:8])
    with pytest.raises(DamagedCacheError, match=r"1\.safetensors"):
        rows[[3, 9]]


def test_a_cache_gives_its_features_as_rows(tiny_caches: Path) -> None:
    cache = open_cache(tiny_caches / "tiny" / "rooms")
    for split in ("train", "test"):
        np.testing.assert_array_equal(cache.rows(split, "depth")[:], cache.features(split, "depth"))
    with pytest.raises(UnknownNameError, match="modality"):
        cache.rows("train", "smell")
