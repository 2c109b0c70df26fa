"""Processes that share a sweep.

They need nothing of each other but the folder: each takes runs that nobody has, and writes what came out. There are no
collectives, so that a slow or dead process holds nobody up; the kernel drops the claims of the dead, and others take
their runs. `jax.distributed` says who is who, where a cluster starts the processes. Where the file system has no locks,
each begins with its own part of the grid, and a run that two have trained is written twice, with the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax

from feature_cache.errors import UserError


@dataclass(frozen=True)
class Process:
    """One of the processes of a sweep.

    Attributes:
        index: 0 writes the report.
        count: of all.
    """

    index: int = 0
    count: int = 1


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    from_environment: bool = False,
) -> Process:
    """Joins the other processes through `jax.distributed`; must come before any computation.

    Args:
        coordinator: `host:port` of process 0. None: this process needs no others.
        num_processes, process_id: how many there are, and which this is.
        from_environment: all three are what SLURM, MPI or a TPU pod say.

    Raises:
        UserError: if some are given, but not all.
    """
    given = (coordinator, num_processes, process_id)
    if from_environment:
        if any(value is not None for value in given):
            raise UserError("--distributed reads coordinator and processes from the environment: give no others.")
        jax.distributed.initialize()
        return Process(jax.process_index(), jax.process_count())
    if all(value is None for value in given):
        return Process()
    if coordinator is None or num_processes is None or process_id is None:
        raise UserError("Processes need all of --coordinator, --num-processes and --process-id, or none of them.")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process-id must be from 0 to {num_processes - 1}, but it is {process_id}.")
    jax.distributed.initialize(coordinator, num_processes, process_id)
    return Process(process_id, num_processes)
