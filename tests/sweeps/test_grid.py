"""Which runs a grid stands for, and what they are known by."""

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from cmcl_jax.config import ConfigError, check_config
from cmcl_jax.sweeps import expand, load_sweep
from feature_cache.errors import UnknownNameError, UserError
from tests.sweeps.conftest import TINY

CHECKSUMS = {"birds": "0"}


def test_a_field_of_a_method_varies_in_its_runs_alone(tiny_sweep: ConfigDict) -> None:
    runs = expand(tiny_sweep)
    settings = [(run.method, run.settings.get("dns.input_threshold"), run.seed) for run in runs]
    expected = {("vanilla", None), ("joint", None), ("dns", 3e-3), ("dns", 0.1)}
    assert len(runs) == 4 * 2 * 2
    assert set(settings) == {(method, threshold, seed) for method, threshold in expected for seed in (0, 1)}
    rates = {(run.method, run.config.training.learning_rate) for run in runs}
    assert rates == {(method, rate) for method in ("vanilla", "dns", "joint") for rate in (3e-3, 1e-2)}
    for run in runs:
        assert run.config.dns.input_threshold == run.settings.get("dns.input_threshold")
        assert (run.config.seeds, run.config.first_seed) == (1, run.seed)
        check_config(run.config)


def test_without_its_method_a_methods_field_varies_in_no_run() -> None:
    assert [dict(run.settings) for run in expand(load_sweep(TINY, ["sweep.method=vanilla", "seeds=1"]))] == [
        {"method": "vanilla", "training.learning_rate": rate} for rate in (3e-3, 1e-2)
    ]


def test_the_pocket_sweep_has_96_runs() -> None:
    assert len(expand(load_sweep("configs/sweep_pocket.py"))) == 96


def test_the_command_line_sweeps_other_fields_and_other_values() -> None:
    config = load_sweep(
        TINY,
        ["sweep.method=dns", "sweep.training.weight_decay=0.0,1e-3", "sweep.dns.rule='relative','energy'", "seeds=1"],
    )
    runs = expand(config)
    assert {run.method for run in runs} == {"dns"}
    assert {run.config.training.weight_decay for run in runs} == {0.0, 1e-3}
    assert {run.config.dns.rule for run in runs} == {"relative", "energy"}
    assert len(runs) == 2 * 2 * 2 * 2
    assert {run.config.training.epochs for run in expand(load_sweep(TINY, ["training.epochs=7"]))} == {7}


def test_any_config_can_be_swept_from_the_command_line() -> None:
    runs = expand(load_sweep("tests/tiny_config.py", ["sweep.stream.order_seed=0,1", "seeds=1"]))
    assert [run.config.stream.order_seed for run in runs] == [0, 1]
    with pytest.raises(ConfigError, match="has no config.sweep, so there is nothing to sweep"):
        load_sweep("tests/tiny_config.py")


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("sweep.dns.input_treshold=0.1", UnknownNameError, "input_treshold'; did you mean input_threshold"),
        ("sweep.trainig.epochs=1", UnknownNameError, "trainig'; did you mean training"),
        ("sweep.method=vanilla,dsn", UnknownNameError, "'dsn'; did you mean dns"),
        ("sweep.training.epochs=()", ConfigError, "config.sweep.training.epochs has no values"),
        ("sweep.training.epochs=2,2", ConfigError, r"config.sweep.training.epochs = \(2, 2\) has a value twice"),
        ("sweep.training.epochs='many'", ConfigError, "training.epochs='many': the field is of type int"),
        ("sweep.seeds=1,2", ConfigError, "config.sweep.seeds cannot be swept: set config.seeds itself"),
        ("sweep.checkpoint_minutes=1.0,2.0", ConfigError, "it changes no result"),
        ("evaluation.stability=True", ConfigError, "only single runs record how alignments move"),
        ("sweep.evaluation.split=test", ConfigError, "config.sweep.evaluation.split cannot be swept"),
        ("sweep.stream.steps=1,2", ConfigError, "sweep each stream into its own workdir"),
        ("seeds=0", ConfigError, "config.seeds must be at least 1"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(override: str, error: type[UserError], message: str) -> None:
    with pytest.raises(error, match=message):
        load_sweep(TINY, [override])


def test_a_grid_is_not_trained_as_one_run(tiny_sweep: ConfigDict) -> None:
    with pytest.raises(ConfigError, match="run.py sweep"):
        check_config(tiny_sweep)


def test_a_run_is_known_by_what_its_numbers_depend_on(tiny_sweep: ConfigDict, tmp_path: Path) -> None:
    """Whatever the grid is that it stands in, where the caches are, and how many runs share the device."""
    known = [run.identity(CHECKSUMS) for run in expand(tiny_sweep)]
    assert len(set(known)) == len(known)

    def changed(field: str, value: object) -> list[str]:
        other = tiny_sweep.copy_and_resolve_references()
        other.update_from_flattened_dict({field: value})
        return [run.identity(CHECKSUMS) for run in expand(other)]

    for field, value in (("cache_dir", str(tmp_path)), ("runs_at_once", 2), ("checkpoints_kept", 1)):
        assert changed(field, value) == known
    assert changed("seeds", 3)[:2] == known[:2]
    assert set(changed("training.epochs", 5)).isdisjoint(known)
    of_vanilla = json.loads(json.dumps(changed("dns.rule", "energy")))
    same = [run.method != "dns" for run in expand(tiny_sweep)]
    assert [a == b for a, b in zip(of_vanilla, known, strict=True)] == same
    assert expand(tiny_sweep)[0].identity({"birds": "1"}) != known[0]
