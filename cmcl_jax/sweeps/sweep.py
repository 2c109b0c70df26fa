"""A sweep: takes runs that nobody has, trains them as few programs, writes what came out, until nothing is left."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import pyarrow as pa
from ml_collections import ConfigDict

from cmcl_jax.runs import RunAxis
from cmcl_jax.sweeps import chunks
from cmcl_jax.sweeps.grid import expand
from cmcl_jax.sweeps.hosts import Process
from cmcl_jax.sweeps.programs import Group, Member, groups
from cmcl_jax.sweeps.progress import SweepProgress
from cmcl_jax.sweeps.resident import Features, Streams
from cmcl_jax.sweeps.results import Results, write_table
from cmcl_jax.sweeps.training import local_mesh, train_chunk
from feature_cache.errors import UserError

POLL = 0.5  # seconds between looks at what other processes are at


def sweep(
    config: ConfigDict,
    workdir: str | Path,
    progress: SweepProgress | None = None,
    process: Process | None = None,
    chunk: int | None = None,
    memory: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> pa.Table:
    """Trains all runs of a grid that the folder does not have yet.

    Args:
        config: with a grid, see `expand`.
        workdir: the sweep's folder, which docs/sweeps.md describes.
        progress: shows where it is.
        process: which of the processes that share the sweep this is.
        chunk: runs per device in one go; None: see `chunk_size`.
        memory: bytes on a device; None: a share of what it has.
        devices: of this process; None: all.

    Returns:
        The table of all runs, in the order of the grid.

    Raises:
        UserError: if config, caches and workdir do not fit each other, or the budget is too small for one run.
    """
    process, progress = process or Process(), progress or SweepProgress.silent()
    runs = expand(config)
    mesh = local_mesh(devices)
    axis = RunAxis.default(config.runs_at_once, mesh)
    room = memory or chunks.memory_of(mesh.devices.flat[0])
    streams = Streams(Features(mesh, int(chunks.FEATURES * room)))
    with jax.enable_x64(config.dtype == "float64"):
        found = groups(runs, streams)
        dtype = jnp.dtype(config.dtype)
        sizes = {
            program: chunk or chunks.choose(list(of_program), axis, process.count, room, dtype)
            for program, of_program in itertools.groupby(sorted(found, key=_program), key=_program)
        }
        results = Results(Path(workdir))
        progress.start(found, results, sizes)
        _train(found, sizes, axis, results, progress, process)
    first = runs[0].config.copy_and_resolve_references()
    first.stream.order_seed = None
    about = {**json.loads(config.to_json()), "caches": found[0].stream.checksums}
    about["synthetic"] = any(group.stream.synthetic for group in found)
    return write_table(results, found, streams.of(first), about)


def _program(group: Group) -> int:
    return group.program


def _train(
    found: Sequence[Group],
    sizes: dict[int, int],
    axis: RunAxis,
    results: Results,
    progress: SweepProgress,
    process: Process,
) -> None:
    assert axis.mesh is not None
    about = {"device": axis.mesh.devices.flat[0].device_kind, "devices": axis.mesh.size, "jax": jax.__version__}
    while any(member.id not in results for group in found for member in group.members):
        with _next(found, sizes, axis.mesh.size, results, process) as (group, members):
            if members:
                size = sizes[group.program]
                trained = train_chunk(group, members, size * axis.mesh.size, axis)
                results.save(trained, {**about, "chunk_size": size, "process": process.index})
        if not members:
            time.sleep(POLL)
            results.refresh()
        progress.update(results)


@contextmanager
def _next(
    found: Sequence[Group], sizes: dict[int, int], devices: int, results: Results, process: Process
) -> Iterator[tuple[Group, list[Member]]]:
    """The next runs for this process, all of one group; none if others have all that is left.

    Each process begins at its own part of the grid, so that they rarely want the same runs.
    """
    for group in found:
        start = len(group.members) * process.index // process.count
        members = [*group.members[start:], *group.members[:start]]
        with results.claimed(members, sizes[group.program] * devices) as mine:
            if mine:
                yield group, mine
                return
    yield found[0], []


def check_flags(chunk: int | None, memory_gb: float | None) -> None:
    """Raises `UserError` unless both are positive or absent."""
    if chunk is not None and chunk < 1:
        raise UserError(f"--chunk must be at least 1, but it is {chunk}.")
    if memory_gb is not None and not memory_gb > 0:
        raise UserError(f"--memory-gb must be greater than 0, but it is {memory_gb}.")
