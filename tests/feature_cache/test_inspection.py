import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import extract_features
from cmcl_jax import projector
from feature_cache import FeatureCache, open_cache
from feature_cache.errors import extract_command
from feature_cache.inspection import effective_rank, find_caches, inspect
from tests.feature_cache.made_caches import WIDTHS, write_cache


def run(*flags: str) -> int:
    return extract_features.main(["inspect", *flags])


def rows(cache: FeatureCache, modality: str) -> np.ndarray:
    parts = [cache.features(split, modality) for split in ("train", "validation", "test")]
    return np.concatenate(parts).astype(np.float64)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_numbers_are_those_of_an_independent_computation(tmp_path: Path, dtype: str) -> None:
    cache = write_cache(tmp_path, dtype=dtype, counts={"train": 40, "validation": 5, "test": 9}, shard_size=7)
    found = inspect(tmp_path)
    assert found.whole
    assert list(found.modalities) == list(WIDTHS)
    for modality, facts in found.modalities.items():
        values, training = rows(cache, modality), cache.features("train", modality).astype(np.float64)
        norms = np.sqrt(np.einsum("nd,nd->n", values, values))
        measured = [facts.mean_norm, facts.min_norm, facts.max_norm]
        assert measured == pytest.approx([norms.mean(), norms.min(), norms.max()], rel=1e-12)
        # The second moment's eigenvalues are the squared singular values of the features, over their number.
        spectrum = np.linalg.svd(training, compute_uv=False) ** 2 / len(training)
        shares = spectrum / spectrum.sum()
        assert facts.effective_rank == pytest.approx(np.prod(shares**-shares), rel=1e-9)
        assert (facts.dim, facts.scale, facts.repeated) == (WIDTHS[modality], 2.0, 0.0)


def test_directions_are_those_that_dns_keeps(tmp_path: Path, x64: None) -> None:
    scales = np.array([1.0, 0.5, 0.1, 0.04, 0.02, 0.001])  # squared: 1, .25, .01, 1.6e-3 | 4e-4, 1e-6 of the largest
    write_cache(tmp_path, counts={"train": 0, "test": 3})
    cache = write_cache(tmp_path / "steep", widths={"vision": 6, "text": 6}, counts={"train": 6, "test": 1})
    features = np.diag(scales).astype(np.float32)
    rewritten(cache, features)
    facts = inspect(tmp_path / "steep").modalities["vision"]
    moment = features.astype(np.float64).T @ features / 6
    assert facts.directions == 4
    assert facts.directions == round(float(np.trace(projector(moment, threshold=1e-3, rule="relative"))))
    assert inspect(tmp_path).modalities["vision"].directions is None


def rewritten(cache: FeatureCache, features: np.ndarray) -> None:
    """The same cache, with these features of the training split, in two shards."""
    from feature_cache import CacheWriter, Rows

    writer = CacheWriter(cache.path, cache.manifest)
    for index, part in enumerate((slice(0, 4), slice(4, None))):
        ids = cache.ids("train")[part]
        both = {modality: features[part] for modality in cache.modalities}
        writer.write_shard("train", index, Rows(ids, ids, [-1] * len(ids)), both)
    texts = {"classes": cache.class_features, "open_classes": cache.open_class_features}
    writer.write_classes(**{name: np.array(values) for name, values in texts.items() if values is not None})
    writer.finish()


def test_repeated_rows_count_over_shards_and_splits(tmp_path: Path) -> None:
    cache = write_cache(tmp_path, widths={"vision": 3, "text": 3}, counts={"train": 8, "test": 2})
    features = np.repeat(np.eye(3, dtype=np.float32), [4, 3, 1], axis=0)
    rewritten(cache, features)
    assert inspect(tmp_path).modalities["vision"].repeated == pytest.approx(5 / 8)


