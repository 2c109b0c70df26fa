"""Checkpoints after every step of the stream; the only file that imports orbax."""

from __future__ import annotations

from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from feature_cache.errors import UserError


class Checkpoints:
    """The checkpoints of one run, numbered by the steps that are done. A context manager."""

    def __init__(self, folder: Path, keep: int) -> None:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._folder = folder
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self._manager.close()

    def save(self, steps_done: int, state: PyTree) -> None:
        """Writes the state of the run after so many steps, whole or not at all."""
        self._manager.save(steps_done, args=ocp.args.StandardSave(state))

    def restore_latest(self, like: PyTree) -> tuple[int, PyTree]:
        """The number of steps done and the state after them; 0 and `like` itself without a checkpoint.

        Raises:
            UserError: if the checkpoint is damaged; says which folder to delete.
        """
        latest = self._manager.latest_step()
        if latest is None:
            return 0, like
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            return latest, self._manager.restore(latest, args=ocp.args.StandardRestore(abstract))
        except (ValueError, KeyError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"The checkpoint {self._folder / str(latest)} cannot be read ({reason}). Delete that folder to go on "
                "from the checkpoint before it, or from the start if there is none."
            ) from error
