"""A run that dies between two steps and is started again."""

from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from cmcl_jax.checkpoint import Checkpoints
from cmcl_jax.continual import run


def run_that_dies_once(config: ConfigDict, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The summary of a run that died after the checkpoint of its second step and went on from there."""
    save = Checkpoints.save

    def dying(self: Checkpoints, steps_done: int, state: object) -> None:
        save(self, steps_done, state)
        if steps_done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        run(config, workdir)
    monkeypatch.undo()
    return run(config, workdir)
