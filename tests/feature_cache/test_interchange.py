import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import extract_features
from feature_cache import FeatureCache, open_cache
from feature_cache.interchange import EXPORTS, IMPORTS
from tests.feature_cache.made_caches import CAPTIONS, assert_equal_content, write_cache

TABLES = ("npz", "parquet", "webdataset")
IDS, LABELS = [f"bird/{i}.jpg" for i in range(len(CAPTIONS))], [1, -1, 0, 1]
FEATURES = {
    "text": np.arange(12, dtype=np.float32).reshape(4, 3) / 7,
    "audio": np.arange(8, dtype=np.float32).reshape(4, 2) - 1e-8,
}
Arrays = dict[str, Any]


def run(command: str, *flags: str) -> int:
    return extract_features.main([command, *flags])


def bring(kind: str, folder: Path, cache_dir: Path, *more: str) -> FeatureCache:
    named = [f"--from={kind}", f"--path={folder}", "--encoder=mine", "--dataset=birds", f"--cache_dir={cache_dir}"]
    assert run("import", *named, *more) == 0
    cache = open_cache(cache_dir / "mine" / "birds")
    cache.verify()
    return cache


def refused(kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    named = [
        f"--from={kind}",
        f"--path={folder}",
        "--encoder=mine",
        "--dataset=birds",
        f"--cache_dir={tmp_path / 'no'}",
    ]
    assert run("import", *named, *more) == 1
    assert not list((tmp_path / "no").glob("*/*/manifest.json"))
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def write_npz(folder: Path, arrays: Arrays, split: str = "test") -> None:
    named = {"ids": arrays["id"], "captions": arrays["caption"], "labels": arrays["label"]}
    features = {name: values for name, values in arrays.items() if name not in ("id", "caption", "label")}
    np.savez(folder / f"{split}.npz", **{name: np.array(value) for name, value in named.items()}, **features)


def write_parquet(folder: Path, arrays: Arrays, split: str = "test") -> None:
    columns = {name: list(map(list, v)) if isinstance(v, np.ndarray) else v for name, v in arrays.items()}
    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    lists = {name: pa.list_(pa.float32()) for name, v in arrays.items() if isinstance(v, np.ndarray)}
    schema = pa.schema([pa.field(f.name, lists.get(f.name, f.type)) for f in table.schema])
    pq.write_table(table.cast(schema), folder / f"{split}.parquet")


def write_tars(folder: Path, arrays: Arrays, split: str = "test") -> None:
    """Two tars; the first item has its key as id."""
    for part in (0, 1):
        with tarfile.open(folder / f"{split}-{part}.tar", "w") as tar:
            for row in (0, 1) if part == 0 else (2, 3):
                fields = {name: arrays[name][row] for name in ("id", "caption", "label")}
                add(tar, f"{row}.json", json.dumps(fields).encode())
                for name in set(arrays) - {"id", "caption", "label"}:
                    data = io.BytesIO()
                    np.save(data, arrays[name][row])
                    add(tar, f"{row}.{name}.npy", data.getvalue())


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


WRITERS: dict[str, Callable[..., None]] = {"npz": write_npz, "parquet": write_parquet, "webdataset": write_tars}


@pytest.fixture
def brought(tmp_path: Path) -> Path:
    """A folder with classes, for the files of a test."""
    folder = tmp_path / "brought"
    folder.mkdir()
    names, texts = ["crow", "owl"], ["a crow", "an owl 🦉"]
    np.savez(folder / "classes.npz", names=names, texts=texts, features=np.eye(2, 3, dtype=np.float32))
    return folder


@pytest.mark.parametrize("kind", TABLES)
def test_files_written_by_other_programs_come_in(tmp_path: Path, brought: Path, kind: str) -> None:
    WRITERS[kind](brought, {"id": IDS, "caption": list(CAPTIONS), "label": LABELS, **FEATURES})
    cache = bring(kind, brought, tmp_path, "--shard_size=3")
    assert list(cache.modalities) == ["text", "audio"]
    assert cache.ids("test") == IDS
    assert cache.captions("test") == list(CAPTIONS)
    assert cache.labels("test").tolist() == LABELS
    for modality, values in FEATURES.items():
        assert np.array_equal(cache.features("test", modality), values)
    assert [(label.name, label.text) for label in cache.manifest.classes] == [("crow", "a crow"), ("owl", "an owl 🦉")]
    assert np.array_equal(np.asarray(cache.class_features), np.eye(2, 3))
    assert cache.manifest.splits["train"].count == 0
    assert len(cache.manifest.splits["test"].shards) == 2


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("kind", TABLES)
def test_round_trip_keeps_every_bit(tmp_path: Path, kind: str, classes: int) -> None:
    cache = write_cache(tmp_path / "cache", classes=classes, open_classes=classes)
    assert run("export", f"--to={kind}", f"--cache={cache.path}", f"--path={tmp_path / 'out'}") == 0
    assert not list((tmp_path / "out").glob("*.tmp"))
    assert_equal_content(cache, bring(kind, tmp_path / "out", tmp_path / "back", "--shard_size=2"), "float32")


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_float16_survives_a_round_trip(tmp_path: Path, kind: str) -> None:
    cache = write_cache(tmp_path / "cache", dtype="float16")
    assert run("export", f"--to={kind}", f"--cache={cache.path}", f"--path={tmp_path / 'out'}") == 0
    assert_equal_content(cache, bring(kind, tmp_path / "out", tmp_path / "back", "--dtype=float16"), "float16")


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": ["a", "b", "a", "c"]}, "'a' is there more than once"),
        ({"label": [0, 1, 2, 0]}, "label of item 'bird/2.jpg' should be from -1 (no class) to 1, but is 2"),
        ({"audio": np.array([[1, 2], [3, np.inf], [5, 6], [7, 8]], np.float32)}, "audio features of item 'bird/1.jpg'"),
        ({"sound": np.ones((4, 2), np.float32)}, "'sound'"),
    ],
)
def test_rows_that_no_cache_can_hold_are_refused_by_name(
    tmp_path: Path, brought: Path, capsys: pytest.CaptureFixture[str], kind: str, change: Arrays, expected: str
) -> None:
    WRITERS[kind](brought, {"id": IDS, "caption": list(CAPTIONS), "label": LABELS, **FEATURES, **change})
    assert expected in refused(kind, brought, tmp_path, capsys)


