"""Extraction killed at any moment goes on as if nothing had been, with the command line as users have it."""

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from tests.feature_cache.conftest import Tiny
from tests.feature_cache.processes import children, wait_for_end
from tests.feature_cache.tiny import SHARDS, TONES, command

KILLS = 20


def finished(cache: Path) -> set[str]:
    """Tones of the shards that count as finished."""
    stems = {path.stem for path in cache.glob("*.parquet")} if cache.exists() else set()
    return {str(tone) for stem in stems for tone in SHARDS[stem]}


@pytest.mark.slow
def test_extraction_killed_at_random_moments_ends_with_the_same_bits_and_no_orphans(
    tiny: Tiny, subprocess_environment: dict[str, str]
) -> None:
    tiny.extract()
    whole = tiny.files()
    environment = {**subprocess_environment, "TINY_SECONDS": "0.02"}
    flags = tiny.flags("--workers=1")

    def start() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(command(flags), env=environment, stderr=subprocess.DEVNULL)

    shutil.rmtree(tiny.cache)
    begin = time.monotonic()
    assert start().wait() == 0
    duration = time.monotonic() - begin
    assert tiny.files() == whole

    rng = np.random.default_rng(4)
    kills, interrupted, orphans = 0, 0, set[int]()
    shutil.rmtree(tiny.cache)
    tiny.embedded("audio")
    while kills < KILLS:
        done = finished(tiny.cache)
        # Moments over the whole run, more of them after the start-up, which is the longest part here.
        moment = duration * (rng.uniform(0, 1) if kills % 4 == 0 else rng.uniform(0.4, 1))
        with start() as process:
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                kills += 1
                orphans |= children(process.pid)
                interrupted += 0 < len(finished(tiny.cache)) < len(TONES)
                process.kill()
        assert not set(tiny.embedded("audio")) & done
        if process.returncode == 0:
            assert tiny.files() == whole
            shutil.rmtree(tiny.cache)
        assert process.returncode in (0, -9)
    assert start().wait() == 0
    assert tiny.files() == whole
    assert not wait_for_end(orphans)
    assert orphans
    assert interrupted >= 3
