"""Checkpoints of a run, written in the background; the only file that imports orbax."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from cmcl_jax.config import differences
from feature_cache.errors import UserError

FORMAT = 2
"""Of the trees in a checkpoint. Raise it when heads, memories or states change; the first one was not written down."""


class CheckpointError(UserError):
    """A checkpoint cannot be written, cannot be read, or is not this run's."""


class Checkpoints:
    """The checkpoints of one run, numbered by how far it is. A context manager; at its end all of them are on disk.

    A checkpoint is written whole or not at all. Its arrays may be donated or
    changed as soon as `save` returns; an error of that is raised by the next `save` or at the end.

    Args:
        folder: where they are.
        keep: how many; older ones are removed.
        run: what makes the run this one, as JSON would have it: written into each checkpoint, and compared.
    """

    def __init__(self, folder: Path, keep: int, run: Mapping[str, Any]) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
        self._folder, self._run = folder, json.loads(json.dumps(run))
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._writing():
            self._manager.close()

    def save(self, number: int, state: PyTree, in_step: PyTree | None = None) -> None:
        """Begins to write the state of the run, and where the training of a step is, if it is inside one.

        Raises:
            CheckpointError: if this checkpoint or the one before it cannot be written; says why.
        """
        trees = {"state": state} if in_step is None else {"state": state, "in_step": in_step}
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        about = ocp.args.JsonSave({"format": FORMAT, "run": self._run})
        with self._writing():
            self._manager.save(number, args=ocp.args.Composite(about=about, **items))

    def wait(self) -> None:
        """Returns when everything is on disk; raises as `save`."""
        with self._writing():
            self._manager.wait_until_finished()

    def restore_latest(self, like: PyTree) -> tuple[int, PyTree]:
        """Number and state of the newest checkpoint; 0 and `like` itself without any.

        Args:
            like: a tree of the same structure and shapes. Every array goes to the devices where its like is, whatever
              devices it was saved from.

        Raises:
            CheckpointError: if it is of another format or run, with the difference, or is damaged; says what to do.
        """
        self.wait()
        latest = self._manager.latest_step()
        if latest is None:
            return 0, like
        has_about = (self._folder / str(latest) / "about").exists()
        self._check(latest, self._read(latest, "about", ocp.args.JsonRestore()) if has_about else {})
        return latest, self._restore(latest, "state", like)

    def restore_in_step(self, number: int, like: PyTree) -> PyTree:
        """Where the training of a step was at a checkpoint inside it; `like` and errors as for `restore_latest`."""
        return self._restore(number, "in_step", like)

    def _restore(self, number: int, item: str, like: PyTree) -> PyTree:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return jax.tree.map(_committed_like, like, self._read(number, item, ocp.args.StandardRestore(abstract)))

    def _read(self, number: int, item: str, how: Any) -> Any:
        try:
            return self._manager.restore(number, args=ocp.args.Composite(**{item: how}))[item]
        except (ValueError, KeyError, OSError) as error:
            raise CheckpointError(
                f"The checkpoint {self._folder / str(number)} cannot be read ({_in_short(error)}). Delete that folder "
                "to go on from the checkpoint before it, or from the start if there is none."
            ) from error

    def _check(self, number: int, about: Mapping[str, Any]) -> None:
        """Refuses a checkpoint that another version or another run wrote."""
        place, version = self._folder / str(number), about.get("format")
        if version != FORMAT:
            found = "says no format: an earlier version wrote it" if version is None else f"is of format {version}"
            raise CheckpointError(
                f"The checkpoint {place} {found}, and this version of cmcl_jax reads format {FORMAT}. Finish the run "
                f"with the version that began it, or delete {self._folder} to train from the start."
            )
        changed = list(differences(about["run"], self._run))
        if changed:
            raise CheckpointError(
                f"The checkpoint {place} is of another run ({'; '.join(changed)}). Go on with that run's config, or "
                f"delete {self._folder} to train from the start."
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:
            raise CheckpointError(
                f"A checkpoint cannot be written to {self._folder} ({_in_short(error)}). Make room there or mend what "
                "this names, and give the same command again: the run goes on from the checkpoint before."
            ) from error


def _committed_like(like: Any, restored: Any) -> Any:
    """An array that may go to any device if its like may, as a mesh that takes the one would not take another."""
    if not isinstance(like, jax.Array) or like.committed:
        return restored
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        data = jnp.asarray(np.asarray(jax.random.key_data(restored)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(restored))
    return jnp.asarray(np.asarray(restored))


def _in_short(error: Exception) -> str:
    """Its beginning and its end: what it is about, and the system's reason."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:100]} … {text[-200:]}"


def _is_raised_as_well(record: logging.LogRecord) -> bool:
    return record.exc_info is not None and "orbax" in record.pathname


# What fails in the background is raised by the next call: a traceback on the terminal would tell nothing more.
logging.getLogger("absl").addFilter(lambda record: not _is_raised_as_well(record))
