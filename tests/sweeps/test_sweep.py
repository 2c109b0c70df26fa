"""A sweep's runs against `run.py train`, its table, what it continues with, and how it is reported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ml_collections import ConfigDict

import run as cli
from cmcl_jax.continual import run as train
from cmcl_jax.metrics.transfer import SUMMARY
from cmcl_jax.report.runs import load_run
from cmcl_jax.sweeps import expand, sweep
from cmcl_jax.sweeps import sweep as sweeping
from cmcl_jax.sweeps.report import write_sweep_report
from cmcl_jax.workdir import RunError
from tests.sweeps.conftest import TINY

Swept = tuple[Path, pa.Table]


def matrices(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.load(path) for path in sorted((folder / "matrices").glob("*.npy"))}


@pytest.mark.parametrize("place", [1, 6, 14], ids=["vanilla", "dns", "joint"])
def test_each_run_is_what_train_makes_of_its_settings(
    place: int, tiny_sweep: ConfigDict, swept: Swept, tmp_path: Path
) -> None:
    folder, table = swept
    of_run = expand(tiny_sweep)[place]
    summary = train(of_run.config, tmp_path)
    row = table.slice(place, 1).to_pylist()[0]
    assert (row["method"], row["seed"]) == (of_run.method, of_run.seed)
    alone, found = load_run(tmp_path), matrices(folder)
    for name, matrix in alone.matrices.items():
        if name in found:
            np.testing.assert_allclose(found[name][place], matrix[0], atol=1e-8)
    assert {"r10", "accuracy"} <= set(found)
    for name in SUMMARY:
        expected = summary[name]["mean"]
        assert row[name] == (None if expected is None else pytest.approx(expected, abs=1e-8)), name
    losses = [json.loads(line)["losses"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()[1:]]
    assert row["final_loss"] == pytest.approx(losses[-1][0][-1], abs=1e-8)


def test_the_table_has_a_row_for_each_run_and_a_column_for_each_swept_field(
    tiny_sweep: ConfigDict, swept: Swept
) -> None:
    folder, _ = swept
    table = pq.read_table(folder / "sweep.parquet")
    runs = expand(tiny_sweep)
    assert table.column("method").to_pylist() == [run.method for run in runs]
    assert table.column("seed").to_pylist() == [run.seed for run in runs]
    for field in ("training.learning_rate", "dns.input_threshold"):
        assert table.column(field).to_pylist() == [run.settings.get(field) for run in runs]
        assert table.schema.field(field).type == pa.float64()
    assert set(SUMMARY) < set(table.column_names)
    assert set(table.column("program").to_pylist()) == {0, 1, 2}
    assert set(table.column("chunk_size").to_pylist()) == {3}
    assert table.column("split").unique().to_pylist() == ["validation"]
    assert table.column("diverged_at").null_count == len(runs)
    assert min(table.column("seconds").to_pylist()) > 0
    bwt = dict(zip(table.column("method").to_pylist(), table.column("bwt_r10").to_pylist(), strict=True))
    assert bwt["joint"] is None
    assert bwt["dns"] is not None
    tasks = json.loads((folder / "tasks.json").read_text())
    assert all(matrix.shape == (16, 5, 4) for name, matrix in matrices(folder).items() if name != "learned_at")
    assert (len(tasks["steps"]), len(tasks["tasks"])) == (4, 4)
    assert json.loads((folder / "config.json").read_text())["sweep"]["training"]["learning_rate"] == [3e-3, 1e-2]


def test_settings_differ_where_they_should(swept: Swept) -> None:
    _, table = swept
    losses = table.column("final_loss").to_pylist()
    assert len({round(loss, 9) for loss in losses}) == len(losses), "no two runs are the same"


def test_a_sweep_that_goes_on_trains_what_is_missing_and_a_larger_grid_what_is_new(
    tiny_sweep: ConfigDict, swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table = swept
    trained: list[str] = []
    plain = sweeping.__globals__["train_chunk"]

    def counting(group: Any, members: Any, slots: int, axis: Any) -> Any:
        trained.extend(member.id for member in members)
        return plain(group, members, slots, axis)

    monkeypatch.setitem(sweeping.__globals__, "train_chunk", counting)
    (tmp_path / "chunks").mkdir()
    ids = table.column("id").to_pylist()
    files = sorted((folder / "chunks").glob("*.npz"))
    for file in files[1:]:
        (tmp_path / "chunks" / file.name).write_bytes(file.read_bytes())
    missing = [str(run) for run in np.load(files[0])["id"]]
    again = sweep(tiny_sweep, tmp_path, chunk=3)
    assert sorted(trained) == sorted(missing)
    assert again.drop(["seconds", "chunk"]) == table.drop(["seconds", "chunk"])
    for name, matrix in matrices(folder).items():
        np.testing.assert_array_equal(matrices(tmp_path)[name], matrix)
    trained.clear()
    larger = tiny_sweep.copy_and_resolve_references()
    larger.sweep.method = ("vanilla",)
    larger.seeds = 3
    assert sweep(larger, tmp_path, chunk=3).num_rows == 6
    assert len(trained) == 2
    assert set(trained).isdisjoint(ids)


def test_orders_of_the_steps_are_told_apart_and_share_the_tasks_columns(tiny_sweep: ConfigDict, tmp_path: Path) -> None:
    config = tiny_sweep.copy_and_resolve_references()
    config.sweep = ConfigDict({"stream": {"order_seed": (None, 1)}, "training": {"learning_rate": (1e-2, 3e-3)}})
    config.seeds = 1
    table = sweep(config, tmp_path)
    learned = np.load(tmp_path / "matrices" / "learned_at.npy")
    order = np.random.default_rng(1).permutation(4)
    assert table.column("order_seed").to_pylist() == [None, None, 1, 1]
    np.testing.assert_array_equal(learned[0], [1, 2, 3, 4])
    np.testing.assert_array_equal(learned[2], np.argsort(order) + 1)
    assert set(table.column("program").to_pylist()) == {0}
    alone = expand(config)[2].config
    train(alone, tmp_path / "alone")
    expected = load_run(tmp_path / "alone").matrices["r10"][0]
    found = np.load(tmp_path / "matrices" / "r10.npy")[2]
    np.testing.assert_allclose(found[:, order], expected, atol=1e-8)


def test_a_run_that_diverges_is_marked_and_leaves_the_others_alone(tiny_sweep: ConfigDict, tmp_path: Path) -> None:
    config = tiny_sweep.copy_and_resolve_references()
    config.sweep = ConfigDict({"training": {"learning_rate": (1e-2, 1e300)}, "method": ("vanilla",)})
    config.seeds = 1
    table = sweep(config, tmp_path)
    fine, diverged = table.to_pylist()
    assert fine["diverged_at"] is None
    assert fine["r10"] is not None
    assert diverged["diverged_at"] == 1
    assert diverged["r10"] is None
    r10 = np.load(tmp_path / "matrices" / "r10.npy")
    assert not np.isnan(r10[:, 0]).any()
    assert np.isnan(r10[1, 1:]).all()
    report = write_sweep_report(tmp_path)
    assert "1 runs diverged" in (tmp_path / "report.md").read_text()
    assert report.table.rows[-1].label == "vanilla (training.learning_rate = 0.01)"


def test_the_best_setting_of_each_method_is_reported(swept: Swept) -> None:
    folder, table = swept
    report = write_sweep_report(folder, "r1")
    rows = table.to_pylist()
    for method in ("vanilla", "dns", "joint"):
        means: dict[Any, list[float]] = {}
        for row in rows:
            if row["method"] == method:
                means.setdefault((row["training.learning_rate"], row["dns.input_threshold"]), []).append(row["r1"])
        best = max(np.mean(scores) for scores in means.values())
        shown = next(row for row in report.table.rows if row.label.startswith(method))
        assert shown.cells[2].startswith(f"{best:.1f} ± ")
    page = (folder / "report.md").read_text()
    assert "by its mean r1 on the validation split" in page
    assert (folder / "sweep.png").read_bytes()[:4] == b"\x89PNG"


def test_a_damaged_chunk_is_named(swept: Swept, tiny_sweep: ConfigDict, tmp_path: Path) -> None:
    folder, _ = swept
    file = next((folder / "chunks").glob("*.npz"))
    (tmp_path / "chunks").mkdir()
    (tmp_path / "chunks" / file.name).write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunError, match=f"{file.name} is damaged"):
        sweep(tiny_sweep, tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--memory-gb=1e-9"], "A run needs"),
        (["--memory-gb=0"], "--memory-gb must be greater than 0"),
        (["--process-id=0"], "Processes need all of --coordinator"),
        (["--metric=r11"], "'r11'; did you mean"),
        (["--metric=forgetting_r10"], "'forgetting_r10'; did you mean"),  # of which less is better
        (["--config.sweep.dns.mode=ours,released", "--config.dns.one_sided=True"], "In the run with method = dns"),
    ],
)
def test_flags_that_make_no_sense_are_named(
    flags: list[str], message: str, tiny_caches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = [f"--config={TINY}", f"--config.cache_dir={tiny_caches}", f"--workdir={tmp_path / 'out'}"]
    assert cli.main(["sweep", *plain, *flags]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