@pytest.mark.parametrize("kind", [*TABLES, "hdf5"])
def test_nothing_of_an_earlier_export_is_taken_for_a_part_of_the_next(tmp_path: Path, kind: str) -> None:
    widths = {"text": 4, "audio": 4}
    made: dict[str, Any] = {"dataset": "esc50", "open_classes": 0, "classes": 0}
    first = write_cache(tmp_path / "first", widths, {"train": 7, "validation": 3, "test": 4}, **{**made, "classes": 2})
    second = write_cache(tmp_path / "second", widths, {"train": 3, "test": 3}, **made, seed=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.tar").write_bytes(b"mine")
    for cache in (first, second):
        flags = [f"--to={kind}", f"--cache={cache.path}", f"--path={tmp_path / 'out'}", "--overwrite"]
        assert run("export", *flags) == 0
    named = ["--encoder=mine", "--dataset=esc50", f"--path={tmp_path / 'out'}", f"--cache_dir={tmp_path / 'back'}"]
    assert run("import", f"--from={kind}", *named) == 0
    back = open_cache(tmp_path / "back" / "mine" / "esc50")
    assert {split: sorted(back.ids(split)) for split in ("train", "validation", "test")} == {
        split: sorted(second.ids(split)) for split in ("train", "validation", "test")
    }
    assert back.class_names == ()
    assert (tmp_path / "out" / "notes.tar").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", TABLES)
def test_the_sources_of_an_import_are_the_files_that_were_read(tmp_path: Path, brought: Path, kind: str) -> None:
    WRITERS[kind](brought, {"id": IDS, "caption": list(CAPTIONS), "label": LABELS, **FEATURES})
    np.savez(brought / "something_else.npz", x=1)
    names = {source.name for source in bring(kind, brought, tmp_path).manifest.sources}
    assert "classes.npz" in names and all(name.startswith(("test", "classes")) for name in names)


@pytest.mark.parametrize("kind", TABLES)
def test_a_split_that_lacks_a_modality_is_refused(
    tmp_path: Path, brought: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    whole = {"id": IDS, "caption": list(CAPTIONS), "label": LABELS, **FEATURES}
    WRITERS[kind](brought, whole, "train")
    WRITERS[kind](brought, {name: value for name, value in whole.items() if name != "audio"}, "test")
    assert "audio" in refused(kind, brought, tmp_path, capsys)


@pytest.mark.parametrize("kind", TABLES)
def test_an_empty_folder_and_a_file_of_something_else_are_named(
    tmp_path: Path, brought: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    assert str(brought) in refused(kind, brought, tmp_path, capsys)
    assert f"--path={tmp_path / 'nowhere'}" in refused(kind, tmp_path / "nowhere", tmp_path, capsys)
    ending = "tar" if kind == "webdataset" else kind
    (brought / f"test.{ending}").write_bytes(b"no")
    assert f"test.{ending} should be" in refused(kind, brought, tmp_path, capsys)


class Bomb:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", ["npz", "webdataset"])
def test_nothing_is_unpickled(tmp_path: Path, brought: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    trace = tmp_path / "trace"
    evil = np.array([Bomb(trace)], object)
    if kind == "npz":
        np.savez(brought / "test.npz", ids=evil, text=np.ones((1, 2)))
    else:
        data = io.BytesIO()
        np.save(data, evil, allow_pickle=True)
        with tarfile.open(brought / "test.tar", "w") as tar:
            add(tar, "a.text.npy", data.getvalue())
    assert "cannot be read" in refused(kind, brought, tmp_path, capsys)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace))).close()
    assert trace.exists()


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"id": pa.array(["a"]), "text": pa.array([[1, 2]])}, "'text' should be lists of floats, but is list"),
        ({"id": pa.array([1]), "text": pa.array([[1.0]])}, "'id' should be text, but is int64"),
        ({"id": pa.array([None], pa.string()), "text": pa.array([[1.0]])}, "'id' should have a value in every row"),
        ({"id": pa.array(["a", "b"]), "text": pa.array([[1.0], [1.0, 2.0]])}, "'text' of b should be a list of 1"),
        ({"id": pa.array(["a"]), "text": pa.array([[1.0, None]])}, "one of the numbers is null"),
        ({"id": pa.array(["a"]), "text": pa.array([None], pa.list_(pa.float32()))}, "but is null"),
        ({"text": pa.array([[1.0]])}, "should have the column 'id'"),
    ],
)
def test_parquet_of_wrong_types_is_refused_by_column(
    tmp_path: Path, brought: Path, capsys: pytest.CaptureFixture[str], columns: Arrays, expected: str
) -> None:
    pq.write_table(pa.table(columns), brought / "train.parquet")
    assert expected in refused("parquet", brought, tmp_path, capsys)


