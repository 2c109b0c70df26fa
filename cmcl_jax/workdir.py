"""A run's folder: what is written there, whole or not at all, and how a run finds itself again."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cmcl_jax.config import ConfigError, differences
from cmcl_jax.metrics.chance import summarize_chance
from cmcl_jax.metrics.transfer import HEADLINES, summarize
from cmcl_jax.stream import Stream
from feature_cache.atomic import write_atomically
from feature_cache.errors import UserError

NO_RESULT_DEPENDS_ON = ("cache_dir", "checkpoints_kept", "checkpoint_minutes")


class RunError(UserError):
    """A run's folder is missing, unfinished, damaged, in use, or not what it is needed for."""


@dataclass(frozen=True)
class Workdir:
    """The folder of one run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder and holds it: no second process may write to it meanwhile.

        Raises:
            RunError: if another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunError(
                    f"--workdir={self.path} is in use: another process is training there. Wait for it, or choose "
                    "another workdir."
                ) from error
            yield

    def claim(self, config: ConfigDict, stream: Stream) -> None:
        """Makes the folder this run's, by `config.json`: the config, and of which caches it was computed.

        Raises:
            ConfigError: if it already holds something computed from another config or other caches; says what differs.
        """
        new = {**json.loads(config.to_json()), "caches": stream.checksums}
        if (self.path / "summary.json").exists() or any(self.checkpoints.glob("*")):
            changed = list(differences(_comparable(read_json(self.path, "config.json")), _comparable(new)))
            if changed:
                raise ConfigError(
                    f"--workdir={self.path} holds a run of another config or of other features "
                    f"({'; '.join(changed)}). Choose another workdir, or delete this one to run again."
                )
        self._write_json("config.json", new)

    def summary(self) -> dict[str, Any] | None:
        """The content of `summary.json`, or None if the run is not finished."""
        return read_json(self.path, "summary.json") if (self.path / "summary.json").exists() else None

    def open_log(self, steps_done: int, epochs_done: int = 0) -> EventLog:
        """The run's `metrics.jsonl`, with the events of the steps that are done before some epochs of the next one."""
        return EventLog(self.path / "metrics.jsonl", steps_done, epochs_done)

    def write_results(
        self,
        matrices: Mapping[str, np.ndarray],
        stream: Stream,
        config: ConfigDict,
        chance: Sequence[Mapping[str, float]],
        stepwise: bool = True,
    ) -> dict[str, Any]:
        """Writes matrices, tasks and, last, the summary, which it returns.

        Args:
            matrices: every measured quantity, `[seed, t, task]`.
            stream, config: what they were measured on.
            chance: the `chance_levels` of every task.
            stepwise: see `summarize`.
        """
        matrices = {**{name: np.full_like(next(iter(matrices.values())), np.nan) for name in HEADLINES}, **matrices}
        (self.path / "matrices").mkdir(exist_ok=True)
        for name, matrix in matrices.items():
            place = f"{name}_matrix.npy" if name in HEADLINES else f"matrices/{name}.npy"
            write_atomically(self.path / place, npy(matrix))
        self._write_json("tasks.json", _tasks(stream))
        learned_at = np.array([task.step for task in stream.tasks])
        summary = {
            "method": config.method,
            "encoder": config.encoder,
            "synthetic": stream.synthetic,
            **summarize({name: matrices[name] for name in HEADLINES}, learned_at, stepwise),
            **summarize_chance(chance),
        }
        self._write_json("summary.json", summary)
        return summary

    def _write_json(self, name: str, content: Any) -> None:
        write_atomically(self.path / name, json.dumps(content, indent=2, ensure_ascii=False).encode())


class EventLog:
    """One JSON object per line; a resumed run drops what came after its checkpoint."""

    def __init__(self, path: Path, steps_done: int, epochs_done: int = 0) -> None:
        self._path = path
        resumed = bool(steps_done or epochs_done)
        lines = path.read_text().splitlines() if resumed and path.exists() else []
        kept = [event for event in map(_event, lines) if event.get("step", np.inf) <= steps_done]
        write_atomically(path, "".join(json.dumps(event) + "\n" for event in kept).encode())
        if resumed:
            self.write(event="resumed", step=steps_done, epochs=epochs_done)

    def write(self, **event: Any) -> None:
        """Appends one event; it must say after which `step` it is."""
        with self._path.open("a") as file:
            file.write(json.dumps(event) + "\n")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of a run's folder.

    Raises:
        RunError: if it cannot be read or holds something else.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(folder, name, f"it cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise damaged(folder, name, f"it holds a {type(content).__name__} instead of an object")
    return content


def damaged(folder: Path, name: str, what: str) -> RunError:
    """The error that says which file of a run is damaged, how, and what to do."""
    return RunError(
        f"The run {folder} is damaged at {name}: {' '.join(what.split())}. Delete the folder and train again: "
        f"`python run.py train --config=… --workdir={folder}`."
    )


def identity(config: ConfigDict, stream: Stream) -> dict[str, Any]:
    """What the results of a run depend on, as JSON: its config, and the checksums of its caches."""
    return _comparable({**json.loads(config.to_json()), "caches": stream.checksums})


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in config.items() if field not in NO_RESULT_DEPENDS_ON}


def _event(line: str) -> dict[str, Any]:
    """A line of the log; nothing for the half line that a killed writer leaves."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _tasks(stream: Stream) -> dict[str, Any]:
    """What the axes of the matrices are."""
    return {
        "steps": [step.name for step in stream.steps],
        "tasks": [dataclasses.asdict(task) for task in stream.tasks],
    }


def npy(matrix: np.ndarray) -> bytes:
    """The content of an `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, matrix, allow_pickle=False)
    return buffer.getvalue()
