import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from cmcl_jax.config import ConfigError
from cmcl_jax.continual import DivergedError, run
from cmcl_jax.methods import method_from_config
from cmcl_jax.open_stream import open_stream
from cmcl_jax.progress import Progress
from cmcl_jax.train import Learned, learn, train_epochs
from cmcl_jax.workdir import RunError, Workdir
from feature_cache import open_cache
from feature_cache.errors import UserError
from tests.run_files import bits, events, losses
from tests.tiny_caches import STEPS, WIDTHS, write_tiny_caches


def test_a_finished_run_is_only_read(tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = run(tiny_config, tmp_path)
    monkeypatch.setattr("cmcl_jax.train.learn", None)
    tiny_config.checkpoints_kept, tiny_config.checkpoint_minutes = 7, None  # no result depends on them
    assert run(tiny_config, tmp_path) == json.loads(json.dumps(summary))


def test_a_workdir_of_another_config_is_refused_with_the_difference(tiny_config: ConfigDict, tmp_path: Path) -> None:
    run(tiny_config, tmp_path)
    tiny_config.training.epochs = 3
    with pytest.raises(ConfigError, match=r"holds a run of another config .*\(training.epochs: 2 -> 3\)"):
        run(tiny_config, tmp_path)


def test_the_order_of_the_steps_is_the_same_for_every_method_and_part_of_the_run(
    tiny_config: ConfigDict, tmp_path: Path
) -> None:
    tiny_config.stream.order_seed = 1
    for method in ("vanilla", "dns"):
        tiny_config.method = method
        run(tiny_config, tmp_path / method)
    orders = [json.loads((tmp_path / method / "tasks.json").read_text()) for method in ("vanilla", "dns")]
    stream = open_stream(STEPS, tiny_config.cache_dir, "tiny", order_seed=1)
    assert orders[0]["steps"] == orders[1]["steps"] == [step.name for step in stream.steps]
    tiny_config.stream.order_seed = 2
    with pytest.raises(ConfigError, match=r"holds a run of another config .*\(stream.order_seed: 1 -> 2\)"):
        run(tiny_config, tmp_path / "dns")


def test_a_workdir_of_other_features_is_refused(tiny_config: ConfigDict, tmp_path: Path) -> None:
    run(tiny_config, tmp_path / "run")
    write_tiny_caches(tmp_path / "caches" / "tiny", seed=1)
    tiny_config.cache_dir = str(tmp_path / "caches")
    with pytest.raises(ConfigError, match=r"of other features \(caches.birds: "):
        run(tiny_config, tmp_path / "run")


def test_a_workdir_serves_one_process_at_a_time(tiny_config: ConfigDict, tmp_path: Path) -> None:
    with Workdir(tmp_path).locked(), pytest.raises(RunError, match="in use: another process is training there"):
        run(tiny_config, tmp_path)


def test_diverging_training_says_what_to_lower_and_the_corrected_command_runs(
    tiny_config: ConfigDict, tmp_path: Path
) -> None:
    rate = tiny_config.training.learning_rate
    tiny_config.training.learning_rate = 1e38
    with pytest.raises(DivergedError, match="Lower config.training.learning_rate"):
        run(tiny_config, tmp_path)
    assert not (tmp_path / "summary.json").exists()
    tiny_config.training.learning_rate = rate
    run(tiny_config, tmp_path)


@pytest.mark.parametrize("name", ["summary.json", "config.json"])
def test_a_damaged_file_of_a_run_is_named(name: str, tiny_config: ConfigDict, tmp_path: Path) -> None:
    run(tiny_config, tmp_path)
    (tmp_path / name).write_text('{"half": ')
    with pytest.raises(RunError, match=f"is damaged at {name}.*Delete the folder and train again"):
        run(tiny_config, tmp_path)


def test_a_seed_gives_the_same_run_alone_and_beside_others(tiny_config: ConfigDict, tmp_path: Path) -> None:
    run(tiny_config, tmp_path / "both")
    tiny_config.seeds, tiny_config.first_seed = 1, 1
    run(tiny_config, tmp_path / "second")
    both, second = (np.asarray(losses(tmp_path / name)) for name in ("both", "second"))
    np.testing.assert_allclose(both[:, 1], second[:, 0], rtol=1e-4)
    assert np.abs(both[:, 0] - second[:, 0]).max() > 1e-3


def test_steps_of_equal_data_see_it_in_different_orders(tiny_config: ConfigDict, tmp_path: Path) -> None:
    tiny_config.stream.steps = STEPS[:1] * 2
    tiny_config.training.learning_rate = 1e-30  # the heads stay, so only the order can change a loss
    run(tiny_config, tmp_path)
    first, second = losses(tmp_path)
    assert (np.asarray(first) != np.asarray(second)).all()


def test_a_progress_bar_costs_no_compilation_and_changes_no_bit(tiny_config: ConfigDict, tmp_path: Path) -> None:
    train_epochs.clear_cache()
    with Progress(Console(file=io.StringIO())) as progress:
        run(tiny_config, tmp_path / "shown", progress)
    assert train_epochs._cache_size() == 1
    run(tiny_config, tmp_path / "silent")
    assert bits(tmp_path / "shown") == bits(tmp_path / "silent")


def test_credit_and_split_of_the_evaluation_are_the_configs(tiny_config: ConfigDict, tmp_path: Path) -> None:
    """Zero-shot R@1 by hand: identity heads, every caption twice, so that "any" finds more than "diagonal"."""
    cache = open_cache(Path(tiny_config.cache_dir) / "tiny" / "birds")
    for split in ("test", "validation"):
        scores = cache.features(split, "vision") @ cache.features(split, "text").T
        hits = [oriented.argmax(1) for oriented in (scores, scores.T)]
        partner = np.arange(len(scores))
        for credit, shared in (("diagonal", 1), ("any", 2)):
            tiny_config.evaluation.split, tiny_config.evaluation.credit = split, credit
            run(tiny_config, tmp_path / split / credit)
            expected = 100 * np.mean([hit // shared == partner // shared for hit in hits])
            found = np.load(tmp_path / split / credit / "r1_matrix.npy")[:, 0, 0]
            np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("credit", "r1"), [("diagonal", 100 / 16), ("any", 100 * 2 / 16)])
def test_the_summary_has_the_level_of_random_scores(
    credit: str, r1: float, tiny_config: ConfigDict, tmp_path: Path
) -> None:
    """16 test items; every caption twice, but in step 4, which has no text; 4 classes in steps 1 and 2."""
    tiny_config.evaluation.credit = credit
    summary = run(tiny_config, tmp_path)
    assert summary["chance_acc"] == {"mean": 25.0, "std": 0.0, "seeds": []}
    assert summary["chance_r1"]["mean"] == pytest.approx((3 * r1 + 100 / 16) / 4)


def test_the_references_wrong_columns_feed_the_memory_of_the_pair(tiny_config: ConfigDict) -> None:
    """Step 4, (vision, depth) of rooms, whose first stored modalities are vision and text."""
    tiny_config.method, tiny_config.dns.mode = "dns", "released"
    stream = open_stream(tiny_config.stream.steps, tiny_config.cache_dir, "tiny")
    asked = [method_from_config(tiny_config).remembered_modalities(stream.steps[3], stream)]
    tiny_config.dns.released_columns = True
    asked.append(method_from_config(tiny_config).remembered_modalities(stream.steps[3], stream))
    assert asked == [("vision", "depth"), ("vision", "text")]


def test_wrong_columns_of_another_width_are_refused(tiny_config: ConfigDict, tmp_path: Path) -> None:
    write_tiny_caches(tmp_path / "caches" / "tiny", {**WIDTHS, "depth": 9})
    tiny_config.cache_dir = str(tmp_path / "caches")
    tiny_config.method, tiny_config.dns.mode, tiny_config.dns.released_columns = "dns", "released", True
    with pytest.raises(UserError, match="config.dns.released_columns = True needs equal widths"):
        run(tiny_config, tmp_path / "run")


def test_the_matrices_hold_what_the_heads_of_each_time_score(
    tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads_over_time = [{m: {"kernel": np.stack([np.eye(w)] * 2), "bias": np.zeros((2, w))} for m, w in WIDTHS.items()}]

    def recording(*args: object, **kwargs: object) -> Learned:
        learned = learn(*args, **kwargs)  # type: ignore[arg-type]
        heads_over_time.append(jax.tree.map(np.asarray, learned.heads))
        return learned

    monkeypatch.setattr("cmcl_jax.train.learn", recording)
    run(tiny_config, tmp_path)
    cache = open_cache(Path(tiny_config.cache_dir) / "tiny" / "birds")
    vision, text, labels = cache.features("test", "vision"), cache.features("test", "text"), cache.labels("test")
    for t, heads in enumerate(heads_over_time):
        for seed in range(2):
            z, z_text, z_classes = (
                x @ heads[m]["kernel"][seed] + heads[m]["bias"][seed]
                for m, x in (("vision", vision), ("text", text), ("text", cache.class_features))
            )
            accuracy = 100 * np.mean((z @ z_classes.T).argmax(1) == labels)
            assert np.load(tmp_path / "accuracy_matrix.npy")[seed, t, 0] == pytest.approx(accuracy)
            scores = z @ z_text.T
            best_is_partner = 100 * np.mean(scores.argmax(1) == np.arange(16))
            assert np.load(tmp_path / "matrices/r1_a2b_diagonal_full.npy")[seed, t, 0] == pytest.approx(best_is_partner)
    matrix = np.load(tmp_path / "accuracy_matrix.npy")
    assert np.isnan(matrix[:, :, 2:]).all()  # tasks without accuracy
    for t, event in enumerate(events(tmp_path)):
        assert event["accuracy"][2:] == [None, None]
        np.testing.assert_allclose(event["accuracy"][:2], matrix[:, t, :2].mean(axis=0), atol=1e-3)


@pytest.mark.parametrize("method", ["vanilla", "dns"])
def test_float32_and_float64_runs_agree(method: str, tiny_config: ConfigDict, tmp_path: Path) -> None:
    tiny_config.method = method
    tiny_config.dns.project = "updates"  # the coordinates of "exact" are one eigenbasis of many, another in each dtype
    found = []
    for dtype in ("float32", "float64"):
        tiny_config.dtype = dtype
        run(tiny_config, tmp_path / dtype)
        found.append(np.asarray(losses(tmp_path / dtype)))
    np.testing.assert_allclose(found[0], found[1], rtol=2e-3)


def test_modalities_of_unequal_width_train_together(tiny_config: ConfigDict, tmp_path: Path) -> None:
    write_tiny_caches(tmp_path / "caches" / "tiny", {**WIDTHS, "audio": 20, "depth": 9})
    tiny_config.cache_dir, tiny_config.method = str(tmp_path / "caches"), "dns"
    summary = run(tiny_config, tmp_path / "run")
    assert summary["gain_r10"]["mean"] > 0


def test_what_was_learned_carries_over_to_the_test_rows(tiny_config: ConfigDict, tmp_path: Path) -> None:
    summary = run(tiny_config, tmp_path)
    assert summary["synthetic"] is True
    assert summary["gain_a"]["mean"] > 10  # of 75 possible: the concepts carry over
