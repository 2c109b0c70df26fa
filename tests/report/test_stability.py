"""The section on stability, in the reports of runs that recorded it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cmcl_jax.report import RunError, write_report
from tests.report.conftest import STEPS

MakeRun = Callable[..., Path]


def record(workdir: Path, deviation: float) -> Path:
    """Adds a record in which every earlier task deviates by `deviation`, under twice as high a bound."""
    head = {"parameters": 100, "rank_in": 3, "rank_out": [2, 4], "effective_rank": 2.5, "steps_left": [4.0, None]}
    steps = [
        {
            "step": number,
            "name": name,
            "first_order_decrease": [2.0, 4.0],
            "higher_order_ratio": [[1.0, 0.3, 0.1]] * 2,
            "tasks": {
                old: {"deviation": [deviation, deviation], "bound": [2 * deviation] * 2, "terms": [deviation] * 2}
                for old in STEPS[: number - 1]
            },
            "capacity": {"text": {**head, "free": [100 - 10 * number, 100 - 10 * number]}},
        }
        for number, name in enumerate(STEPS, start=1)
    ]
    (workdir / "stability.json").write_text(json.dumps({"steps": steps}))
    return workdir


def test_recorded_runs_get_a_section_and_a_figure(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [record(make_run("vanilla", 3.0), 0.25), record(make_run("dns", 0.5), 0.001)]
    report = write_report(runs, tmp_path / "out")
    assert (tmp_path / "out" / "stability.png").read_bytes().startswith(b"\x89PNG")
    assert tmp_path / "out" / "stability.png" in report.files
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| vanilla | 2.50e-01 | 5.00e-01 | 3 | 0.1 |" in page
    assert "| dns | 1.00e-03 | 2.00e-03 | 3 | 0.1 |" in page
    assert "| dns | text | 50.0 % | 3 | 3.0 | 2.5 | 4 to – |" in page


def test_a_run_without_a_record_is_left_out_and_alone_has_no_section(make_run: MakeRun, tmp_path: Path) -> None:
    plain = make_run("vanilla", 3.0)
    write_report([plain], tmp_path / "plain")
    assert not (tmp_path / "plain" / "stability.png").exists()
    assert "Stability and capacity" not in (tmp_path / "plain" / "report.md").read_text(encoding="utf-8")
    write_report([plain, record(make_run("dns", 0.5), 0.001)], tmp_path / "both")
    page = (tmp_path / "both" / "report.md").read_text(encoding="utf-8").split("## Stability and capacity")[1]
    assert "| dns | 1.00e-03" in page and "vanilla" not in page


def test_a_record_of_other_steps_is_damage(make_run: MakeRun, tmp_path: Path) -> None:
    workdir = record(make_run("dns", 0.5), 0.001)
    content = json.loads((workdir / "stability.json").read_text())
    content["steps"].pop()
    (workdir / "stability.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="damaged at stability.json: its steps are not those of the run"):
        write_report([workdir], tmp_path / "out")
