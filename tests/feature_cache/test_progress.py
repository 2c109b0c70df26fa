"""How far an extraction is, in a log and on a terminal."""

import io

import pytest
from rich.console import Console

from feature_cache.commands import progress
from feature_cache.commands.progress import progress_of


def test_a_log_gets_a_line_a_minute_with_the_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0, 30.0, 61.0, 90.0, 130.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    log = io.StringIO()
    with progress_of("tones", Console(file=log)) as report:
        report(400, 1000, True)  # at 5 s, of an earlier run
        for count in (61, 122, 29, 100):
            report(count, 1000, False)
    # 183 in 61 s: 3 a second, so 417 take 139 s; then 312 in 130 s: 2.4 a second, so 288 take 120 s.
    assert log.getvalue().splitlines() == [
        "tones: 183 of 600 items, 3.0 items/s, 0:02:19 left",
        "tones: 312 of 600 items, 2.4 items/s, 0:02:00 left",
    ]


def test_a_terminal_gets_a_bar() -> None:
    terminal = io.StringIO()
    with progress_of("tones", Console(file=terminal, force_terminal=True, width=100)) as report:
        report(2, 10, True)
        report(8, 10, False)
    assert "8/8" in terminal.getvalue()
