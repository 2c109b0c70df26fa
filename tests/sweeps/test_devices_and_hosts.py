"""What a run computes does not depend on the number of devices or processes that share the sweep."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ml_collections import ConfigDict

from cmcl_jax.sweeps import expand, sweep
from cmcl_jax.sweeps.hosts import Process, join
from cmcl_jax.sweeps.programs import groups
from cmcl_jax.sweeps.resident import Features, Streams
from cmcl_jax.sweeps.results import Results
from cmcl_jax.sweeps.training import local_mesh
from feature_cache.errors import UserError
from tests.sweeps.conftest import TINY

OF_THE_MACHINE = ("chunk", "seconds")


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_same_bits(folder: Path, other: Path) -> None:
    a, b = (pq.read_table(place / "sweep.parquet").drop(OF_THE_MACHINE) for place in (folder, other))
    assert a == b
    names = sorted(path.name for path in (folder / "matrices").glob("*.npy"))
    assert "r10.npy" in names
    for name in names:
        one, two = (np.load(place / "matrices" / name) for place in (folder, other))
        np.testing.assert_array_equal(one, two)


def train_on_devices(cache_dir: Path, out: Path, at_once: int) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    process = start("-m", "tests.sweeps.on_devices", str(cache_dir), str(out), str(at_once), XLA_FLAGS=flags)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "(8, 3)" in output, "the example with pmap"
    assert pq.read_table(out / "1" / "sweep.parquet").num_rows == 10


def test_one_two_and_eight_devices_give_the_same_bits(tiny_caches: Path, tmp_path: Path) -> None:
    train_on_devices(tiny_caches, tmp_path, at_once=1)
    for count in ("2", "8"):
        assert_same_bits(tmp_path / "1", tmp_path / count)


@pytest.mark.slow
def test_side_by_side_two_and_eight_devices_give_the_same_bits_and_one_the_same_numbers(
    tiny_caches: Path, tmp_path: Path
) -> None:
    """XLA makes another program of a module for one device than of one that it partitions."""
    train_on_devices(tiny_caches, tmp_path, at_once=2)
    assert_same_bits(tmp_path / "2", tmp_path / "8")
    for name in ("r10", "accuracy"):
        one, two = (np.load(tmp_path / count / "matrices" / f"{name}.npy") for count in "12")
        np.testing.assert_allclose(one, two, atol=1e-8)
    losses = [pq.read_table(tmp_path / count / "sweep.parquet").column("final_loss").to_pylist() for count in "12"]
    np.testing.assert_allclose(*losses, atol=1e-8)


def test_two_processes_share_a_sweep_and_give_the_bits_of_one(
    tiny_caches: Path, swept: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["run.py", "sweep", f"--config={TINY}", f"--config.cache_dir={tiny_caches}", "--config.dtype=float64"]
    flags += [f"--workdir={tmp_path}", "--chunk=3", f"--coordinator=127.0.0.1:{port}", "--num-processes=2"]
    both = [start(*flags, f"--process-id={index}") for index in (0, 1)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert_same_bits(swept[0], tmp_path)
    by = {int(about["process"]) for about in Results(tmp_path).chunks()}
    assert by == {0, 1}, "both have trained"


@pytest.mark.slow
def test_what_a_killed_process_was_at_is_trained_by_the_next(
    tiny_caches: Path, tiny_sweep: ConfigDict, swept: tuple[Path, pa.Table], tmp_path: Path
) -> None:
    flags = ["run.py", "sweep", f"--config={TINY}", f"--config.cache_dir={tiny_caches}", "--config.dtype=float64"]
    process = start(*flags, f"--workdir={tmp_path}", "--chunk=3")
    while not list(tmp_path.glob("chunks/*.npz")) and process.poll() is None:
        time.sleep(0.01)
    while not list(tmp_path.glob("claims/*.lock")) and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert list(tmp_path.glob("claims/*.lock")), "it had claimed runs"
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("chunks/*.npz")}
    assert 1 <= len(written) < 6
    sweep(tiny_sweep, tmp_path, chunk=3)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("chunks/*.npz")}.items() >= written.items()
    assert_same_bits(swept[0], tmp_path)


def test_runs_that_a_living_process_has_are_left_to_it(tiny_sweep: ConfigDict, tmp_path: Path) -> None:
    [group, *_] = groups_of(tiny_sweep)
    mine, others = Results(tmp_path), Results(tmp_path)
    with mine.claimed(group.members, most=3) as first, others.claimed(group.members, most=3) as second:
        assert [member.id for member in first] == [member.id for member in group.members[:3]]
        assert [member.id for member in second] == [member.id for member in group.members[3:4]]
    with others.claimed(group.members, most=9) as all_of_them:
        assert len(all_of_them) == 4


def groups_of(config: ConfigDict) -> list:
    return groups(expand(config), Streams(Features(local_mesh(), 10**9)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("127.0.0.1:1", 2, None), "all of --coordinator, --num-processes and --process-id"),
        (("127.0.0.1:1", 2, 2), "--process-id must be from 0 to 1, but it is 2"),
        ((None, 2, 0, True), "--distributed reads coordinator and processes from the environment"),
    ],
)
def test_processes_that_cannot_be_are_refused(flags: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        join(*flags)
    assert join() == Process(0, 1)
