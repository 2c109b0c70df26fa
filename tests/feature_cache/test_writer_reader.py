import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from feature_cache import (
    CacheError,
    CacheWriter,
    ClassLabel,
    Manifest,
    MediaSource,
    ModalitySpec,
    Rows,
    UnknownNameError,
    open_cache,
)
from feature_cache.atomic import write_atomically
from feature_cache.shard_record import Failure
from feature_cache.shards import SCHEMA, read_table, table_bytes

MANIFEST = Manifest(
    encoder="mine",
    weights_sha256="cd" * 32,
    preprocessing_version="1",
    dataset="birds",
    dataset_version="1",
    dtype="float16",
    synthetic=True,
    sources=(MediaSource("birds", "1", "CC0-1.0", "https://example.org"),),
    modalities={"vision": ModalitySpec(5, 2.0), "text": ModalitySpec(3)},
    classes=(ClassLabel("wren", "a wren"), ClassLabel("owl", "an owl")),
    open_classes=(ClassLabel("small", "a small bird"),),
)


def rows(start: int, count: int) -> Rows:
    numbers = range(start, start + count)
    return Rows(
        [f"bird{i}" for i in numbers],
        [f"ein Vögelchen {i // 2}" for i in numbers],
        [i % 3 - 1 for i in numbers],
        [i % 2 - 1 for i in numbers],
    )


