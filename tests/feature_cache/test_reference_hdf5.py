import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import extract_features
from feature_cache import FeatureCache, datasets, open_cache
from feature_cache.interchange.hdf5 import LAYOUTS, class_text
from feature_cache.lock import Share, running
from feature_cache.manifest import SPLITS
from feature_cache.registry import resolve
from feature_cache.unfinished import Unfinished
from tests.feature_cache.made_caches import assert_equal_content, write_cache
from tests.feature_cache.reference_files import COUNTS, ROWS, Files, content
from tests.raw_datasets import write_raw_datasets

CLASSIFIED = ("ucf101", "esc50", "nyudv2", "vggsound_s")


def imported(files: Files, cache_dir: Path, *more: str) -> FeatureCache:
    named = [f"--path={files.folder}", f"--encoder={files.encoder}", f"--dataset={files.dataset}"]
    assert extract_features.main(["import", "--from=hdf5", *named, f"--cache_dir={cache_dir}", *more]) == 0
    cache = open_cache(cache_dir / files.encoder / files.dataset)
    cache.verify()
    return cache


def exported(cache: FeatureCache, path: Path) -> Path:
    assert extract_features.main(["export", "--to=hdf5", f"--cache={cache.path}", f"--path={path}"]) == 0
    return path


def refused(capsys: pytest.CaptureFixture[str], files: Files, tmp_path: Path, *more: str) -> str:
    named = [f"--path={files.folder}", f"--encoder={files.encoder}", f"--dataset={files.dataset}"]
    cache_dir = tmp_path / "refused"
    assert extract_features.main(["import", "--from=hdf5", *named, f"--cache_dir={cache_dir}", *more]) == 1
    assert not list(cache_dir.glob("*/*/manifest.json"))
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("encoder", ["imagebind", "languagebind"])
@pytest.mark.parametrize("dataset", sorted(ROWS))
def test_every_row_comes_in_with_its_id_and_class(tmp_path: Path, dataset: str, encoder: str) -> None:
    files = Files(tmp_path / "h5", dataset, encoder).write()
    cache = imported(files, tmp_path, "--shard_size=3")
    assert list(cache.modalities) == list(ROWS[dataset])
    assert cache.class_names == tuple(sorted(files.classes))
    for split, count in COUNTS.items():
        items = [files.items[split][key] for key in sorted(files.items[split])]
        assert len(items) == count
        assert cache.ids(split) == [item for item, _, _ in items]
        for row, modality in enumerate(ROWS[dataset]):
            expected = np.stack([features[row] for _, _, features in items])
            assert cache.features(split, modality).dtype == np.float32
            assert np.array_equal(cache.features(split, modality), expected)
        expected_labels = [sorted(files.classes).index(name) if files.classes else -1 for _, name, _ in items]
        assert cache.labels(split).tolist() == expected_labels
    if files.classes:
        assert cache.class_features is not None
        assert np.array_equal(cache.class_features, np.stack([files.classes[name] for name in sorted(files.classes)]))
    assert cache.manifest.splits["validation"].count == 0


@pytest.mark.parametrize(
    ("dataset", "captions"),
    [
        ("ucf101", {"yo yo", "apply eye makeup", "punch"}),
        ("esc50", {"dog", "chirping_birds", "crackling_fire"}),
        ("vggsound_s", {"people cheering, laughing", "air horn", "ocean/surf"}),
        ("tvl", {"soft, smooth", "rough__edge, hard", "wet/cold"}),
        ("clotho", {""}),
        ("llvip", {""}),
    ],
)
def test_captions_are_those_that_the_keys_tell_and_no_others(tmp_path: Path, dataset: str, captions: set[str]) -> None:
    cache = imported(Files(tmp_path / "h5", dataset, "imagebind").write(), tmp_path)
    assert set(cache.captions("train")) == captions
    assert {label.text for label in cache.manifest.classes} == (captions if dataset in CLASSIFIED else set())


def test_what_the_files_do_not_tell_is_unknown_and_where_they_came_from_is_kept(tmp_path: Path) -> None:
    files = Files(tmp_path / "h5", "esc50", "imagebind").write()
    manifest = imported(files, tmp_path, "--license=CC-BY-NC-3.0").manifest
    assert manifest.weights_sha256 == manifest.preprocessing_version == manifest.dataset_version == "unknown"
    assert [source.name for source in manifest.sources] == [
        files.path(part).name for part in ("train", "test", "class")
    ]
    assert {source.license for source in manifest.sources} == {"CC-BY-NC-3.0"}


