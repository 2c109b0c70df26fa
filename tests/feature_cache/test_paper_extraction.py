"""The paper's encoders on its datasets, end to end: raw media -> caches -> the eleven steps of the stream."""

import json
from pathlib import Path

import numpy as np
import pytest

import extract_features
import run
from configs.paper import ACCURACY, RECALL, STEPS
from feature_cache import encoders, open_cache
from feature_cache.datasets import PAPER, REGISTRY
from feature_cache.manifest import FAILURES_FILE
from feature_cache.registry import resolve
from tests.broken_media import BROKEN, CAPTIONS, ODD, break_media
from tests.encoders.tiny_binders import TinyImageBind, TinyUniBind, write_checkpoint
from tests.encoders.tiny_languagebind import write_tiny_languagebind
from tests.raw_datasets import write_raw_datasets

ENCODERS = {
    "imagebind": "tests.encoders.tiny_binders:TinyImageBind",
    "languagebind": "tests.encoders.tiny_languagebind:TinyLanguageBind",
    "unibind": "tests.encoders.tiny_binders:TinyUniBind",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of the tiny encoders and the tiny raw media."""
    root = tmp_path_factory.mktemp("paper")
    write_checkpoint(root / "weights/imagebind", TinyImageBind)
    write_checkpoint(root / "weights/unibind", TinyUniBind)
    write_tiny_languagebind(root / "weights/languagebind")
    write_raw_datasets(root / "media", items_per_split=4)
    return root


@pytest.fixture(autouse=True)
def tiny_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, target in ENCODERS.items():
        monkeypatch.setitem(encoders.REGISTRY, name, target)


def extract(root: Path, encoder: str, *more: str) -> int:
    """Runs the command line on the media below `root`, two at a time."""
    return extract_features.main(
        [
            f"--encoder={encoder}",
            f"--weights={root / 'weights' / encoder}",
            f"--data_root={root / 'media'}",
            f"--cache_dir={root / 'caches'}",
            "--batch_size=2",
            *more,
        ]
    )


@pytest.fixture(scope="module", params=sorted(ENCODERS))
def caches(request: pytest.FixtureRequest, root: Path) -> Path:
    """The caches of one encoder for all datasets of the paper."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoders.REGISTRY, request.param, ENCODERS[request.param])
        assert extract(root, request.param, "--dataset=paper", "--workers=1") == 0
    return root / "caches" / request.param


@pytest.mark.slow
@pytest.mark.parametrize("dataset", PAPER)
def test_every_encoder_embeds_every_dataset(caches: Path, root: Path, dataset: str) -> None:
    cache = open_cache(caches / dataset)
    cache.verify()
    source = resolve(REGISTRY, "dataset", dataset)(root / "media")
    encoder = resolve(ENCODERS, "encoder", caches.name)("cpu", weights=root / "weights" / caches.name)
    assert tuple(cache.modalities) == source.modalities
    for split in ("train", "test"):
        items = source.items(split)
        assert cache.ids(split) == [item.id for item in items] and items
        assert cache.captions(split) == [item.caption for item in items]
        np.testing.assert_array_equal(cache.labels(split), [item.label for item in items])
        for modality in cache.modalities:
            features = np.asarray(cache.features(split, modality), np.float64)
            assert features.shape == (len(items), encoder.modalities[modality].dim)
            assert np.isfinite(features).all()
            if modality != "text":
                assert np.ptp(features, axis=0).max() > 0, "every item has the same features"
            last = encoder.embed(modality, [encoder.preprocess(modality, items[-1].open(modality))])[0]
            np.testing.assert_allclose(features[-1], last, rtol=2e-3, atol=2e-3 * np.abs(last).max())
    assert cache.class_names == tuple(label.name for label in source.classes)


@pytest.mark.slow
def test_the_caches_train_through_the_papers_eleven_steps(caches: Path, root: Path, tmp_path: Path) -> None:
    flags = [f"--config=configs/paper.py:{caches.name}", f"--config.cache_dir={root / 'caches'}"]
    more = ["--config.seeds=1", "--config.training.learning_rate=1e-2", f"--workdir={tmp_path}"]
    assert run.main(["train", *flags, *more]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    assert [line["name"].split()[1:] for line in steps] == [[name, "–".join(pair)] for name, pair, _ in STEPS]
    losses = np.array([line["losses"][0] for line in steps])
    assert np.isfinite(losses).all() and (losses[:, -1] != losses[:, 0]).all()
    assert losses[0, -1] < losses[0, 0], "nothing is protected in the first step"
    for metric, kind in (("accuracy", ACCURACY), ("r10", RECALL)):
        matrix = np.load(tmp_path / f"{metric}_matrix.npy")
        assert matrix.shape == (1, 12, 11)
        measured = [kind in tasks for *_, tasks in STEPS]
        np.testing.assert_array_equal(np.isfinite(matrix), np.broadcast_to(measured, matrix.shape))


@pytest.mark.slow
def test_of_media_of_which_a_twentieth_is_broken_each_failure_is_listed_and_nothing_is_lost(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled = break_media(write_raw_datasets(tmp_path / "media", items_per_split=12), share=0.05)
    ways = {medium.way for medium in spoiled}
    assert ways >= {*BROKEN, *ODD, *CAPTIONS}
    places = [f"--data_root={tmp_path / 'media'}", f"--cache_dir={tmp_path / 'caches'}"]
    assert extract(root, "imagebind", "--dataset=paper", *places) == 1, "more failures than --max_failure_rate allows"
    assert extract(root, "imagebind", "--dataset=paper", *places, "--max_failure_rate=0.2") == 0
    said = capsys.readouterr().err
    for name in PAPER:
        cache = open_cache(tmp_path / "caches/imagebind" / name)
        cache.verify()
        lines = cache.path / FAILURES_FILE
        failures = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
        broken = {(medium.split, medium.id) for medium in spoiled if medium.broken and medium.dataset == name}
        assert {(failure["split"], failure["id"]) for failure in failures} == broken
        assert len(failures) == len(broken) and all(failure["reason"] for failure in failures)
        source = resolve(REGISTRY, "dataset", name)(tmp_path / "media")
        for split in ("train", "test"):
            whole = [item.id for item in source.items(split) if (split, item.id) not in broken]
            assert cache.ids(split) == whole
        if broken:
            assert f"{len(broken)} items failed and are listed in {lines}" in said
