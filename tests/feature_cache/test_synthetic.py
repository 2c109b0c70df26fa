"""Synthetic caches: the paper's shapes, ImageBind's norms, and rows that depend on nothing but seed and number."""

from pathlib import Path

import numpy as np
import pytest

from configs.paper import STEPS
from feature_cache import FeatureCache, UserError, open_cache
from feature_cache.manifest import MODALITY_ORDER
from feature_cache.synthetic import caches
from feature_cache.synthetic.__main__ import main
from feature_cache.synthetic.caches import Options, why_outdated, write_cache
from feature_cache.synthetic.factors import DEFAULTS, PHASES, amplitudes, groups, seen_by
from feature_cache.synthetic.rows import BLOCK, SyntheticDataset
from feature_cache.synthetic.shapes import SHAPES
from feature_cache.synthetic.world import make_world

WIDTH = 32
TRUE_SIZES = {  # train, test, classes; tvl's split is an assumption, its sum is not
    "ucf101": (10055, 3265, 101),
    "esc50": (1600, 400, 50),
    "nyudv2": (47584, 654, 27),
    "clotho": (3839, 1045, 0),
    "vggsound_s": (10001, 2001, 309),
    "tvl": (43304, 437, 0),
    "llvip": (12025, 3463, 0),
}
MODALITIES = {
    "ucf101": ["text", "video"],
    "esc50": ["text", "audio"],
    "nyudv2": ["vision", "text", "depth"],
    "clotho": ["text", "audio"],
    "vggsound_s": ["text", "audio", "video"],
    "tvl": ["vision", "text", "tactile"],
    "llvip": ["vision", "thermal"],
}
NORMS = {"vision": 1, "text": 14, "audio": 20, "thermal": 10, "depth": 5, "video": 1, "tactile": 1}


def generate(cache_dir: Path, *flags: str) -> int:
    return main([f"--cache_dir={cache_dir}", f"--width={WIDTH}", "--factor=0.01", "--test_factor=0.1", *flags])


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureCache]:
    """A hundredth of the training rows, all test rows."""
    cache_dir = tmp_path_factory.mktemp("caches")
    assert generate(cache_dir, "--test_factor=1") == 0
    return {name: open_cache(cache_dir / "synthetic" / name) for name in SHAPES}


def test_the_datasets_are_those_of_the_paper_in_its_order() -> None:
    assert list(SHAPES) == list(dict.fromkeys(dataset for dataset, _, _ in STEPS))
    for dataset, pair, metrics in STEPS:
        assert set(pair) <= set(SHAPES[dataset].modalities)
        assert SHAPES[dataset].classes or "accuracy" not in metrics


@pytest.mark.parametrize("name", SHAPES)
def test_true_shape_of_every_dataset(generated: dict[str, FeatureCache], name: str) -> None:
    cache, (train, test, classes) = generated[name], TRUE_SIZES[name]
    assert (SHAPES[name].train, SHAPES[name].test) == (train, test)
    assert list(cache.modalities) == MODALITIES[name] == sorted(MODALITIES[name], key=MODALITY_ORDER.index)
    counts = {split: cache.manifest.splits[split].count for split in ("train", "validation", "test")}
    assert counts == {"train": round(train / 100), "validation": max(1, round(train / 1000)), "test": test}
    assert len(cache.class_names) == classes == len(set(cache.class_names))
    assert all(len(set(cache.ids(split))) == counts[split] for split in counts)
    assert set(cache.labels("test")) == (set(range(classes)) if classes else {-1})
    cache.verify()


@pytest.mark.parametrize("name", SHAPES)
def test_features_have_the_norms_of_imagebind(generated: dict[str, FeatureCache], name: str) -> None:
    for modality, spec in generated[name].modalities.items():
        assert (spec.dim, spec.scale) == (WIDTH, NORMS[modality])
        norms = np.linalg.norm(generated[name].features("test", modality).astype(np.float64), axis=1)
        if modality in ("audio", "video"):
            assert 0.7 * NORMS[modality] * 0.999 < norms.min() < 0.8 * NORMS[modality]
            assert 0.9 * NORMS[modality] < norms.max() < NORMS[modality] * 1.001
        else:
            np.testing.assert_allclose(norms, NORMS[modality], rtol=1e-3)


