"""Reading runs back: whole ones as written, broken ones with one paragraph that names the file."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cmcl_jax.report import RunError, load_run
from cmcl_jax.report.runs import comparable, labels

MakeRun = Callable[..., Path]


def test_a_run_is_read_as_it_was_written(make_run: MakeRun) -> None:
    workdir = make_run("dns", seeds=4)
    run = load_run(workdir)
    assert (run.method, run.seeds, run.synthetic, len(run.steps)) == ("dns", 4, False, 5)
    assert run.tasks[2].pair == ("text", "depth") and run.tasks[2].step == 3
    assert run.tasks[4].metrics == ("recall",)
    assert set(run.matrices) == {"accuracy", "open_accuracy", "r1", "r5", "r10", "map"}
    assert np.array_equal(run.matrices["r10"], np.load(workdir / "r10_matrix.npy"))
    assert run.summary["r10"]["mean"] == pytest.approx(run.matrices["r10"][:, -1].mean())


def complaint(workdir: Path) -> str:
    with pytest.raises(RunError) as error:
        load_run(workdir)
    message = str(error.value)
    assert "\n" not in message and "python run.py train" in message
    return message


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "there is no such folder" in complaint(tmp_path / "absent")


def test_an_unfinished_run_can_be_continued(make_run: MakeRun) -> None:
    workdir = make_run()
    (workdir / "summary.json").unlink()
    message = complaint(workdir)
    assert "holds no summary.json" in message and "goes on from its last checkpoint" in message


@pytest.mark.parametrize(
    "name", ["config.json", "summary.json", "tasks.json", "accuracy_matrix.npy", "r10_matrix.npy", "matrices/map.npy"]
)
def test_every_truncated_file_is_named(make_run: MakeRun, name: str) -> None:
    workdir = make_run()
    file = workdir / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert f"The run {workdir} is damaged at {name}:" in complaint(workdir)


@pytest.mark.parametrize("name", ["config.json", "tasks.json", "r5_matrix.npy"])
def test_every_missing_file_is_named(make_run: MakeRun, name: str) -> None:
    workdir = make_run()
    (workdir / name).unlink()
    assert f"damaged at {name}" in complaint(workdir)


def test_a_matrix_of_another_stream_is_named_with_its_shape(make_run: MakeRun) -> None:
    workdir = make_run(seeds=3)
    np.save(workdir / "r1_matrix.npy", np.zeros((3, 4, 5)))
    assert "r1_matrix.npy: its shape is (3, 4, 5) instead of (seeds, 6, 5)" in complaint(workdir)


def test_matrices_with_different_numbers_of_seeds_are_refused(make_run: MakeRun) -> None:
    workdir = make_run(seeds=3)
    np.save(workdir / "matrices" / "map.npy", np.zeros((2, 6, 5)))
    assert "matrices/map.npy: its shape is (2, 6, 5)" in complaint(workdir)


def test_matrices_without_seeds_are_refused(make_run: MakeRun) -> None:
    workdir = make_run()
    for path in workdir.rglob("*.npy"):
        np.save(path, np.zeros((0, 6, 5)))
    assert "(0, 6, 5) instead of (seeds, 6, 5)" in complaint(workdir)


def test_a_pickled_matrix_is_not_opened(make_run: MakeRun) -> None:
    workdir = make_run()
    np.save(workdir / "r1_matrix.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
    assert "damaged at r1_matrix.npy" in complaint(workdir)


def test_a_summary_without_a_quantity_is_refused(make_run: MakeRun) -> None:
    workdir = make_run()
    summary = json.loads((workdir / "summary.json").read_text())
    del summary["bwt_a"]
    (workdir / "summary.json").write_text(json.dumps(summary))
    assert "bwt_a is missing" in complaint(workdir)


@pytest.mark.parametrize("change", [{"step": 9}, {"pair": ["vision"]}, {"name": None, "step": "3"}])
def test_a_task_that_makes_no_sense_is_refused(make_run: MakeRun, change: dict[str, object]) -> None:
    workdir = make_run()
    content = json.loads((workdir / "tasks.json").read_text())
    content["tasks"][1] |= change
    (workdir / "tasks.json").write_text(json.dumps(content))
    assert "damaged at tasks.json" in complaint(workdir)


def test_runs_of_different_streams_are_not_compared(make_run: MakeRun) -> None:
    one, other = make_run("vanilla"), make_run("dns")
    content = json.loads((other / "tasks.json").read_text())
    content["steps"][1] = "2 birds text–audio"
    (other / "tasks.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="2 birds text–audio"):
        comparable([load_run(one), load_run(other)])


def test_no_run_is_an_error() -> None:
    with pytest.raises(RunError, match="no run to report"):
        comparable([])


def test_runs_of_one_method_are_told_apart_by_their_folder(make_run: MakeRun) -> None:
    folders = [make_run("dns", folder="a"), make_run("dns", folder="b"), make_run("vanilla")]
    assert list(labels([load_run(folder) for folder in folders])) == [
        f"dns ({folders[0]})",
        f"dns ({folders[1]})",
        "vanilla",
    ]
