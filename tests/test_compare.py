"""`python run.py compare`: runs, order seeds, continuation, compiled programs and progress."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

import run
from cmcl_jax import compare as comparing
from cmcl_jax.checkpoint import Checkpoints
from cmcl_jax.compare import check_methods, train_all
from cmcl_jax.config import ConfigError
from cmcl_jax.open_stream import distinct_orders
from cmcl_jax.progress import RunsProgress
from cmcl_jax.train import train_epochs
from cmcl_jax.train_joint import update_heads
from feature_cache.errors import UnknownNameError

METHODS = ("vanilla", "dns", "joint")


def silent(runs: int) -> RunsProgress:
    return RunsProgress(Console(quiet=True), runs)


def flags(cache_dir: Path, workdir: Path, *more: str) -> list[str]:
    return [
        "compare",
        "--config=tests/tiny_config.py",
        f"--config.cache_dir={cache_dir}",
        f"--workdir={workdir}",
        "--orders=2",
        *more,
    ]


def test_compare_trains_every_method_in_every_order_and_reports(
    tiny_caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # two orders have wide intervals
    assert run.main(flags(tiny_caches, tmp_path, "--config.seeds=3")) == 0
    shown = capsys.readouterr()
    for word in ("random", "zero-shot", *METHODS, "2 orders × 3 seeds (synthetic data)", "dns · R@10 ↑", "of 6"):
        assert word in shown.out
    seeds = distinct_orders(4, 2)
    lines = [
        f"run {i} of 6 · {m}, order {k}: Acc" for i, (k, m) in enumerate(((k, m) for k in seeds for m in METHODS), 1)
    ]
    assert all(line in shown.err for line in lines)
    steps = set()
    for seed in seeds:
        tasks = [json.loads((tmp_path / m / f"order{seed}" / "tasks.json").read_text())["steps"] for m in METHODS]
        assert tasks[0] == tasks[1] == tasks[2]
        steps.add(tuple(tasks[0]))
        config = json.loads((tmp_path / "dns" / f"order{seed}" / "config.json").read_text())
        assert (config["method"], config["stream"]["order_seed"], config["seeds"]) == ("dns", seed, 3)
    assert len(steps) == 2
    content = json.loads((tmp_path / "comparison.json").read_text())
    r10 = [np.load(tmp_path / "dns" / f"order{seed}" / "r10_matrix.npy")[:, -1].mean(axis=-1) for seed in seeds]
    np.testing.assert_allclose(content["levels"]["dns"]["r10"]["scores"], r10)
    assert {path.name for path in tmp_path.iterdir()} == {
        *METHODS,
        *("report.md", "comparison.json", "levels.png", "differences.png"),
    }


@pytest.mark.slow
def test_a_comparison_that_was_stopped_goes_on_to_the_same_bytes(
    tiny_caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped after step 2 of the third run of four: two runs are read, the third continues, the last is new."""
    two = "--methods=vanilla,joint"
    assert run.main(flags(tiny_caches, tmp_path / "whole", two)) == 0
    save, saved = Checkpoints.save, []

    def noting(self: Checkpoints, epochs_done: int, *state: object) -> None:
        saved.append(epochs_done)
        save(self, epochs_done, *state)

    def dying(self: Checkpoints, epochs_done: int, *state: object) -> None:
        noting(self, epochs_done, *state)
        if len(saved) == 2 * 4 + 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", dying)
    assert run.main(flags(tiny_caches, tmp_path / "broken", two)) == 130
    assert not (tmp_path / "broken" / "report.md").exists()
    capsys.readouterr()
    monkeypatch.setattr(Checkpoints, "save", noting)
    assert run.main(flags(tiny_caches, tmp_path / "broken", two)) == 0
    assert saved[2 * 4 + 2 :] == [6, 8, 2, 4, 6, 8], "2 epochs a step"
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("run ")]
    assert ["was finished" in line for line in told] == [True, True, False, False]
    for name in ("comparison.json", "report.md", "levels.png", "differences.png"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_orders_share_their_compiled_programs(tiny_config: ConfigDict, tmp_path: Path) -> None:
    train_epochs.clear_cache()
    update_heads.clear_cache()
    with RunsProgress(Console(file=io.StringIO()), 6) as progress:
        train_all(tiny_config, METHODS, 2, tmp_path, progress)
    assert train_epochs._cache_size() == 2, "vanilla and dns"
    assert update_heads._cache_size() == 1, "joint"


def test_the_time_left_is_that_of_the_runs_that_are_to_be_trained(tiny_config: ConfigDict, tmp_path: Path) -> None:
    """Of 4 runs of 4 steps and 2 epochs, one was finished: 24 epochs are to be done."""
    train_all(tiny_config, ("vanilla",), 1, tmp_path, silent(1))
    output = io.StringIO()
    with RunsProgress(Console(file=output, force_terminal=True, width=120), 4) as progress:
        train_all(tiny_config, ("vanilla", "dns"), 2, tmp_path, progress)
        [task] = progress._bar.tasks
        assert (task.total, task.completed) == (24, 24)
    assert "run 2 of 4 · dns, order 0 · step" in output.getvalue()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods=vanilla,dsn"], "There is no method in --methods 'dsn'; did you mean dns"),
        (["--methods=dns,dns"], "--methods=dns,dns: name one or more methods, each of them once"),
        (["--config.method=dns"], "A comparison sets config.method itself; use --methods"),
        (["--config.stream.order_seed=2"], "A comparison sets config.stream.order_seed itself"),
        (["--orders=25"], "A stream of 4 steps has only 24 orders, but 25 are asked for"),
    ],
)
def test_a_comparison_that_makes_no_sense_trains_nothing(
    tiny_caches: Path, tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(flags(tiny_caches, tmp_path / "out", *more)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("orders", ["0", "-1", "1.5", "two"])
def test_a_number_of_orders_that_is_none_is_named(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run.main(["compare", f"--orders={orders}"])
    assert exit_info.value.code == 2
    assert f"'{orders}' is not a whole number of at least 1" in capsys.readouterr().err


def test_another_config_in_the_same_folder_is_refused(
    tiny_caches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ["--methods=vanilla", "--orders=1"]
    assert run.main(flags(tiny_caches, tmp_path, *one)) == 0
    assert run.main(flags(tiny_caches, tmp_path, *one, "--config.training.epochs=1")) == 1
    assert "training.epochs: 2 -> 1" in capsys.readouterr().err


def test_methods_are_checked_by_name() -> None:
    check_methods(METHODS)
    with pytest.raises(UnknownNameError, match="did you mean joint"):
        check_methods(["jiont"])
    with pytest.raises(ConfigError, match="each of them once"):
        check_methods([])


def test_the_config_that_is_compared_stays_as_it_is(
    tiny_config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []

    def noting(config: ConfigDict, workdir: Path, progress: RunsProgress) -> dict:
        seen.append((config.method, config.stream.order_seed))
        return {"acc": {"mean": None}, "r10": {"mean": 1.0}}

    monkeypatch.setattr(comparing, "run", noting)
    folders = train_all(tiny_config, ("vanilla", "joint"), 2, tmp_path, silent(4))
    assert (tiny_config.method, tiny_config.stream.order_seed) == ("vanilla", None)
    seeds = distinct_orders(4, 2)
    assert seen == [(method, seed) for seed in seeds for method in ("vanilla", "joint")]
    assert folders["joint"] == [tmp_path / "joint" / f"order{seed}" for seed in seeds]