def test_text_of_a_classification_set_is_the_class_text_and_captions_elsewhere_differ(
    generated: dict[str, FeatureCache],
) -> None:
    for name, cache in generated.items():
        captions = cache.captions("test")
        if SHAPES[name].classes:
            labels, texts = cache.labels("test"), [label.text for label in cache.manifest.classes]
            assert captions == [texts[label] for label in labels]
            np.testing.assert_array_equal(cache.features("test", "text"), np.asarray(cache.class_features)[labels])
        elif "text" in cache.modalities:
            assert len(set(captions)) == len(captions)
            assert len(np.unique(cache.features("test", "text"), axis=0)) == len(captions)
        else:
            assert set(captions) == {""}


def test_the_manifest_says_what_it_was_made_from(generated: dict[str, FeatureCache]) -> None:
    for cache in generated.values():
        manifest = cache.manifest
        assert manifest.synthetic and manifest.encoder == "synthetic"
        assert manifest.preprocessing_version == "model 1, width 32, seed 0"
        assert manifest.dataset_version == "factor 0.01, test_factor 1.0"
        assert [source.license for source in manifest.sources] == ["MIT"]


def test_the_same_command_gives_the_same_bytes_and_leaves_a_finished_cache_alone(tmp_path: Path) -> None:
    for cache_dir in ("one", "two"):
        assert generate(tmp_path / cache_dir) == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}
    assert generate(tmp_path / "one") == 0
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}


@pytest.mark.parametrize("changed", ["--seed=1", "--factor=0.02", "--test_factor=0.2", "--width=48", "--dtype=float32"])
def test_a_changed_flag_makes_the_cache_again(tmp_path: Path, changed: str) -> None:
    assert generate(tmp_path, "--dataset=esc50") == 0
    before = files(tmp_path)
    assert generate(tmp_path, "--dataset=esc50", changed) == 0
    assert files(tmp_path)["synthetic/esc50/manifest.json"] != before["synthetic/esc50/manifest.json"]
    fresh = tmp_path / "fresh"
    assert generate(fresh, "--dataset=esc50", changed) == 0
    again = {name: data for name, data in files(tmp_path).items() if not name.startswith("fresh/")}
    assert files(fresh) == again


def test_a_changed_constant_makes_the_cache_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert generate(tmp_path, "--dataset=esc50") == 0
    folder, options = tmp_path / "synthetic" / "esc50", Options(0.01, 0.1, WIDTH)
    assert why_outdated(folder, SHAPES["esc50"], options) is None
    monkeypatch.setattr(caches, "fingerprint", lambda *_: "f" * 64)
    assert why_outdated(folder, SHAPES["esc50"], options) == "the generator has changed"


def test_an_interrupted_generation_goes_on_from_its_last_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(0.1, 0.1, WIDTH, shard_size=50)
    world, shape = make_world(WIDTH, 0), SHAPES["esc50"]
    write_cache(tmp_path / "whole", shape, world, options)
    features, made = SyntheticDataset.features, []

    def counting(self: SyntheticDataset, split: str, start: int, stop: int) -> object:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append((split, start))
        return features(self, split, start, stop)

    monkeypatch.setattr(SyntheticDataset, "features", counting)
    for expected in ([("train", 0), ("train", 50)], [("train", 100), ("train", 150)]):
        with pytest.raises(KeyboardInterrupt):
            write_cache(tmp_path / "stopped", shape, world, options)
        assert made == expected
        made.clear()
    assert not (tmp_path / "stopped" / "manifest.json").exists()
    seen: list[int] = []
    write_cache(tmp_path / "stopped", shape, world, options, seen.append)
    assert made == [("validation", 0), ("test", 0)]
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert sum(seen) == 160 + 16 + 40


