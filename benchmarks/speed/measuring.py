"""Times that can be compared: interleaved repeats, the median of paired ratios, fresh processes, peaks of memory."""

import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def interleaved(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every side, `repeats` times, in turns: what slows the machine down for a while slows down all.

    Each side is run once before, for compilation and caches. A side must block until its result is there.
    """
    for run in sides.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats):
        names = list(sides)[:: -1 if repeat % 2 else 1]
        for name in names:
            seconds[name].append(seconds_of(sides[name]))
    return seconds


def seconds_of(run: Callable[[], Any]) -> float:
    """How long one call takes, the garbage collected before."""
    gc.collect()
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median of the ratios of runs that followed each other.

    >>> median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0])
    2.0
    """
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def in_fresh_process(module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """What `python -m module arguments --out=FILE` writes as JSON, run alone; so its peak of memory is its own.

    Limits on the number of threads are not passed on: every side may use all cores.

    Raises:
        RuntimeError: with the end of its output, if it fails.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, "-m", module, *arguments, f"--out={out}"]
        done = subprocess.run(
            command, env={**inherited, **(environment or {})}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0 or not out.is_file():
            raise RuntimeError(f"`{' '.join(command)}` ended with code {done.returncode}:\n{done.stderr[-2000:]}")
        return json.loads(out.read_text())


def peak_memory() -> float:
    """The largest resident set of this process so far, in MB.

    From /proc where it is there: `ru_maxrss` of a fresh process begins with that of the process which started it.
    """
    found = _status("VmHWM")
    if found is not None:
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def resident_memory() -> float:
    """The resident set of this process now, in MB; its peak so far where the system does not say."""
    found = _status("VmRSS")
    return peak_memory() if found is None else found


def _status(field: str) -> float | None:
    path = Path("/proc/self/status")
    for line in path.read_text().splitlines() if path.is_file() else ():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    return None
