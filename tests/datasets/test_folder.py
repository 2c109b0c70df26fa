import csv
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import extract_features
from feature_cache import FeatureCache, MediaError, encoders, open_cache
from feature_cache.datasets.base import Motion
from feature_cache.datasets.folder import Folder, of_table, open_motion
from feature_cache.datasets.pair_table import read_pairs
from feature_cache.datasets.splits import caption_key
from feature_cache.manifest import MODALITY_ORDER, SPLITS
from tests.plain_encoder import ENTRY, plain
from tests.raw_files import decode_all, moving_square, tone, truncate, write_audio, write_picture, write_video

CAPTIONS = ("a bird", "", "🐦🔥", "שלום עולם")
Table = dict[str, list[str]]


@pytest.fixture(autouse=True)
def plainbind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(encoders.REGISTRY, "plainbind", ENTRY)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder `mine` with four items in every modality, and what each holds in `contents`."""
    root = tmp_path / "mine"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        for modality in ("vision", "thermal", "tactile"):
            write_picture(root / f"{modality}{i}.png", rng.integers(0, 255, (6, 8 + i, 3), dtype=np.uint8))
        write_picture(root / f"depth{i}.png", rng.integers(1, 5000, (6, 8), dtype=np.uint16))
        for modality in ("audio", "speech"):
            write_audio(root / f"{modality}{i}.wav", tone(300 + 50 * i, 8000, 0.1 + 0.1 * i), 8000, "FLOAT")
        write_video(root / f"video{i}.mp4", moving_square(3 + i, 32, 32, seed=i))
        np.savez(root / f"imu{i}.npz", samples=rng.normal(size=(5 + i, 6)), rate=100)
    return root


def columns(n: int = 4) -> Table:
    """Every modality, and captions of all kinds."""
    endings = {"audio": "wav", "speech": "wav", "video": "mp4", "imu": "npz"}
    files = {m: [f"{m}{i}.{endings.get(m, 'png')}" for i in range(n)] for m in MODALITY_ORDER}
    return {"id": [f"item {i}" for i in range(n)], **files, "text": list(CAPTIONS[:n])}


def write_table(path: Path, table: Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [cell or None for cell in cells] for name, cells in table.items()}), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(table), *zip(*table.values(), strict=True)])
    return path


def command(pairs: Path, *more: str) -> list[str]:
    cache_dir = pairs.parent.parent / "caches"
    return ["--encoder=plainbind", "--dataset=folder", f"--pairs={pairs}", f"--cache_dir={cache_dir}", *more]


def extracted(pairs: Path, *more: str, name: str = "birds") -> FeatureCache:
    assert extract_features.main(command(pairs, "--dtype=float32", *more)) == 0
    cache = open_cache(pairs.parent.parent / "caches" / "plainbind" / name)
    cache.verify()
    return cache


def read_independently(path: Path) -> np.ndarray:
    import soundfile
    from PIL import Image

    match path.suffix:
        case ".png":
            values = np.asarray(Image.open(path))
            return values / 1000 if path.name.startswith("depth") else values
        case ".wav":
            return np.asarray(soundfile.read(path)[0])
        case ".mp4":
            return np.stack(decode_all(path))
    return np.asarray(np.load(path)["samples"])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_every_modality_of_a_table_is_embedded(media: Path, ending: str) -> None:
    table = columns() | {"split": ["train", "train", "validation", "test"], "label": ["owl", "", "crow", "owl"]}
    cache = extracted(write_table(media / f"birds.{ending}", table))
    assert tuple(cache.modalities) == MODALITY_ORDER
    assert [cache.ids(split) for split in SPLITS] == [["item 0", "item 1"], ["item 2"], ["item 3"]]
    assert [cache.captions(split) for split in SPLITS] == [list(CAPTIONS[:2]), [CAPTIONS[2]], [CAPTIONS[3]]]
    assert cache.class_names == ("crow", "owl")
    assert [cache.labels(split).tolist() for split in SPLITS] == [[1, -1], [0], [1]]
    for modality in MODALITY_ORDER:
        rows = np.concatenate([cache.features(split, modality) for split in SPLITS])
        if modality == "text":
            expected = [plain(list(caption.encode())) for caption in CAPTIONS]
        else:
            expected = [plain(read_independently(media / name)) for name in table[modality]]
        assert np.allclose(rows, expected, rtol=1e-6, atol=1e-9), modality
    assert cache.manifest.dataset == "birds"
    assert not cache.manifest.synthetic


def test_empty_and_odd_captions_are_embedded_like_others(media: Path) -> None:
    table = {name: cells for name, cells in columns().items() if name in ("id", "text", "audio")}
    cache = extracted(write_table(media / "birds.csv", table | {"split": ["train"] * 4}))
    assert cache.captions("train") == list(CAPTIONS)
    assert cache.manifest.failures_file is None
    assert cache.features("train", "text")[1].tolist() == [0, 0, 0, 1]


def test_items_open_in_another_process_which_does_not_load_torch(media: Path, tmp_path: Path) -> None:
    dataset = of_table(write_table(media / "birds.csv", columns() | {"split": ["train"] * 4}))(media)
    (tmp_path / "items").write_bytes(pickle.dumps(dataset.items("train")))
    code = (
        "import pickle, sys; items = pickle.load(open(sys.argv[1], 'rb'));"
        f"print([type(items[0].open(m)).__name__ for m in {MODALITY_ORDER}]); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "items")]
    environment = {**os.environ, "PYTHONPATH": str(Path(extract_features.__file__).parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kind in ("Image", "str", "Waveform", "DepthMap", "Motion", "VideoFile"):
        assert kind in done.stdout


def test_missing_broken_and_absent_media_are_listed_and_the_rest_is_embedded(
    media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = columns() | {"split": ["train"] * 4}
    truncate(media / "audio0.wav", 0.5)
    (media / "vision1.png").write_text("no picture")
    table["video"][2] = ""
    (media / "tactile3.png").unlink()
    table = {name: [*cells, *cells] for name, cells in table.items()}
    table["id"] = [str(i) for i in range(8)]
    table["split"][4:] = ["test"] * 4
    for name in table:
        if name not in ("id", "split"):
            table[name][4:] = [columns()[name][i] for i in (1, 2, 3, 0)]
    table["vision"][4], table["tactile"][6], table["audio"][7] = "vision0.png", "tactile0.png", "audio1.wav"
    pairs = write_table(media / "birds.csv", table)
    assert extract_features.main(command(pairs)) == 1
    assert "--max_failure_rate" in capsys.readouterr().err
    cache = extracted(pairs, "--max_failure_rate=0.5")
    assert cache.ids("train") == []
    assert cache.ids("test") == ["4", "5", "6", "7"]
    lines = [json.loads(line) for line in (cache.path / "failures.jsonl").read_text().splitlines()]
    assert [(line["id"], line["modality"]) for line in lines] == [
        ("0", "audio"), ("1", "vision"), ("2", "video"), ("3", "tactile"),
    ]  # fmt: skip
    assert lines[2]["reason"] == "ValueError: no video in row 3"
    assert "tactile3.png" in lines[3]["reason"]


def test_paths_start_at_the_table_or_at_data_root_or_are_absolute(media: Path, tmp_path: Path) -> None:
    names = [f"vision{i}.png" for i in range(4)]
    elsewhere = tmp_path / "tables"
    elsewhere.mkdir()
    for cells, folder, flags in (
        (names, media, []),
        (names, elsewhere, [f"--data_root={media}"]),
        ([f"../mine/{name}" for name in names], elsewhere, []),
        ([str(media / name) for name in names], elsewhere, []),
    ):
        pairs = write_table(folder / "birds.csv", {"vision": cells, "split": ["train"] * 4})
        cache = extracted(pairs, "--overwrite", *flags)
        assert cache.ids("train") == ["1", "2", "3", "4"]
        expected = [plain(read_independently(media / name)) for name in names]
        assert np.allclose(cache.features("train", "vision"), expected)


def test_rows_are_numbered_with_zeros_in_front_where_there_is_no_id(tmp_path: Path) -> None:
    pairs = write_table(tmp_path / "birds.csv", {"text": [f"bird {i}" for i in range(12)]})
    assert [cells["id"] for cells in read_pairs(pairs).rows][::11] == ["01", "12"]


def test_the_name_and_the_licence_can_be_chosen(media: Path) -> None:
    pairs = write_table(media / "birds.csv", {"vision": ["vision0.png"], "text": ["x"], "split": ["test"]})
    cache = extracted(pairs, "--name=owls", "--license=CC0-1.0", name="owls")
    assert (cache.manifest.dataset, cache.path.name) == ("owls", "owls")
    (source,) = cache.manifest.sources
    assert (source.name, source.license) == ("birds.csv", "CC0-1.0")


@pytest.mark.parametrize(("name", "why"), [("emoji", "already"), ("a/b", "folder"), ("..", "folder"), ("", "folder")])
def test_a_name_that_is_no_folder_or_another_datasets_is_refused(tmp_path: Path, name: str, why: str) -> None:
    pairs = write_table(tmp_path / "birds.csv", {"text": ["x"]})
    with pytest.raises(MediaError, match=f"{name!r}.*{why}.*--name|{why}.*{name!r}.*--name"):
        of_table(pairs, name)


def test_a_changed_table_is_extracted_again_and_an_unchanged_one_is_not(
    media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {"vision": ["vision0.png", "vision1.png"], "text": ["x", "y"], "split": ["train", "train"]}
    before = extracted(write_table(media / "birds.csv", table)).manifest.checksum
    capsys.readouterr()
    assert extracted(media / "birds.csv").manifest.checksum == before
    assert "up to date" in capsys.readouterr().err
    cache = extracted(write_table(media / "birds.csv", table | {"vision": ["vision2.png", "vision1.png"]}))
    assert "dataset_version was" in capsys.readouterr().err
    assert np.allclose(cache.features("train", "vision")[0], plain(read_independently(media / "vision2.png")))


def test_without_splits_rows_of_one_caption_stay_together_and_the_user_is_told(
    media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    things = ("crow", "owl", "kite", "teal", "rook", "wren", "smew", "kiwi", "ruff", "knot")
    captions = [f"{colour} {thing}" for thing in things for colour in ("red", "blue")] + ["🐦", "🐦", "", ""]
    pairs = write_table(media / "birds.csv", {"text": captions, "vision": ["vision0.png"] * len(captions)})
    dataset = of_table(pairs)(media)
    items = {split: dataset.items(split) for split in SPLITS}
    assert sum(map(len, items.values())) == len(captions)
    assert all(len(items[split]) for split in SPLITS)
    where: dict[str, set[str]] = {}
    for split in SPLITS:
        for item in items[split]:
            if item.caption:
                where.setdefault(caption_key(item.caption) or item.caption, set()).add(split)
    assert len(where) == 11
    assert all(len(splits) == 1 for splits in where.values())
    extracted(pairs)
    said = capsys.readouterr().err
    counts = ", ".join(f"{split} {len(items[split])}" for split in SPLITS)
    assert "has no column 'split', so that the rows are split by their captions" in said
    assert f"and the like alone together: {counts}. Add the column" in said


def test_classes_are_sorted_and_have_the_text_that_any_of_their_rows_gives(tmp_path: Path) -> None:
    labels, texts = ["owl", "crow", "owl", ""], ["", "", "a photo of an owl", ""]
    pairs = write_table(tmp_path / "birds.csv", {"text": list("abcd"), "label": labels, "class_text": texts})
    dataset = of_table(pairs)(tmp_path)
    assert [(label.name, label.text) for label in dataset.classes] == [("crow", "crow"), ("owl", "a photo of an owl")]
    found = {item.caption: item.label for split in SPLITS for item in dataset.items(split)}
    assert found == {"a": 1, "b": 0, "c": 1, "d": -1}


def test_without_a_text_column_the_class_text_is_the_caption(tmp_path: Path) -> None:
    pairs = write_table(tmp_path / "birds.csv", {"vision": ["a", "b"], "label": ["owl", ""], "split": ["test", "test"]})
    assert [item.caption for item in of_table(pairs)(tmp_path).items("test")] == ["owl", ""]


WRONG: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "typo": ("id,visoin,text\n1,a.png,x\n", ("no column 'visoin'", "vision")),
    "semicolons": ("id;vision;text\n1;a.png;x\n", ("';'", "commas")),
    "no modality": ("id,label\n1,x\n", ("no column of a modality", "id, label", "vision")),
    "no rows": ("id,vision\n", ("not a single row",)),
    "nothing": ("", ("no column of a modality", "nothing")),
    "column twice": ("vision,vision\na,b\n", ("'vision' is there 2 times",)),
    "ids": ("id,text\na,x\nb,y\na,z\n", ("row 3", "'a' is that of row 1")),
    "no id": ("id,text\na,x\n,y\n", ("row 2", "id is empty")),
    "split": ("text,split\nx,train\ny,tst\n", ("row 2", "'tst'", "did you mean 'test'")),
    "no split": ("text,split\nx,\n", ("row 1", "split ''", "train, validation, test")),
    "no media": ("vision,text\na.png,x\n,\n", ("row 2", "vision, text are empty")),
    "class text": ("text,label,class_text\nx,owl,an owl\ny,owl,owls\n", ("row 2", "'owls'", "'an owl'")),
    "class text alone": ("text,label,class_text\nx,,an owl\n", ("row 1", "'an owl' but no label")),
    "cells": ("text,split\na, b and c,train\n", ("row 1", "2 cells", "3", "double quotes")),
    "quotes": ('text,split\n"a" b,train\n', ("line 2",)),
    "latin-1": ("text,split\nfine,train\nMöwe,train\n".encode("latin-1"), ("UTF-8", "0xf6", "line 3", "iconv")),
}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_mistakes_in_a_table_are_named_with_row_and_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    content, expected = WRONG[case]
    pairs = tmp_path / "mine" / "birds.csv"
    pairs.parent.mkdir()
    pairs.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert extract_features.main(command(pairs)) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert str(pairs) in said
    assert all(part in said for part in expected), said
    assert not list(tmp_path.glob("caches/*/*/*"))


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"text": ["x"], "label": [3]}, "'label' should be text, but is int64"),
        ({"vision": [b"x"]}, "'vision' should be text, but is binary"),
        ({"text": [["x"]]}, "'text' should be text, but is list"),
    ],
)
def test_parquet_of_wrong_types_is_named_by_column(tmp_path: Path, table: dict[str, Any], expected: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "birds.parquet")
    with pytest.raises(MediaError, match=expected):
        read_pairs(tmp_path / "birds.parquet")


def test_parquet_takes_numbers_as_ids_and_coded_strings(tmp_path: Path) -> None:
    table = pa.table({"id": [7, 8], "text": pa.array(["x", None]).dictionary_encode(), "audio": ["a.wav", "b.wav"]})
    pq.write_table(table, tmp_path / "birds.parquet")
    assert [dict(cells) for cells in read_pairs(tmp_path / "birds.parquet").rows] == [
        {"id": "7", "text": "x", "audio": "a.wav"},
        {"id": "8", "text": "", "audio": "b.wav"},
    ]


def test_csv_of_a_spreadsheet_with_bom_blank_lines_and_line_ends_in_cells_is_read(tmp_path: Path) -> None:
    content = '\ufefftext,label\r\n"two\r\nlines, and a comma",owl\r\n\r\nx,owl\r\n'
    (tmp_path / "birds.csv").write_bytes(content.encode())
    rows = read_pairs(tmp_path / "birds.csv").rows
    assert [cells["text"] for cells in rows] == ["two\r\nlines, and a comma", "x"]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1e"])
def test_what_only_unicode_takes_for_a_line_end_is_part_of_a_caption(tmp_path: Path, separator: str) -> None:
    (tmp_path / "birds.csv").write_bytes(f"text,label\na{separator}b,owl\r\nc,owl\r\n".encode())
    assert [cells["text"] for cells in read_pairs(tmp_path / "birds.csv").rows] == [f"a{separator}b", "c"]


@pytest.mark.parametrize(("name", "why"), [("gone.csv", "cannot be read"), ("birds.xlsx", ".parquet")])
def test_a_table_that_is_not_there_or_of_another_kind_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, why: str
) -> None:
    (tmp_path / "birds.xlsx").write_bytes(b"PK")
    (tmp_path / "no.parquet").write_bytes(b"PAR1")
    assert extract_features.main(command(tmp_path / name)) == 1
    said = capsys.readouterr().err
    assert name in said
    assert why in said
    with pytest.raises(MediaError, match="no.parquet should be a Parquet file"):
        read_pairs(tmp_path / "no.parquet")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--dataset=folder"], "needs --pairs"),
        (["--dataset=emoji", "--pairs=x.csv"], "--pairs belongs to --dataset=folder"),
        (["--dataset=emoji", "--name=x"], "--name belongs to --dataset=folder"),
    ],
)
def test_flags_of_the_folder_and_the_folder_belong_together(
    capsys: pytest.CaptureFixture[str], flags: list[str], expected: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        extract_features.main(["--encoder=plainbind", *flags])
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err


def test_the_bare_class_asks_for_a_table(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="--pairs"):
        Folder(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"samples": np.ones((4, 6))}, "samples and rate"),
        ({"samples": np.ones((4, 3)), "rate": 50}, r"\[t, 6\]"),
        ({"samples": np.ones((4, 6), int), "rate": 50}, "int64"),
        ({"samples": np.ones((4, 6)), "rate": 0}, "positive"),
        ({"samples": np.ones((4, 6)), "rate": 12.5}, "whole"),
        ({"samples": np.array([None]), "rate": 50}, "allow_pickle"),
    ],
)
def test_recordings_that_are_not_as_they_should_be_fail(tmp_path: Path, arrays: dict[str, Any], expected: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=expected):
        open_motion(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_text("a table of numbers")
    with pytest.raises(ValueError, match="x.npz should be an .npz with the arrays samples and rate"):
        open_motion(tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError):
        open_motion(tmp_path / "z.npz")
    np.savez(tmp_path / "y.npz", samples=np.ones((4, 6)), rate=50.0)
    motion = open_motion(tmp_path / "y.npz")
    assert isinstance(motion, Motion)
    assert (motion.rate, motion.samples.dtype) == (50, np.float32)