@pytest.mark.parametrize("name", ["esc50", "tvl"])
def test_a_row_depends_on_neither_shard_nor_factor(tmp_path: Path, name: str) -> None:
    world = make_world(WIDTH, 0)
    big, small = Options(0.5, 1, WIDTH), Options(0.25, 0.5, WIDTH, shard_size=BLOCK // 3)
    for folder, options in (("big", big), ("small", small)):
        write_cache(tmp_path / folder, SHAPES[name], world, options)
    whole, part = (open_cache(tmp_path / folder) for folder in ("big", "small"))
    assert len(part.manifest.splits["train"].shards) > 4
    for split in ("train", "validation", "test"):
        n = len(part.ids(split))
        assert whole.ids(split)[:n] == part.ids(split) and n < len(whole.ids(split))
        for modality in part.modalities:
            np.testing.assert_array_equal(whole.features(split, modality)[:n], part.features(split, modality))


def test_rows_of_other_seeds_splits_and_numbers_differ() -> None:
    datasets = [SyntheticDataset(SHAPES["clotho"], make_world(WIDTH, seed)) for seed in (0, 1)]
    parts = [dataset.features(split, 0, 2 * BLOCK)["audio"] for dataset in datasets for split in ("train", "test")]
    rows = np.concatenate(parts)
    assert len(np.unique(rows, axis=0)) == len(rows) == 8 * BLOCK


@pytest.mark.parametrize("width", [32, 63, 100, 1024])
def test_groups_divide_the_latent_directions(width: int) -> None:
    covered = np.concatenate([np.arange(width)[directions] for directions in groups(width).values()])
    np.testing.assert_array_equal(covered, np.arange(width))
    sizes = {groups(width)[name].stop - groups(width)[name].start for name in SHAPES}
    assert len(sizes) == 1 and min(sizes) >= 2 and min(sizes) % 2 == 0


def test_a_topic_is_strongest_at_home_weaker_later_and_absent_before() -> None:
    energy = {name: amplitudes(64, name, DEFAULTS).astype(np.float64) ** 2 for name in SHAPES}
    for i, topic in enumerate(SHAPES):
        at = [energy[name][groups(64)[topic]].sum() for name in SHAPES]
        assert at[:i] == [0] * i
        assert at[i] == pytest.approx(DEFAULTS.own)
        assert all(0 < later <= DEFAULTS.foreign * 1.001 for later in at[i + 1 :])
    total = DEFAULTS.mean + DEFAULTS.noise
    assert all(values.sum() + total == pytest.approx(1) for values in energy.values())


def test_modalities_see_their_own_topic_alike_and_foreign_ones_turned_by_a_third() -> None:
    shared = np.random.default_rng(0).standard_normal((5, 64))
    own, foreign = groups(64)["tvl"], groups(64)["esc50"]
    for a, b in {pair for _, pair, _ in STEPS}:
        assert PHASES[a] != PHASES[b]
        x, y = (seen_by(modality, "tvl", shared) for modality in (a, b))
        np.testing.assert_array_equal(x[:, own], y[:, own])
        cosines = (x[:, foreign] * y[:, foreign]).sum(1) / (shared[:, foreign] ** 2).sum(1)
        np.testing.assert_allclose(cosines, -0.5)


@pytest.mark.parametrize("seed", [0, 1])
def test_zero_shot_retrieval_is_well_above_chance_and_far_from_perfect(seed: int) -> None:
    world, n = make_world(128, seed), 400
    for dataset, (a, b), _ in STEPS:
        features = SyntheticDataset(SHAPES[dataset], world).features("test", 0, n)
        scores = features[a] @ features[b].T
        rank = (scores > np.diag(scores)[:, None]).sum(axis=1)
        found = 100 * np.mean(rank < 10)  # chance: 2.5
        assert 4 < found < 60, (dataset, a, b)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--factor=0", "--factor should be a number greater than 0, such as 0.05, but is 0.0"),
        ("--factor=-1", "--factor should be a number greater than 0"),
        ("--factor=nan", "--factor should be a number greater than 0, such as 0.05, but is nan"),
        ("--factor=many", "invalid float value: 'many'"),
        ("--test_factor=inf", "--test_factor should be a number greater than 0"),
        ("--width=31", "--width should be at least 32, but is 31"),
        ("--seed=-1", "--seed should be at least 0, but is -1"),
        ("--shard_size=0", "--shard_size should be at least 1, but is 0"),
        ("--dataset=ucf", "There is no dataset 'ucf'; did you mean ucf101?"),
        ("--facter=1", "there is no flag '--facter=1'; the nearest are: --factor"),
    ],
)
def test_a_flag_that_makes_no_sense_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([f"--cache_dir={tmp_path}", flag])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_options_are_checked_without_the_command_line() -> None:
    with pytest.raises(UserError, match="width should be at least 32, but is 8"):
        Options(width=8)


def test_a_cache_dir_below_a_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert generate(tmp_path / "file", "--dataset=esc50") == 1
    assert (
        f"{tmp_path / 'file'}/synthetic/esc50: Not a directory. Choose another --cache_dir" in capsys.readouterr().err
    )
