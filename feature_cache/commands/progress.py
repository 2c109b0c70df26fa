"""How far an extraction is: a bar on a terminal, a line now and then in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

LINE_EVERY = 60.0
"""Seconds between two lines."""
Report: TypeAlias = Callable[[int, int, bool], None]
"""The `progress` of `extract`."""


@contextmanager
def progress_of(name: str, console: Console) -> Iterator[Report]:
    """Shows items, items/s and time left of the dataset `name`. Items done by an earlier run do not count."""
    if not console.is_terminal:
        yield _lines(name, console)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        yield _bar(name, bar)


def _bar(name: str, bar: Progress) -> Report:
    task = bar.add_task(name, total=None, rate="")
    earlier = 0

    def progress(count: int, total: int, reused: bool) -> None:
        nonlocal earlier
        earlier += count * reused
        bar.update(task, total=total - earlier, advance=0 if reused else count)
        speed = bar.tasks[task].speed
        bar.update(task, rate=f"{speed:.1f} items/s" if speed else "")

    return progress


def _lines(name: str, console: Console) -> Report:
    """A bar would be seen in a log when it is full, which may be after days."""
    start = said = time.monotonic()
    earlier = done = 0

    def progress(count: int, total: int, reused: bool) -> None:
        nonlocal said, earlier, done
        earlier, done = earlier + count * reused, done + count * (not reused)
        now = time.monotonic()
        if reused or now - said < LINE_EVERY:
            return
        said, rate = now, done / (now - start)
        left = timedelta(seconds=round((total - earlier - done) / rate))
        console.print(f"{name}: {done} of {total - earlier} items, {rate:.1f} items/s, {left} left", markup=False)

    return progress