@pytest.mark.parametrize(
    ("member", "data", "expected"),
    [
        ("a.text.jpg", b"", "'a.text.jpg'"),
        ("a.json", b"[1]", "should be a JSON object"),
        ("a.json", b"{", "should be JSON"),
        ("a.json", b'{"label": "owl"}', "'label' in a.json should be a int, but is 'owl'"),
        ("a.json", b'{"lable": 1}', "no field in"),
    ],
)
def test_tar_with_strange_members_is_refused_by_name(
    tmp_path: Path, brought: Path, capsys: pytest.CaptureFixture[str], member: str, data: bytes, expected: str
) -> None:
    with tarfile.open(brought / "train.tar", "w") as tar:
        add(tar, member, data)
    assert expected in refused("webdataset", brought, tmp_path, capsys)


@pytest.mark.parametrize("classes", [0, 3])
def test_tfds_reads_back_every_row_in_order(tmp_path: Path, classes: int) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    counts = {"train": 25, "test": 4}
    cache = write_cache(tmp_path / "cache", counts=counts, classes=classes, open_classes=0, dtype="float16")
    flags = [f"--cache={cache.path}", f"--path={tmp_path / 'tfds'}"]
    assert run("export", "--to=tfds", *flags) == 0
    for split, count in counts.items():
        source = tfds.data_source("birds_mine", data_dir=str(tmp_path / "tfds"), split=split)
        rows = [source[i] for i in range(len(source))]
        assert len(rows) == count
        assert [row["id"].decode() for row in rows] == cache.ids(split)
        assert [row["caption"].decode() for row in rows] == cache.captions(split)
        assert [int(row["label"]) for row in rows] == cache.labels(split).tolist()
        for modality in cache.modalities:
            expected = np.asarray(cache.features(split, modality), np.float32)
            assert np.array_equal(np.stack([row[modality] for row in rows]), expected)
    folder = tmp_path / "tfds" / "birds_mine"
    assert [path.name for path in folder.iterdir()] == ["1.0.0"]
    info = tfds.builder_from_directory(str(folder / "1.0.0")).info
    assert "CC0-1.0" in info.description
    assert not classes or info.features["label"].names == list(cache.class_names)
    assert (folder / "1.0.0" / "classes.npz").exists() == bool(classes)


def test_tfds_export_can_be_made_again(tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    for seed in (1, 2):
        cache = write_cache(tmp_path / "cache", seed=seed)
        assert run("export", "--to=tfds", f"--cache={cache.path}", f"--path={tmp_path / 'out'}", "--overwrite") == 0
        source = tfds.data_source("birds_mine", data_dir=str(tmp_path / "out"), split="test")
        assert np.array_equal(source[2]["text"], cache.features("test", "text")[2])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["import", "--from=hdf", "--path=x", "--encoder=a", "--dataset=b"], "no format 'hdf'; did you mean hdf5"),
        (["import", "--from=npz", "--path=x", "--encoder=a/b", "--dataset=b"], "'a/b'"),
        (["import", "--from=npz", "--path=x", "--encoder=a", "--dataset=b", "--shardsize=2"], "--shard_size"),
        (["export", "--to=tfds", "--path=x"], "--cache"),
        (["exprt"], "no command 'exprt'; did you mean export"),
    ],
)
def test_commands_that_make_no_sense_are_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    try:
        code: object = extract_features.main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert expected in capsys.readouterr().err


def test_help_shows_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    for command, formats in {"import": IMPORTS, "export": EXPORTS}.items():
        with pytest.raises(SystemExit) as stopped:
            run(command, "--help")
        assert stopped.value.code == 0
        said = capsys.readouterr().out
        assert all(name in said for name in formats)
        assert f"python extract_features.py {command}" in said