def test_effective_rank_of_what_is_known() -> None:
    assert effective_rank(np.ones(7)) == pytest.approx(7)
    assert effective_rank(np.array([5.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_rank(np.zeros(3)) == 0
    assert effective_rank(np.array([0.75, 0.25])) == pytest.approx(4 / 3**0.75)


def test_a_whole_cache_is_shown_with_its_licences_counts_and_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "caches" / "mine" / "birds"
    write_cache(folder, failures=2)
    assert run(f"--cache={folder}") == 0
    said = capsys.readouterr().out
    facts = inspect(folder).modalities["text"]
    assert f"{folder} whole" in said
    for part in (
        "mine, preprocessing 1", "ab" * 32, "birds, version 1", "float32, as the encoder scales them", "made up",
        "random numbers 1 · CC0-1.0 · https://numpy.org", "train 7 (+ 2 failed), validation 3, test 4",
        "3, their texts in classes.safetensors", "every file has the checksum",
    ):  # fmt: skip
        assert part in said
    assert facts.mean_norm is not None
    assert facts.effective_rank is not None
    line = next(line.split() for line in said.splitlines() if line.startswith("  text"))
    expected = [f"{facts.mean_norm:.3f}", f"{facts.min_norm:.3f}", f"{facts.max_norm:.3f}"]
    assert line == ["text", "5", "2.000", *expected, f"{facts.effective_rank:.1f}", str(facts.directions), "0.0%"]
    assert all(len(line) <= 80 for line in said.splitlines() if "%" in line)


def test_json_says_the_same_of_all_caches_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cache(tmp_path / "mine" / "birds")
    write_cache(tmp_path / "other" / "wings", dtype="float16", encoder="other", failures=1)
    assert run(f"--cache={tmp_path}", "--json") == 0
    birds, wings = json.loads(capsys.readouterr().out)
    assert birds["path"] == str(tmp_path / "mine" / "birds")
    assert birds == json.loads(json.dumps(inspect(tmp_path / "mine" / "birds").to_json()))
    assert wings["manifest"]["dtype"] == "float16"
    assert wings["manifest"]["checksum"] == open_cache(tmp_path / "other" / "wings").manifest.checksum
    assert wings["failed"] == {"train": 1, "validation": 0, "test": 0}
    assert wings["rows"] == {"train": 7, "validation": 3, "test": 4}
    assert wings["modalities"]["audio"]["dim"] == WIDTHS["audio"]


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, shorten, Path.unlink])
@pytest.mark.parametrize("name", ["train-00001.safetensors", "test-00000.parquet", "classes.safetensors"])
def test_every_damaged_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    write_cache(tmp_path)
    damage(tmp_path / name)
    damage(tmp_path / "validation-00000.parquet")
    assert run(f"--cache={tmp_path}") == 1
    said = capsys.readouterr().out
    assert f"{tmp_path} damaged" in said
    assert f"  {name} " in said
    assert "  validation-00000.parquet " in said
    assert f"To put it right, delete these files and run `{extract_command(tmp_path)}`" in said
    assert "every file has" not in said
    assert "train 7, validation 3, test 4" in said
    assert run(f"--cache={tmp_path}", "--json") == 1
    problems = json.loads(capsys.readouterr().out)[0]["problems"]
    assert sorted(problem.split()[0] for problem in problems) == sorted([name, "validation-00000.parquet"])


def test_damaged_manifest_leaves_the_shards_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cache(tmp_path)
    shorten(tmp_path / "manifest.json")
    assert run(f"--cache={tmp_path}") == 1
    said = capsys.readouterr().out
    assert "damaged" in said
    assert "manifest.json: it should be JSON" in said
    assert "train 7, validation 3, test 4" in said


def test_unfinished_cache_says_what_is_there_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine" / "birds"
    write_cache(folder, failures=1)
    for name in ("manifest.json", "train-00001.safetensors", "train-00001.parquet", "test-00001.parquet"):
        (folder / name).unlink()
    assert run(f"--cache={folder}") == 1
    said = capsys.readouterr().out
    assert f"{folder} unfinished" in said
    assert "manifest.json is missing" in said
    assert f"import --from=FORMAT --path=FILES --encoder=mine --dataset=birds --cache_dir={tmp_path}`" in said
    assert "the shard train-00001 is missing, while later ones are there" in said
    assert "the shard test-00001 has only one of its two files" in said
    assert "train 4 (+ 1 failed), validation 3, test 3" in said


def test_a_folder_without_a_cache_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert run(f"--cache={tmp_path / 'empty'}") == 1
    assert f"{tmp_path / 'empty'} absent" in capsys.readouterr().out
    assert run(f"--cache={tmp_path / 'nowhere'}") == 1
    assert "the folder does not exist" in capsys.readouterr().out


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    write_cache(tmp_path)
    command = [sys.executable, extract_features.__file__, "inspect", f"--cache={tmp_path}", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_what_was_exported_is_not_taken_for_a_cache(tmp_path: Path) -> None:
    write_cache(tmp_path / "mine" / "birds")
    (tmp_path / "webdataset").mkdir()
    (tmp_path / "webdataset" / "train-00000.tar").touch()
    assert find_caches(tmp_path) == [tmp_path / "mine" / "birds"]


def test_one_bad_cache_among_good_ones_is_enough_for_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("birds", "wings"):
        write_cache(tmp_path / "mine" / name)
    folders = [str(tmp_path / "mine" / name) for name in ("birds", "wings")]
    assert run("--cache", *folders) == 0
    assert "2 of 2 caches are whole" in capsys.readouterr().out
    (tmp_path / "mine" / "wings" / "manifest.json").unlink()
    assert find_caches(tmp_path) == [Path(folder) for folder in folders]
    assert run(f"--cache={tmp_path}") == 1
    assert "1 of 2 caches are whole" in capsys.readouterr().out


def test_cache_without_rows_of_a_split_and_without_classes_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cache(tmp_path, counts={"train": 0, "validation": 0, "test": 2}, classes=0, open_classes=0)
    assert run(f"--cache={tmp_path}") == 0
    line = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  vision"))
    assert line[-3:-1] == ["–", "–"]


def test_inspecting_loads_neither_torch_nor_jax(tmp_path: Path, subprocess_environment: dict[str, str]) -> None:
    write_cache(tmp_path)
    code = (
        "import sys, extract_features; code = extract_features.main(sys.argv[1:]);"
        "assert not {'torch', 'jax', 'h5py'} & sys.modules.keys(); sys.exit(code)"
    )
    command = [sys.executable, "-W", "error", "-c", code, "inspect", f"--cache={tmp_path}", "--json"]
    done = subprocess.run(command, env=subprocess_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["state"] == "whole"


def test_committed_caches_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(__file__).parents[2] / "caches" / "pocketbind" / "sounds"
    assert run(f"--cache={folder}") == 0
    assert "Sonic Pi" in capsys.readouterr().out
