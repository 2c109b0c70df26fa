"""The run axis: how a function of one run is applied to several, on one device or on a mesh of them.

A *run* is one method with one set of hyperparameters and one seed. Arrays of several runs have a leading run axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

RUNS = "runs"
"""Name of the mesh axis over which runs are spread."""


@dataclass(frozen=True)
class RunAxis:
    """How runs share a device, and which devices there are.

    On a CPU runs take turns: one run's matrices stay in its caches, batched products are no faster than the same ones
    in a row, and what a program in turns computes of a run does not depend on how many there are, to the bit.
    Accelerators want them side by side. Runs on different devices do not talk to each other.

    Attributes:
        at_once: how many runs of a device train side by side; None: all of them. With 1 they take turns.
        mesh: devices over whose axis "runs" they are spread; the number of runs is then a multiple of its size. None:
          the default device.
    """

    at_once: int | None = None
    mesh: Mesh | None = None

    @classmethod
    def default(cls, at_once: int | None = None, mesh: Mesh | None = None) -> RunAxis:
        """Of this machine: taking turns on CPUs, side by side on accelerators, unless `at_once` says otherwise."""
        return cls(1 if at_once is None and jax.default_backend() == "cpu" else at_once, mesh)

    def side_by_side(self, runs: int) -> int:
        """How many of so many runs a device trains at the same time.

        >>> RunAxis(at_once=1).side_by_side(10), RunAxis().side_by_side(10)
        (1, 10)
        """
        of_device = runs // (1 if self.mesh is None else self.mesh.size)
        return of_device if self.at_once is None else min(self.at_once, of_device)

    def map(self, f: Callable[..., Any], in_axes: PyTree = 0) -> Callable[..., Any]:
        """`f`, written for one run, for all of them; every output gets a run axis.

        Args:
            f: a function of arrays.
            in_axes: per argument 0 or None, whether it has a run axis; a tree of them where only parts of it have.
        """

        def of_all(*args: Any) -> Any:
            per_run, merge = _split(args, in_axes)
            return self._on_device(lambda leaves: f(*merge(leaves)), per_run)

        return of_all if self.mesh is None else self.on_mesh(of_all, in_axes)

    def on_mesh(self, f: Callable[..., Any], in_axes: PyTree = 0, out_axes: PyTree = 0) -> Callable[..., Any]:
        """`f`, written for all runs of one device, for those of all devices of the mesh.

        No device talks to another, whatever is in `f`, which is not so where XLA spreads a program itself. To be called
        in a jitted function.

        Args:
            f: a function of arrays.
            in_axes: see `map`.
            out_axes: the same of the outputs; what has no run axis is the same on all devices.
        """

        def of_mesh(*args: Any) -> Any:
            in_specs = jax.tree.map(lambda axis: P() if axis < 0 else P(RUNS), _spread(in_axes, args))
            out_specs = jax.tree.map(lambda axis: P() if axis is None else P(RUNS), out_axes, is_leaf=_is_none)
            return jax.shard_map(f, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)(*args)

        return of_mesh

    def _on_device(self, f: Callable[[list[Any]], Any], per_run: list[Any]) -> Any:
        runs = len(per_run[0])
        if self.at_once == 1:
            return jax.lax.map(f, per_run)
        if self.at_once is None or self.at_once >= runs:
            return jax.vmap(f)(per_run)
        return jax.lax.map(f, per_run, batch_size=self.at_once)


def side_by_side(f: Callable[..., Any], in_axes: tuple[PyTree, ...], out_axes: PyTree = 0) -> Callable[..., Any]:
    """`jax.vmap`, but a single run goes without the axis: XLA's batched products on CPUs take four times as long.

    Args:
        f: a function of one run.
        in_axes: of its arguments, 0 or None or trees of them; one of the arguments has a run axis.
        out_axes: the same of its outputs.
    """

    def of_all(*args: Any) -> Any:
        per_run, merge = _split(args, in_axes)
        if len(per_run[0]) > 1:
            return jax.vmap(f, in_axes, out_axes)(*args)
        with_axis = lambda axis, part: jax.tree.map(lambda x: x if axis is None else jnp.asarray(x)[None], part)  # noqa: E731
        return jax.tree.map(with_axis, out_axes, f(*merge([leaf[0] for leaf in per_run])), is_leaf=_is_none)

    return of_all


def _spread(in_axes: PyTree, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A tree like the arguments, with 0 where a leaf has a run axis and -1 where it has none."""
    prefix = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
    fill = lambda axis, part: jax.tree.map(lambda _: -1 if axis is None else axis, part)  # noqa: E731
    spread: tuple[Any, ...] = jax.tree.map(fill, prefix, args, is_leaf=_is_none)
    return spread


def _is_none(axis: Any) -> bool:
    return axis is None


def _split(args: tuple[Any, ...], in_axes: PyTree) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The leaves with a run axis, and what puts those of one run back among the others."""
    leaves, structure = jax.tree.flatten(args)
    mapped = [axis == 0 for axis in jax.tree.leaves(_spread(in_axes, args))]

    def merge(of_run: list[Any]) -> Any:
        given = iter(of_run)
        return jax.tree.unflatten(
            structure, [next(given) if own else leaf for own, leaf in zip(mapped, leaves, strict=True)]
        )

    return [leaf for own, leaf in zip(mapped, leaves, strict=True) if own], merge


def with_run_axis(tree: PyTree, runs: int, dtype: Any) -> PyTree:
    """Every leaf that is a number repeated for so many runs; a leaf that has a run axis already as it is.

    Raises:
        ValueError: for a leaf with an axis of another length.

    >>> with_run_axis({"rate": 0.5, "threshold": jnp.array([0.0, 1.0])}, runs=2, dtype=jnp.float32)["rate"]
    Array([0.5, 0.5], dtype=float32)
    """

    def of_runs(leaf: Any) -> Array:
        if jnp.shape(leaf) not in ((), (runs,)):
            raise ValueError(
                f"A method has a hyperparameter of shape {jnp.shape(leaf)}, but trains {runs} runs. Give one number "
                f"for all of them, or ({runs},) numbers."
            )
        return jnp.broadcast_to(jnp.asarray(leaf, dtype), (runs,))

    return jax.tree.map(of_runs, tree)