@pytest.mark.parametrize("encoder", ["imagebind", "unibind"])
@pytest.mark.parametrize("dataset", sorted(ROWS))
def test_round_trip_keeps_every_bit(tmp_path: Path, dataset: str, encoder: str) -> None:
    if (dataset, encoder) == ("tvl", "unibind"):
        pytest.skip("its captions are in the keys of ImageBind only")
    files = Files(tmp_path / "h5", dataset, encoder).write()
    once = imported(files, tmp_path / "once", "--shard_size=2")
    out = exported(once, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in files.folder.iterdir())
    for path in files.folder.iterdir():
        assert content(out / path.name) == content(path)
        assert len(content(path)) > 2
    files.folder = out
    assert_equal_content(once, imported(files, tmp_path / "twice"), "float32")


def test_numbers_of_classes_in_keys_do_not_matter(tmp_path: Path) -> None:
    files = [Files(tmp_path / str(n), "esc50", "imagebind", numbers=n).write() for n in (True, False)]
    assert content(files[0].path("train")) != content(files[1].path("train"))
    assert_equal_content(*(imported(f, tmp_path / f"caches{n}") for n, f in enumerate(files)))


def test_a_bare_id_gets_the_class_whose_text_its_own_is_up_to_rounding(tmp_path: Path) -> None:
    files = Files(tmp_path / "h5", "esc50", "languagebind")
    for items in files.items.values():
        for _, _, features in items.values():
            features *= np.float32(1 + 1e-5)
    cache = imported(files.write(), tmp_path)
    names = [cache.class_names[label] for label in cache.labels("train")]
    assert names == [files.items["train"][key][1] for key in sorted(files.items["train"])]


def test_a_text_that_is_no_classs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(tmp_path / "h5", "esc50", "languagebind")
    item, _, features = files.items["test"]["1-1022-A-0.wav"]
    features[0] *= 1.1
    said = refused(capsys, files.write(), tmp_path)
    assert "esc50_test_languagebind.h5" in said
    assert repr(item) in said


