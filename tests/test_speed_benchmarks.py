"""What the benchmarks of speed compare does the same work; and their helpers. No time is tested."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speed import all as all_benchmarks
from benchmarks.speed import evaluation_side
from benchmarks.speed.cache_reading import readers, write
from benchmarks.speed.measuring import in_fresh_process, interleaved, median_ratio, peak_memory, resident_memory
from benchmarks.speed.results import PAGE, Table, filled_in, publish


def test_all_evaluations_find_the_same_recalls() -> None:
    a, b = evaluation_side.rows_of(200, 16)
    found = {name: side(a, b)() for name, side in evaluation_side.SIDES.items()}
    assert 0 < found["numpy"][0] < found["numpy"][2] < 100
    for values in found.values():
        np.testing.assert_allclose(values, found["numpy"], atol=1e-4)


def test_sorting_sides_agree_on_galleries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_side, "GALLERY_SIZE", 50)
    a, b = evaluation_side.rows_of(200, 16)
    by_numpy, by_torch = (evaluation_side.SIDES[side](a, b)() for side in ("numpy", "torch"))
    np.testing.assert_allclose(by_numpy, by_torch, atol=1e-6)
    assert by_numpy[3] > by_numpy[0]  # smaller galleries are easier


def test_all_readers_read_the_same_rows(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = write(folder, rows=10, width=4, shard_size=4)
    rows = {name: read() for name, read in readers(folder, cache).items() if "load" in name or name == "features"}
    assert len(rows) == 5 and rows["features"].shape == (10, 4)
    for read in rows.values():
        np.testing.assert_array_equal(np.asarray(read), rows["features"])


def test_sides_take_turns_and_run_once_before() -> None:
    calls: list[str] = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2)
    assert calls == ["a", "b", "a", "b", "b", "a"]
    assert [len(times) for times in seconds.values()] == [2, 2]
    assert median_ratio([1.0, 9.0, 4.0], [1.0, 3.0, 2.0]) == 2


def test_memory_is_that_of_this_process() -> None:
    before = peak_memory()
    assert before >= resident_memory() > 10
    held = np.ones(30_000_000)
    assert peak_memory() > resident_memory() - 1 >= held.nbytes / 1e6


def test_a_process_that_fails_is_an_error_with_its_output() -> None:
    with pytest.raises(RuntimeError, match="No module named") as error:
        in_fresh_process("benchmarks.speed.no_such_module", [])
    assert sys.executable in str(error.value)


def test_results_are_written_with_where_they_come_from(tmp_path: Path) -> None:
    publish("name", "the command", [Table("title", ("side", "s"), [("ours", "1")])], {"value": 1}, tmp_path)
    page = (tmp_path / "name.md").read_text()
    assert "| ours | 1 |" in page and "`the command`" in page and "cores of" in page
    assert '"command": "the command"' in (tmp_path / "name.json").read_text()


def test_a_page_without_a_place_for_the_results_is_an_error() -> None:
    with pytest.raises(ValueError, match="no place <!-- a -->"):
        filled_in("<!-- b --><!-- end of b -->", "a", "new")


def test_the_page_has_a_place_for_every_benchmark() -> None:
    page = PAGE.read_text()
    for name in (*all_benchmarks.PLAN, "full_run_small"):
        assert filled_in(page, name, "new") != page