def features(start: int, count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(start)
    return {m: rng.normal(size=(count, spec.dim)).astype(np.float32) for m, spec in MANIFEST.modalities.items()}


def write(folder: Path, counts: dict[str, list[int]], manifest: Manifest = MANIFEST) -> None:
    writer = CacheWriter(folder, manifest)
    for split, sizes in counts.items():
        for index, size in enumerate(sizes):
            start = sum(sizes[:index])
            writer.write_shard(split, index, rows(start, size), features(start, size))
    texts = {"classes": np.arange(6.0).reshape(2, 3), "open_classes": np.full((1, 3), 7.0)}
    if manifest.label_sets:
        writer.write_classes(**{name: texts[name] for name in manifest.label_sets})
    writer.finish()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "caches" / "mine" / "birds"


def test_rows_come_back_as_they_were_written(folder: Path) -> None:
    write(folder, {"train": [6], "test": [4, 4, 1]})
    cache = open_cache(folder)
    assert cache.ids("test") == [f"bird{i}" for i in range(9)]
    assert cache.captions("test") == [f"ein Vögelchen {i // 2}" for i in range(9)]
    assert cache.labels("test").tolist() == [i % 3 - 1 for i in range(9)]
    assert cache.labels("test").dtype == np.int32
    for modality in ("vision", "text"):
        expected = np.concatenate([features(start, n)[modality] for start, n in ((0, 4), (4, 4), (8, 1))])
        assert cache.features("test", modality).dtype == np.float16
        np.testing.assert_array_equal(cache.features("test", modality), expected.astype(np.float16))
        np.testing.assert_array_equal(cache.features("train", modality), features(0, 6)[modality].astype(np.float16))
    np.testing.assert_array_equal(cache.class_features, np.arange(6.0).reshape(2, 3))
    assert cache.class_names == ("wren", "owl")
    assert cache.open_labels("test").tolist() == [i % 2 - 1 for i in range(9)]
    assert cache.open_labels("test").dtype == np.int32
    np.testing.assert_array_equal(cache.open_class_features, np.full((1, 3), 7.0))
    assert cache.open_class_names == ("small",)
    assert cache.modalities == MANIFEST.modalities
    cache.verify()


def test_split_without_rows_is_empty_but_has_its_width(folder: Path) -> None:
    write(folder, {"train": [2]})
    cache = open_cache(folder)
    assert cache.features("validation", "vision").shape == (0, 5)
    assert cache.features("validation", "vision").dtype == np.float16
    assert cache.ids("validation") == cache.captions("validation") == []
    assert cache.labels("validation").shape == (0,)


def test_shard_of_no_rows_is_stored(folder: Path) -> None:
    write(folder, {"train": [2, 0, 1], "test": [0]})
    cache = open_cache(folder)
    assert cache.features("train", "text").shape == (3, 3)
    assert cache.features("test", "text").shape == (0, 3)


def test_cache_without_classes_has_no_class_features(folder: Path) -> None:
    write(folder, {"train": [1]}, dataclasses.replace(MANIFEST, classes=(), open_classes=()))
    cache = open_cache(folder)
    assert cache.class_features is cache.open_class_features is None
    assert cache.class_names == cache.open_class_names == ()
    assert not (folder / "classes.safetensors").exists()


def test_rows_need_no_open_labels() -> None:
    assert Rows("ab", "xy", [0, 1]) == Rows("ab", "xy", [0, 1], [-1, -1])


def test_class_texts_of_another_kind_than_the_manifest_has_are_refused(folder: Path) -> None:
    with pytest.raises(CacheError, match="texts of classes, open_classes, but there are of classes"):
        CacheWriter(folder, MANIFEST).write_classes(np.ones((2, 3)))


def test_float32_is_kept_to_the_bit(folder: Path) -> None:
    write(folder, {"train": [4]}, dataclasses.replace(MANIFEST, dtype="float32"))
    np.testing.assert_array_equal(open_cache(folder).features("train", "vision"), features(0, 4)["vision"], strict=True)


def test_single_shard_is_memory_mapped_and_read_only(folder: Path) -> None:
    write(folder, {"train": [4]})
    array = open_cache(folder).features("train", "vision")
    assert isinstance(array, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


def test_files_are_readable_by_the_libraries_alone(folder: Path) -> None:
    write(folder, {"train": [4]})
    arrays = safetensors.numpy.load_file(folder / "train-00000.safetensors")
    np.testing.assert_array_equal(arrays["text"], features(0, 4)["text"].astype(np.float16))
    table = pq.read_table(folder / "train-00000.parquet")
    assert table.schema.names == ["id", "label", "open_label", "caption"]
    assert table.schema.equals(SCHEMA)
    assert table["id"].to_pylist() == ["bird0", "bird1", "bird2", "bird3"]


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8")),
            st.text(st.characters(codec="utf-8")),
            st.integers(-1, 99),
            st.integers(-1, 9),
        )
    )
)
def test_any_text_survives_the_table(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str, int, int]]
) -> None:
    columns = Rows(*([row[i] for row in table] for i in range(4)))
    path = tmp_path_factory.mktemp("table") / "t.parquet"
    path.write_bytes(table_bytes(columns, {"failures": ["ü"]}))
    assert read_table(path) == (columns, {"failures": ["ü"]})


@pytest.mark.parametrize(
    ("modality", "value", "found"),
    [("vision", np.nan, "nan"), ("text", -np.inf, "-inf"), ("vision", 1e5, "100000")],
)
def test_number_that_cannot_be_stored_is_refused_with_item_and_modality(
    folder: Path, modality: str, value: float, found: str
) -> None:
    bad = features(0, 4)
    bad[modality][2, 1] = value
    with pytest.raises(CacheError, match=f"train-00000: the {modality} features of item 'bird2' .* float16 .*{found}"):
        CacheWriter(folder, MANIFEST).write_shard("train", 0, rows(0, 4), bad)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("shape", [(4, 6), (3, 5), (4,), (4, 5, 1), ()])
def test_wrong_shape_is_refused_with_item_and_modality(folder: Path, shape: tuple[int, ...]) -> None:
    bad = {**features(0, 4), "vision": np.zeros(shape)}
    found = re.escape(f"[{', '.join(map(str, shape))}]")
    message = rf"vision features of 4 items \(the first is 'bird0'\) should be an array \[4, 5\], but are {found}"
    with pytest.raises(CacheError, match=message):
        CacheWriter(folder, MANIFEST).write_shard("train", 0, rows(0, 4), bad)


