"""Which processes there are, from /proc."""

import time
from pathlib import Path


def children(pid: int) -> set[int]:
    """Those that a process has now, and theirs."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found |= {int(child) for child in path.read_text().split()}
        except OSError:
            continue
    return found | {below for child in found for below in children(child)}


def alive(pid: int) -> bool:
    """Whether it runs; one that is dead but that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for_end(pids: set[int], seconds: float = 10) -> set[int]:
    """Those that still run after so many seconds."""
    stop = time.monotonic() + seconds
    while (left := {pid for pid in pids if alive(pid)}) and time.monotonic() < stop:
        time.sleep(0.02)
    return left
