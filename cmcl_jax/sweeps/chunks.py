"""How many runs a device trains in one go, from what a run needs and what the device has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from cmcl_jax.feature_memory import device_memory, feature_memory
from cmcl_jax.measuring import initial_heads
from cmcl_jax.methods.base import Method, active_heads
from cmcl_jax.runs import RunAxis
from cmcl_jax.stream import Step, Stream
from cmcl_jax.sweeps.programs import Group
from feature_cache.errors import UserError

SHARE = 0.6
"""Of the memory that is there: the rest is for what no shape tells, such as the workspace of eigendecompositions."""

FEATURES = 0.5
"""Of a budget, what features may take that stay on the device between steps."""

TURNS = 1
"""Where runs take turns, more of them at a time are no faster, but padding costs, and so does what a stop loses."""

SIDE_BY_SIDE = 64
"""Side by side, more of them keep no accelerator busier, but other hosts wait for them, and a stop loses them."""

COPIES = 2
"""What a program gets and what it returns are there at the same time."""


def bytes_per_run(group: Group, dtype: Any) -> tuple[int, int]:
    """What one more run takes on a device, from the shapes alone.

    Returns:
        The bytes of all that a run keeps between updates: heads, memory, parameters under training, the method's
        state; and of the step's rows in the coordinates in which it trains, which only runs side by side have at once.
    """
    method, stream = group.members[0].method, group.stream
    hidden = group.members[0].run.config.head.hidden
    key = jax.eval_shape(lambda: jax.random.key(0)[None])
    heads = _of_one(jax.eval_shape(lambda key: initial_heads(stream, key, dtype, hidden), key))
    memory = jax.eval_shape(lambda heads: method.init(heads, stream.pairs), heads)
    kept = _bytes(heads) + _bytes(_per_run(memory, method))
    steps = {tuple(stream.widths[modality] for modality in step.modalities): step for step in stream.steps}
    in_step = [_bytes_in_step(method, stream, step, heads, memory, dtype) for step in steps.values()]
    return COPIES * (kept + max(state for state, _ in in_step)), max(rows for _, rows in in_step)


def _bytes_in_step(
    method: Method, stream: Stream, step: Step, heads: PyTree, memory: PyTree, dtype: Any
) -> tuple[int, int]:
    shape = lambda m: jax.ShapeDtypeStruct((stream.longest, stream.widths[m]), dtype)  # noqa: E731
    rows = {role: shape(modality) for role, modality in step.roles.items()}

    def enter(heads: PyTree, memory: PyTree, rows: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        state = method.before_step(memory, heads, step, jnp.asarray(1, jnp.int32))
        entered = method.enter_rows(state, rows)
        own = {role: of_role for role, of_role in entered.items() if of_role is not rows[role]}
        return state, method.enter(state, active_heads(heads, step)), own

    state, trained, own_rows = jax.eval_shape(enter, heads, memory, rows)
    return _bytes((state, trained)), _bytes(own_rows)


def memory_of(device: jax.Device) -> int:
    """Bytes that a sweep may use on a device: a share of its memory, or of its part of this machine's."""
    return int(SHARE * device_memory(device))


def largest_chunk(budget: int, shared: int, kept: int, rows: int, at_once: int | None) -> int:
    """The number of runs of a device that fit into the budget.

    Args:
        budget: bytes on one device.
        shared: bytes that all runs have together, such as features.
        kept, rows: see `bytes_per_run`.
        at_once: how many runs train side by side; None: all.

    Raises:
        UserError: if not even one fits.

    >>> largest_chunk(budget=1000, shared=400, kept=50, rows=50, at_once=None)
    6
    >>> largest_chunk(budget=1000, shared=400, kept=50, rows=50, at_once=1)
    11
    """
    left = budget - shared
    together = left // (kept + rows)
    fit = together if at_once is None or together < at_once else (left - at_once * rows) // kept
    if fit < 1:
        raise UserError(
            f"A run needs {(shared + kept + rows) / 1e9:.2f} GB on a device ({shared / 1e9:.2f} GB of it features), "
            f"but the budget is {budget / 1e9:.2f} GB. Raise --memory-gb, or lower config.stream.row_limit."
        )
    return int(fit)


def chunk_size(largest: int, runs: Sequence[int], workers: int, at_once: int | None) -> int:
    """The number of runs per device that all calls of a program have, so that it is compiled once.

    As many as fit, but no more than keep all devices busy, and as few calls of them as that allows.

    Args:
        largest: see `largest_chunk`.
        runs: of each group of the program, all of them, so that a sweep that goes on has the chunks it began with.
        workers: number of devices, of all processes together.
        at_once: how many runs train side by side; 1: they take turns.

    >>> chunk_size(largest=100, runs=[20], workers=8, at_once=None)
    3
    >>> chunk_size(largest=100, runs=[30], workers=1, at_once=1)
    1
    >>> chunk_size(largest=8, runs=[20], workers=1, at_once=None)
    7
    """
    limit = min(largest, TURNS if at_once == 1 else SIDE_BY_SIDE)
    most = -(-max(runs) // workers)
    calls = -(-most // limit)
    return -(-most // calls)


def choose(of_program: Sequence[Group], axis: RunAxis, processes: int, room: int, dtype: Any) -> int:
    """The chunk size of a program, given its groups.

    Args:
        of_program: the groups that share it.
        axis: how runs share a device, and the devices.
        processes: that share the sweep.
        room: bytes on a device.
        dtype: of everything.
    """
    assert axis.mesh is not None
    stream = of_program[0].stream
    of_a_step = max(stream.training_bytes(step, dtype) for step in stream.steps)
    allowed = feature_memory(of_program[0].members[0].run.config.feature_memory_mb)  # what is more comes from disk
    shared = min(stream.all_training_bytes(dtype), int(FEATURES * room)) + min(of_a_step, allowed)
    kept, rows = bytes_per_run(of_program[0], dtype)
    largest = largest_chunk(room, shared, kept, rows, axis.at_once)
    return chunk_size(largest, [len(group.members) for group in of_program], axis.mesh.size * processes, axis.at_once)


def _of_one(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)


def _per_run(memory: PyTree, method: Method) -> PyTree:
    """Those parts of the memory that each run has for itself."""
    return jax.tree.map(lambda own, part: part if own else (), method.memory_per_run, memory)


def _bytes(tree: PyTree) -> int:
    return sum(int(np.prod(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))
