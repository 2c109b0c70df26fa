"""Checkpoints on their own: what comes back, from and to which devices, and what is refused."""

import functools
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmcl_jax.checkpoint import CheckpointError, Checkpoints
from tests import checkpoint_on_devices as on_devices

ROOT = Path(__file__).parents[1]
RUN = {"seeds": 2, "dns": {"rule": "energy", "widths": (3, 4)}}


@contextmanager
def opened(folder: Path, keep: int = 2, **changes: object) -> Iterator[Checkpoints]:
    with Checkpoints(folder, keep, {**RUN, **changes}) as checkpoints:
        yield checkpoints


def state_of(number: float) -> dict[str, object]:
    """What methods may carry: arrays of several dtypes, random keys, a buffer that is partly filled, numpy."""
    return {
        "heads": {"vision": {"kernel": jnp.full((2, 3), number), "bias": jnp.zeros(3, jnp.bfloat16)}},
        "memory": {"buffer": jnp.arange(4), "filled": jnp.array([True, False]), "key": jax.random.key(7), "none": None},
        "matrices": {"r1": np.full((2, 2), number + np.nan, np.float32)},
    }


def assert_same(found: object, expected: object) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (type(one), one.dtype) == (type(other), other.dtype)
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        assert getattr(one, "committed", None) == getattr(other, "committed", None)
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("wide", [False, True])
def test_everything_comes_back_with_its_dtype_and_bits(wide: bool, tmp_path: Path) -> None:
    with jax.enable_x64(wide):
        state, in_step = state_of(1.5), (jnp.arange(3.0), {"count": jnp.int32(2)})
        with opened(tmp_path) as checkpoints:
            checkpoints.save(3, state, in_step)
        like = jax.tree.map(lambda leaf: leaf, state_of(0.0))
        with opened(tmp_path) as checkpoints:
            number, found = checkpoints.restore_latest(like)
            assert_same(checkpoints.restore_in_step(number, jax.tree.map(jnp.zeros_like, in_step)), in_step)
    assert number == 3
    assert_same(found, state)
    assert found["heads"]["vision"]["kernel"].dtype == (jnp.float64 if wide else jnp.float32)


def test_without_a_checkpoint_the_start_is_what_was_given(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        start = state_of(0.0)
        number, found = checkpoints.restore_latest(start)
    assert number == 0 and found is start


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path, keep=3) as checkpoints:
        for number in (1, 5, 6, 9):
            checkpoints.save(number, {"x": jnp.full(2, number)})
        latest, found = checkpoints.restore_latest({"x": jnp.zeros(2, int)})
    assert latest == 9 and found["x"].tolist() == [9, 9]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "6", "9"]


def test_buffers_that_are_donated_or_changed_right_after_saving_are_saved_as_they_were(tmp_path: Path) -> None:
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    size = 1_000_000
    with opened(tmp_path) as checkpoints:
        for number in (1, 2):
            state = {"device": jnp.arange(size) + number, "host": np.arange(size) + number}
            checkpoints.save(number, state)
            state["host"][:] = -1
            for _ in range(3):
                state["device"] = overwrite(state["device"])
            state["device"].block_until_ready()
    with opened(tmp_path) as checkpoints:
        _, found = checkpoints.restore_latest(state)
    for leaf in found.values():
        np.testing.assert_array_equal(leaf, np.arange(size) + 2)


def test_what_a_killed_writer_left_is_cleared_and_not_read(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)})
    (tmp_path / "2.orbax-checkpoint-tmp" / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore_latest({"x": jnp.zeros(2)})[0] == 1
        checkpoints.save(2, {"x": jnp.ones(2)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.parametrize("raised_by", ["next save", "end"])
def test_a_failed_write_is_told_and_leaves_the_checkpoint_before(
    raised_by: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The operating system refuses files of more than so many bytes, as it would on a full disk."""
    state = {"x": jnp.asarray(np.random.default_rng(0).normal(size=100_000))}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    expected = f"cannot be written to {tmp_path} .*File too large.*goes on from"
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(CheckpointError, match=expected), opened(tmp_path) as checkpoints:
            checkpoints.save(2, state)
            if raised_by == "next save":
                checkpoints.save(3, state)
                pytest.fail("the error of the write before was not raised")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Traceback" not in capfd.readouterr().err
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore_latest(state)[0] == 1


def test_another_config_is_refused_with_the_difference(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        checkpoints.save(4, {"x": jnp.ones(2)})
    changes = {"seeds": 3, "dns": {"rule": "gap", "widths": [3, 4]}}
    expected = f"{tmp_path}/4 is of another run \\(dns.rule: 'energy' -> 'gap'; seeds: 2 -> 3\\)"
    with opened(tmp_path, **changes) as checkpoints, pytest.raises(CheckpointError, match=expected):
        checkpoints.restore_latest({"x": jnp.ones(2)})


@pytest.mark.parametrize(("version", "expected"), [(1, "is of format 1"), (99, "is of format 99"), (None, "no format")])
def test_another_format_is_refused_by_its_number(version: int | None, expected: str, tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        checkpoints.save(4, {"x": jnp.ones(2)})
    file = tmp_path / "4" / "about" / "metadata"
    if version is None:
        shutil.rmtree(file.parent)  # as the first format was
    else:
        file.write_text(json.dumps({**json.loads(file.read_text()), "format": version}))
    message = f"{tmp_path}/4 .*{expected}.*this version of cmcl_jax reads format 2. .* or delete {tmp_path} to train"
    with opened(tmp_path) as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.restore_latest({"x": jnp.ones(2)})


@functools.cache
def whole() -> np.ndarray:
    return on_devices.kernels(on_devices.train(on_devices.begin(mesh=None), (0, on_devices.EPOCHS), mesh=None))


@pytest.mark.slow
def test_a_step_goes_on_with_the_same_bits_on_another_number_of_devices(tmp_path: Path) -> None:
    """Begun on one device, continued on eight in another process, ended on one."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    flags["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # as in this process
    with jax.enable_x64(True):
        on_devices.save(tmp_path, 1, on_devices.train(on_devices.begin(mesh=None), (0, 1), mesh=None))
        script = [sys.executable, on_devices.__file__, str(tmp_path)]
        done = subprocess.run(script, env={**os.environ, **flags}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        number, in_step = on_devices.restore(tmp_path, on_devices.begin(mesh=None))
        assert number == 2 and not in_step.losses.committed
        ended = on_devices.train(in_step, (2, on_devices.EPOCHS), mesh=None)
        np.testing.assert_array_equal(on_devices.kernels(ended), whole())
