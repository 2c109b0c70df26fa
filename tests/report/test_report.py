"""The whole report of finished runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cmcl_jax.report import RunError, write_report

MakeRun = Callable[..., Path]
FILES = {"report.md", "accuracy_and_recall.png", "tasks.png"}


def test_report_writes_the_table_and_both_figures(make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report"
    report = write_report([make_run("vanilla", 3.0), make_run("dns", 0.5)], out)
    assert {path.name for path in out.iterdir()} == {path.name for path in report.files} == FILES
    page = (out / "report.md").read_text(encoding="utf-8")
    assert page.startswith("# 5 steps on pocketbind, 3 seeds\n")
    assert report.table.markdown() in page
    assert [row.label for row in report.table.rows] == ["zero-shot", "vanilla", "dns"]
    assert all(f"]({name})" in page for name in FILES - {"report.md"})


def test_the_same_runs_give_the_same_bytes(make_run: MakeRun, tmp_path: Path) -> None:
    workdirs = [make_run("vanilla"), make_run("dns", 0.5)]
    for out in ("one", "two"):
        write_report(workdirs, tmp_path / out)
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in FILES)


def test_synthetic_runs_say_so_in_the_heading_and_in_every_table(make_run: MakeRun, tmp_path: Path) -> None:
    report = write_report([make_run(synthetic=True)], tmp_path / "out")
    heading, *lines = (tmp_path / "out" / "report.md").read_text(encoding="utf-8").splitlines()
    assert "(synthetic data)" in heading and "(synthetic data)" in report.table.title
    corners = [line.split("|")[1].strip() for line in lines if line.startswith("| method")]
    assert corners == ["method (synthetic data)"] * 2


def test_a_broken_run_leaves_no_half_report(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="absent"):
        write_report([make_run(), tmp_path / "absent"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