def test_missing_and_surplus_modalities_are_refused(folder: Path) -> None:
    writer = CacheWriter(folder, MANIFEST)
    only_text = {"text": features(0, 4)["text"]}
    with pytest.raises(CacheError, match="modalities vision, text, but there are of text"):
        writer.write_shard("train", 0, rows(0, 4), only_text)
    with pytest.raises(CacheError, match="but there are of vision, text, audio"):
        writer.write_shard("train", 0, rows(0, 4), {**features(0, 4), "audio": np.zeros((4, 2))})


@pytest.mark.parametrize("label", [-2, 2])
def test_label_without_class_is_refused_with_the_item(folder: Path, label: int) -> None:
    with pytest.raises(CacheError, match=rf"label of item 'b' should be from -1 \(no class\) to 1, but is {label}"):
        CacheWriter(folder, MANIFEST).write_shard("train", 0, Rows("ab", "xy", [0, label]), features(0, 2))


def test_repeated_id_is_refused(folder: Path) -> None:
    with pytest.raises(CacheError, match="'a' is there more than once"):
        CacheWriter(folder, MANIFEST).write_shard("train", 0, Rows("aba", "xyz", [0, 0, 0]), features(0, 3))


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 ids, 1 captions, 0 labels and 2 open labels"):
        Rows("ab", "x", [])


def test_skipped_shard_and_missing_class_texts_keep_a_cache_unfinished(folder: Path) -> None:
    writer = CacheWriter(folder, MANIFEST)
    writer.write_shard("train", 1, rows(0, 4), features(0, 4))
    with pytest.raises(CacheError, match="train-00000 has not been written"):
        writer.finish()
    writer.write_shard("train", 0, rows(4, 4), features(4, 4))
    with pytest.raises(CacheError, match="write_classes was not called"):
        writer.finish()
    with pytest.raises(CacheError, match="unfinished"):
        open_cache(folder)


def test_class_texts_of_the_wrong_number_are_refused(folder: Path) -> None:
    with pytest.raises(CacheError, match=r"array \[2, 3\], but are \[3, 3\]"):
        CacheWriter(folder, MANIFEST).write_classes(np.zeros((3, 3)), np.zeros((1, 3)))


def test_opening_for_writing_removes_temporary_files_alone(folder: Path) -> None:
    write(folder, {"train": [4]})
    before = {path: path.read_bytes() for path in folder.iterdir()}
    (folder / "train-00001.parquet.tmp").write_bytes(b"half")
    (folder / "folder.tmp").mkdir()
    CacheWriter(folder, MANIFEST)
    (folder / "folder.tmp").rmdir()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda writer: writer.write_shard("train", 0, rows(0, 4), features(0, 4)),
        lambda writer: writer.write_classes(np.ones((2, 3)), np.ones((1, 3))),
        lambda writer: writer.list_failures(),
    ],
)
def test_first_change_makes_a_cache_unfinished(folder: Path, change: Callable[[CacheWriter], None]) -> None:
    write(folder, {"train": [4]})
    change(CacheWriter(folder, MANIFEST))
    with pytest.raises(CacheError, match="unfinished"):
        open_cache(folder)


def test_failed_write_leaves_neither_file_nor_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", b"data")
    assert not list(tmp_path.iterdir())


def test_writers_of_one_file_do_not_share_a_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, names = os.replace, set[Path]()

    def record(source: Path, target: Path) -> None:
        names.add(source)
        replace(source, target)

    monkeypatch.setattr("os.replace", record)
    for data in (b"one", b"two"):
        write_atomically(tmp_path / "file", data)
    assert len(names) == 2
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"two"]


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": "other"},
        {"weights_sha256": "00" * 32},
        {"preprocessing_version": "2"},
        {"dataset": "other"},
        {"dataset_version": "2"},
        {"dtype": "float32"},
        {"modalities": {"vision": ModalitySpec(5, 3.0), "text": ModalitySpec(3)}},
    ],
)
def test_shard_of_anything_else_is_not_reused(folder: Path, change: dict[str, object]) -> None:
    write(folder, {"train": [4]})
    assert CacheWriter(folder, MANIFEST).reuse_shard("train", 0, rows(0, 4))
    assert not CacheWriter(folder, dataclasses.replace(MANIFEST, **change)).reuse_shard("train", 0, rows(0, 4))


