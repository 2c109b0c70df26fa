"""A run's folder: what is written there, whole or not at all, and how a run finds itself again."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cmcl_jax.config import ConfigError, differences, to_json
from cmcl_jax.metrics.transfer import summarize
from cmcl_jax.stream import Stream
from feature_cache.atomic import write_atomically

HEADLINES = ("accuracy", "r1", "r5", "r10")
PLACES = ("cache_dir",)  # fields of a config that say where things are, not what is computed


@dataclass(frozen=True)
class Workdir:
    """The folder of one run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def check_same(self, config: ConfigDict) -> None:
        """Checks that the folder is free or holds a run of this config.

        Raises:
          ConfigError: if it holds a run of another config; says which fields differ.
        """
        file = self.path / "config.json"
        if not file.exists():
            return
        old, new = json.loads(file.read_text()), json.loads(to_json(config))
        changed = [line for line in differences(old, new) if not line.startswith(PLACES)]
        if changed:
            raise ConfigError(
                f"--workdir={self.path} holds a run of another config ({'; '.join(changed)}). Choose another workdir, "
                "or delete this one to run again."
            )

    def claim(self, config: ConfigDict) -> None:
        """Makes the folder this config's, by `config.json`."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "config.json", to_json(config).encode())

    def summary(self) -> dict[str, Any] | None:
        """The content of `summary.json`, or None if the run is not finished."""
        file = self.path / "summary.json"
        return json.loads(file.read_text()) if file.exists() else None

    def open_log(self, steps_done: int) -> EventLog:
        """The run's `metrics.jsonl`, with the events of the steps that are done."""
        return EventLog(self.path / "metrics.jsonl", steps_done)

    def write_results(self, matrices: Mapping[str, np.ndarray], stream: Stream, config: ConfigDict) -> dict[str, Any]:
        """Writes matrices, tasks and, last, the summary, which it returns."""
        matrices = {**{name: np.full_like(next(iter(matrices.values())), np.nan) for name in HEADLINES}, **matrices}
        (self.path / "matrices").mkdir(exist_ok=True)
        for name, matrix in matrices.items():
            place = f"{name}_matrix.npy" if name in HEADLINES else f"matrices/{name}.npy"
            write_atomically(self.path / place, _npy(matrix))
        self._write_json("tasks.json", _tasks(stream))
        learned_at = np.array([step.number for step in stream.steps])
        summary = {
            "method": config.method,
            "encoder": config.encoder,
            "synthetic": stream.synthetic,
            **summarize({name: matrices[name] for name in HEADLINES}, learned_at),
        }
        self._write_json("summary.json", summary)
        return summary

    def _write_json(self, name: str, content: Any) -> None:
        write_atomically(self.path / name, json.dumps(content, indent=2, ensure_ascii=False).encode())


class EventLog:
    """One JSON object per line; a resumed run drops what came after its checkpoint."""

    def __init__(self, path: Path, steps_done: int) -> None:
        self._path = path
        lines = path.read_text().splitlines() if steps_done and path.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("}")]  # a killed writer leaves half a line
        kept = [event for event in events if event["step"] <= steps_done]
        write_atomically(path, "".join(json.dumps(event) + "\n" for event in kept).encode())
        if steps_done:
            self.write(event="resumed", step=steps_done)

    def write(self, **event: Any) -> None:
        """Appends one event; it must say after which `step` it is."""
        with self._path.open("a") as file:
            file.write(json.dumps(event) + "\n")


def _tasks(stream: Stream) -> dict[str, Any]:
    """What the axes of the matrices are."""
    return {
        "steps": [step.name for step in stream.steps],
        "tasks": [
            {
                "name": step.task,
                "step": step.number,
                "dataset": step.dataset,
                "pair": list(step.pair),
                "metrics": list(step.metrics),
            }
            for step in stream.steps
        ],
    }


def _npy(matrix: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, matrix, allow_pickle=False)
    return buffer.getvalue()
