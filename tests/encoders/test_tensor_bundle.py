import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_cache.encoders.pocket.tensor_bundle import TensorBundleError, read_bundle
from tests.encoders.media import SAMPLES

TINY = SAMPLES / "bundle" / "tiny"
INDEX = TINY.with_suffix(".index").read_bytes()
EXPECTED = {
    "matrix": np.array([[0, 0.25, 0.5], [0.75, 1, 1.25]], np.float32),
    "scalar": np.array(7, np.int64),
    "layer/kernel": np.arange(12, dtype=np.float64).reshape(3, 2, 2),
    "layer/bias": np.array([-1, 2], np.int32),
    "flags": np.array([True, False, True]),
    "empty": np.zeros((0, 4), np.float32),
}
same_folder_every_time = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    shutil.copytree(TINY.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / TINY.name


def is_expected(tensors: dict[str, np.ndarray]) -> bool:
    return tensors.keys() == EXPECTED.keys() and all(
        tensors[name].dtype == value.dtype and np.array_equal(tensors[name], value) for name, value in EXPECTED.items()
    )


def test_what_tensorflow_wrote_in_two_shards_is_read_back() -> None:
    assert is_expected(read_bundle(TINY))


@given(length=st.integers(0, len(INDEX) - 1))
@same_folder_every_time
def test_a_truncated_index_is_refused(bundle: Path, length: int) -> None:
    index = bundle.with_suffix(".index")
    index.write_bytes(INDEX[:length])
    with pytest.raises(TensorBundleError, match=r"tiny\.index is not a readable index"):
        read_bundle(bundle)


@given(at=st.integers(0, len(INDEX) - 1), flip=st.integers(1, 255))
@same_folder_every_time
def test_a_changed_byte_of_the_index_is_refused_unless_it_means_nothing(bundle: Path, at: int, flip: int) -> None:
    changed = bytearray(INDEX)
    changed[at] ^= flip
    bundle.with_suffix(".index").write_bytes(changed)
    try:
        tensors = read_bundle(bundle)
    except TensorBundleError as error:
        assert "tiny.index" in str(error)
    else:
        assert is_expected(tensors)


@given(content=st.binary(max_size=400))
@same_folder_every_time
def test_any_other_file_is_refused(bundle: Path, content: bytes) -> None:
    bundle.with_suffix(".index").write_bytes(content + INDEX[-8:])
    with pytest.raises(TensorBundleError, match=r"tiny\.index is not a readable index"):
        read_bundle(bundle)


def test_truncated_data_are_named_with_the_bytes_that_a_tensor_needs(bundle: Path) -> None:
    data = bundle.with_name("tiny.data-00000-of-00002")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(TensorBundleError, match=r"tiny\.data-00000-of-00002 is cut short: it has 100 bytes, and"):
        read_bundle(bundle)


def test_a_missing_data_file_is_named(bundle: Path) -> None:
    bundle.with_name("tiny.data-00001-of-00002").unlink()
    with pytest.raises(FileNotFoundError, match=r"tiny\.data-00001-of-00002"):
        read_bundle(bundle)