@pytest.mark.parametrize(
    "other",
    [
        rows(1, 4),
        rows(0, 3),
        rows(0, 5),
        Rows(rows(0, 4).ids, "abcd", rows(0, 4).labels),
        Rows(rows(0, 4).ids, rows(0, 4).captions, [0, 0, 0, 0]),
    ],
)
def test_shard_of_other_rows_is_not_reused(folder: Path, other: Rows) -> None:
    write(folder, {"train": [4]})
    assert not CacheWriter(folder, MANIFEST).reuse_shard("train", 0, other)


@pytest.mark.parametrize("name", ["train-00000.safetensors", "train-00000.parquet"])
def test_shard_with_a_changed_byte_is_not_reused(folder: Path, name: str) -> None:
    write(folder, {"train": [4]})
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    assert not CacheWriter(folder, MANIFEST).reuse_shard("train", 0, rows(0, 4))


@pytest.mark.parametrize(
    "failures",
    [3, None, "none", [4], [{}], [{"split": "train", "id": "x", "modality": "text", "reason": "", "new": 1}]],
)
def test_shard_whose_table_has_other_failures_than_ours_is_not_reused(folder: Path, failures: object) -> None:
    write(folder, {"train": [4]})
    path = folder / "train-00000.parquet"
    found, metadata = read_table(path)
    path.write_bytes(table_bytes(found, {**metadata, "failures": failures}))
    assert not CacheWriter(folder, MANIFEST).reuse_shard("train", 0, rows(0, 4))


@pytest.mark.parametrize("label", [None, "1", 1.5])
def test_table_of_other_columns_is_refused_and_not_reused(folder: Path, label: object) -> None:
    write(folder, {"train": [1]})
    path = folder / "train-00000.parquet"
    metadata = pq.read_schema(path).metadata
    foreign = pa.table({"id": ["bird0"], "label": [label], "caption": ["x"]}).replace_schema_metadata(metadata)
    pq.write_table(foreign, path)
    with pytest.raises(CacheError, match=r"its columns should be id \(string\), label \(int32\)"):
        read_table(path)
    assert not CacheWriter(folder, MANIFEST).reuse_shard("train", 0, rows(0, 1))


def test_reused_shard_brings_its_failures_along(folder: Path) -> None:
    failure = Failure("train", "bird4", "vision", "broken")
    CacheWriter(folder, MANIFEST).write_shard("train", 0, rows(0, 4), features(0, 4), [failure])
    writer = CacheWriter(folder, MANIFEST)
    assert not writer.reuse_shard("train", 0, rows(0, 4))
    assert writer.reuse_shard("train", 0, rows(0, 5))
    assert writer.failures == [failure]


def test_unknown_split_and_modality_are_named_with_the_nearest(folder: Path) -> None:
    write(folder, {"train": [1]})
    cache = open_cache(str(folder))
    with pytest.raises(UnknownNameError, match="'valid'; did you mean validation"):
        cache.labels("valid")
    with pytest.raises(UnknownNameError, match="'visoin'; did you mean vision"):
        cache.features("train", "visoin")


def test_reading_imports_neither_torch_nor_jax(folder: Path, subprocess_environment: dict[str, str]) -> None:
    write(folder, {"train": [3]})
    code = (
        "import sys, feature_cache; cache = feature_cache.open_cache(sys.argv[1]); cache.verify();"
        "cache.features('train', 'vision').sum(); cache.labels('train'); cache.class_features.sum();"
        "print(sorted({'torch', 'jax', 'jaxlib', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder], env=subprocess_environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
