"""A run that dies and is started again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from cmcl_jax.checkpoint import Checkpoints
from cmcl_jax.continual import run


def run_that_dies(
    config: ConfigDict, workdir: Path, monkeypatch: pytest.MonkeyPatch, deaths: Sequence[tuple[int, bool]]
) -> dict[str, Any]:
    """The summary of a run that died at some checkpoints and went on each time.

    Args:
        config, workdir: see `run`.
        monkeypatch: makes it die.
        deaths: at which checkpoints, by the epochs of all steps that are done, and whether it was still written.
    """
    save = Checkpoints.save
    for number, is_written in deaths:

        def dying(
            self: Checkpoints, epochs_done: int, *state: object, number: int = number, is_written: bool = is_written
        ) -> None:
            if epochs_done != number or is_written:
                save(self, epochs_done, *state)
            if epochs_done == number:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Checkpoints, "save", dying)
            run(config, workdir)
    return run(config, workdir)


def run_that_dies_once(config: ConfigDict, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The summary of a run that died after the checkpoint of its second step and went on from there."""
    return run_that_dies(config, workdir, monkeypatch, [(2 * config.training.epochs, True)])