def test_items_of_another_dataset_whose_texts_are_their_own_have_no_class(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", {"text": 4, "audio": 4}, encoder="unibind", open_classes=0)
    out = exported(cache, tmp_path / "out")
    named = [f"--path={out}", "--encoder=unibind", "--dataset=birds", "--modalities=text,audio"]
    assert extract_features.main(["import", "--from=hdf5", *named, f"--cache_dir={tmp_path}"]) == 0
    back = open_cache(tmp_path / "unibind" / "birds")
    assert back.class_names == cache.class_names and set(back.labels("train")) == {-1}
    assert np.asarray(back.class_features).tobytes() == np.asarray(cache.class_features).tobytes()
    assert np.array_equal(back.features("train", "audio"), cache.features("train", "audio"))


def test_without_a_class_file_the_first_items_texts_stand_for_the_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Files(tmp_path / "h5", "esc50", "imagebind").write()
    whole = imported(files, tmp_path / "whole")
    files.path("class").unlink()
    capsys.readouterr()
    assert_equal_content(whole, imported(files, tmp_path / "without"))
    assert "esc50_class_imagebind.h5 is missing: the text of the first item" in capsys.readouterr().err
    files = Files(tmp_path / "bare", "esc50", "languagebind").write()
    files.path("class").unlink()
    assert set(imported(files, tmp_path / "bare_caches").labels("train")) == {-1}
    assert "the items get no labels" in capsys.readouterr().err


def change(files: Files, split: str, alter: Callable[[h5py.File, str], None]) -> None:
    with h5py.File(files.path(split), "a") as file:
        alter(file, sorted(files.items[split])[1])


def replaced(value: np.ndarray) -> Callable[[h5py.File, str], None]:
    def alter(file: h5py.File, key: str) -> None:
        del file[key]
        file.create_dataset(key, data=value)

    return alter


NAN = np.full((2, 8), np.nan, np.float32)
DAMAGES: dict[str, tuple[Callable[[Files], object], tuple[str, ...]]] = {
    "no test": (lambda f: f.path("test").unlink(), ("esc50_test_imagebind.h5 is missing", "esc50_train_imagebind")),
    "rows": (lambda f: change(f, "train", replaced(np.ones((3, 8), np.float32))), ("[2, 8]", "[3, 8]", "--modalities")),
    "width": (lambda f: change(f, "test", replaced(np.ones((2, 9), np.float32))), ("[2, 8]", "[2, 9]")),
    "integers": (lambda f: change(f, "train", replaced(np.ones((2, 8), int))), ("floating-point", "int64")),
    "NaN": (lambda f: change(f, "train", replaced(NAN)), ("text features of item '1-1001-A-0.wav'", "nan")),
    "twice": (
        lambda f: change(f, "train", lambda file, key: file.create_dataset(key[:-1] + "7", data=file[key][()])),
        ("'1-1001-A-0.wav' is there twice", "__7'"),
    ),
    "bare key": (
        lambda f: change(f, "train", lambda file, key: file.move(key, "1-1001-A-0.wav")),
        ("id__name__class", "'1-1001-A-0.wav'", "--encoder"),
    ),
    "class": (
        lambda f: change(f, "train", lambda file, key: file.move(key, "x__cat__0")),
        ("esc50_class_imagebind.h5", "no class 'cat'"),
    ),
    "no HDF5": (lambda f: f.path("train").write_bytes(b"\x89HDF no"), ("esc50_train_imagebind.h5 should be an HDF5",)),
}  # fmt: skip


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_files_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    files = Files(tmp_path / "h5", "esc50", "imagebind").write()
    alter, expected = DAMAGES[damage]
    alter(files)
    said = refused(capsys, files, tmp_path)
    assert all(part in said for part in expected), said


def test_another_dataset_needs_its_modalities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(tmp_path / "h5", "esc50", "imagebind")
    files.dataset = "birds"
    files.write()
    assert "--modalities" in refused(capsys, files, tmp_path)
    assert "no modality in --modalities 'sound'" in refused(capsys, files, tmp_path, "--modalities=text,sound")
    cache = imported(files, tmp_path, "--modalities=audio,text")
    assert list(cache.modalities) == ["text", "audio"]
    assert cache.class_names == tuple(sorted(files.classes))
    assert set(cache.captions("train")) == {""}


def test_a_finished_cache_is_replaced_only_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(tmp_path / "h5", "llvip", "imagebind").write()
    before = imported(files, tmp_path / "refused").path / "manifest.json"
    text = before.read_text()
    named = [f"--path={files.folder}", "--encoder=imagebind", "--dataset=llvip", f"--cache_dir={tmp_path / 'refused'}"]
    capsys.readouterr()
    assert extract_features.main(["import", "--from=hdf5", *named]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert before.read_text() == text
    imported(files, tmp_path / "refused", "--overwrite", "--dtype=float16")
    assert open_cache(before.parent).manifest.dtype == "float16"


def test_an_unfinished_extraction_is_not_lost_to_an_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = Files(tmp_path / "h5", "llvip", "imagebind").write()
    folder = imported(files, tmp_path / "refused").path
    manifest = open_cache(folder).manifest
    (folder / "manifest.json").unlink()
    Unfinished(replace(manifest, splits={}), dict.fromkeys(SPLITS, 9)).write(folder)
    before = sorted(path.name for path in folder.iterdir())
    assert "not finished" in refused(capsys, files, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == before
    imported(files, tmp_path / "refused", "--overwrite")


def test_what_the_layout_cannot_hold_is_refused_or_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = write_cache(tmp_path / "uneven")
    export = ["export", "--to=hdf5", f"--path={tmp_path / 'out'}"]
    assert extract_features.main([*export, f"--cache={cache.path}"]) == 1
    assert "vision 6, text 5, audio 4" in capsys.readouterr().err
    even = write_cache(tmp_path / "even", widths={"text": 4, "audio": 4}, dtype="float16")
    assert extract_features.main([*export, f"--cache={even.path}"]) == 0
    said = capsys.readouterr().err
    assert "captions" in said
    assert "open classes" in said
    keys = content(tmp_path / "out" / "birds_train_mine.h5")
    assert list(keys) == sorted(even.ids("train"))
    assert all(value.startswith(b"float32 (2, 4)") for value in keys.values())
    assert extract_features.main([*export, f"--cache={even.path}"]) == 1
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", sorted(ROWS))
def test_the_layout_agrees_with_the_projects_own_dataset(tmp_path: Path, dataset: str) -> None:
    media = resolve(datasets.REGISTRY, "dataset", dataset)(write_raw_datasets(tmp_path))
    layout = LAYOUTS[dataset]
    assert media.modalities == layout.modalities == ROWS[dataset]
    assert all(label.text == class_text(label.name, layout) for label in media.classes)
    assert bool(media.classes) == (dataset in CLASSIFIED)


def test_an_import_is_refused_while_another_process_makes_the_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Files(tmp_path / "h5", "llvip", "imagebind").write()
    with running(tmp_path / "refused" / "imagebind" / "llvip", Share()):
        assert "llvip" in refused(capsys, files, tmp_path)
    imported(files, tmp_path / "refused")


def test_importing_loads_neither_torch_nor_jax(tmp_path: Path, subprocess_environment: dict[str, str]) -> None:
    files = Files(tmp_path / "h5", "esc50", "imagebind").write()
    code = (
        "import sys, extract_features; code = extract_features.main(sys.argv[1:]);"
        "assert not {'torch', 'jax', 'tensorflow'} & sys.modules.keys(); sys.exit(code)"
    )
    arguments = ["import", "--from=hdf5", f"--path={files.folder}", "--encoder=imagebind", "--dataset=esc50"]
    command = [sys.executable, "-W", "error", "-c", code, *arguments, f"--cache_dir={tmp_path}"]
    done = subprocess.run(command, env=subprocess_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"train 7, validation 0, test 5 rows of text, audio; 3 classes\.", done.stderr)
