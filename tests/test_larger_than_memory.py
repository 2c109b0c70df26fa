import json
from pathlib import Path

import pytest

from benchmarks.larger_than_memory import main


def test_the_benchmark_trains_from_disk_and_cleans_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = {"rows": 3000, "width": 8, "shard_rows": 1000, "compare": 1500, "repeats": 1, "interval": 0.05}
    given = [f"--{name}={value}" for name, value in {**flags, "disk": tmp_path, "out": tmp_path / "out"}.items()]
    assert main(given) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    results = json.loads((tmp_path / "out" / "larger_than_memory.json").read_text())
    assert results["megabytes"] == pytest.approx(3000 * 2 * 8 * 4 / 2**20)
    assert "Resident memory of an epoch on 3,000 rows" in capsys.readouterr().out
    for method in ("vanilla", "dns"):
        assert 0 < results["memory"][method]["before"] <= results["memory"][method]["peak"]
        assert results["speed"][method]["times_slower"] > 0
    assert (tmp_path / "out" / "larger_than_memory.png").stat().st_size > 1000
