"""The folder of a sweep: what is finished, chunk by chunk, and all of it as one table."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cmcl_jax.stream import Stream
from cmcl_jax.sweeps.programs import Group, Member
from cmcl_jax.sweeps.training import Trained
from cmcl_jax.workdir import RunError, npy
from feature_cache import lock
from feature_cache.atomic import remove_temporaries, write_atomically

TABLE = "sweep.parquet"
PROVENANCE = (
    *("id", "chunk", "program", "method", "seed", "order_seed", "encoder", "split", "final_loss", "diverged_at"),
    *("seconds", "chunk_size", "device"),
)
"""Columns of every table besides the swept fields and the scores."""


class Results:
    """What is finished in a sweep's folder. Other processes may write there, too.

    Runs are known by what their numbers depend on, so that a larger or another grid finds those that it shares with
    an earlier one. Chunks are files of their own that appear whole or not at all.

    Args:
        folder: the sweep's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._chunks: dict[str, dict[str, Any]] = {}
        self._place: dict[str, tuple[str, int]] = {}
        for part in ("chunks", "claims"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        remove_temporaries(folder / "chunks")
        self.refresh()

    def refresh(self) -> None:
        """Reads what was finished meanwhile.

        Raises:
            RunError: if a file is damaged.
        """
        for path in sorted((self.folder / "chunks").glob("*.npz")):
            if path.stem not in self._chunks:
                self._chunks[path.stem] = content = _read(path)
                for row, run in enumerate(content["id"]):
                    self._place.setdefault(str(run), (path.stem, row))

    def __contains__(self, run: str) -> bool:
        return run in self._place

    def save(self, trained: Trained, about: Mapping[str, Any]) -> None:
        """Writes a chunk.

        Args:
            trained: its runs.
            about: what else to know of it, such as the kind of device; JSON.
        """
        arrays: dict[str, Any] = {
            "id": np.array(trained.ids),
            "learned_at": trained.learned_at,
            "losses": trained.losses,
            "diverged_at": trained.diverged_at,
            "about": np.array(json.dumps({**about, "seconds": trained.seconds})),
            **{f"matrix/{name}": matrix for name, matrix in trained.matrices.items()},
            **{f"score/{name}": scores for name, scores in trained.scores.items()},
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(self.folder / "chunks" / f"{trained.ids[0]}-{len(trained.ids)}.npz", buffer.getvalue())
        self.refresh()

    @contextmanager
    def claimed(self, members: Sequence[Member], most: int) -> Iterator[list[Member]]:
        """Up to `most` of these runs that are neither finished nor in the hands of another living process."""
        with ExitStack() as claims:
            mine: list[Member] = []
            for member in members:
                if len(mine) < most and member.id not in self:
                    path = self.folder / "claims" / f"{member.id}.lock"
                    if claims.enter_context(lock.held_if_free(path)):
                        mine.append(member)
            self.refresh()  # what was finished between the two looks is not claimed any more
            yield [member for member in mine if member.id not in self]

    def chunks(self) -> list[dict[str, Any]]:
        """What is known of each finished chunk: the process, the device and so on."""
        return [content["about"] for content in self._chunks.values()]

    def of(self, run: str) -> dict[str, Any]:
        """A finished run's entries: `score`s by name, `matrix` by quantity, `learned_at`, `about` and so on."""
        name, row = self._place[run]
        content = self._chunks[name]
        found: dict[str, Any] = {"chunk": name, "about": content["about"], "score": {}, "matrix": {}}
        for key, values in content.items():
            kind, _, what = key.partition("/")
            if what:
                found[kind][what] = values[row]
            elif key != "about":
                found[key] = values[row]
        return found


def write_table(results: Results, groups: Sequence[Group], listed: Stream, config: Mapping[str, Any]) -> pa.Table:
    """Writes `sweep.parquet`, the matrices, `tasks.json` and `config.json` of all runs of a grid; returns the table.

    Args:
        results: in which all runs are finished.
        groups: of the grid.
        listed: the stream with its steps as they are listed.
        config: what config.json is to hold.
    """
    members = [(group.program, member) for group in groups for member in group.members]
    found = {member.id: results.of(member.id) for _, member in members}
    chunks = {name: i for i, name in enumerate(dict.fromkeys(entry["chunk"] for entry in found.values()))}
    fields = list(dict.fromkeys(field for _, member in members for field in member.run.settings if field != "method"))
    rows = [_row(program, member, found[member.id], chunks, fields) for program, member in members]
    table = pa.table({name: _column([row[name] for row in rows]) for name in rows[0]})
    folder = results.folder
    (folder / "matrices").mkdir(exist_ok=True)
    for name in dict.fromkeys(name for entry in found.values() for name in entry["matrix"]):
        matrix = np.stack([found[member.id]["matrix"][name] for _, member in members])
        write_atomically(folder / "matrices" / f"{name}.npy", npy(matrix))
    learned_at = np.stack([found[member.id]["learned_at"] for _, member in members])
    write_atomically(folder / "matrices" / "learned_at.npy", npy(learned_at))
    tasks = {"steps": [step.name for step in listed.steps], "tasks": [asdict(task) for task in listed.tasks]}
    write_atomically(folder / "tasks.json", json.dumps(tasks, indent=2, ensure_ascii=False).encode())
    write_atomically(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False).encode())
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomically(folder / TABLE, buffer.getvalue())  # last: a folder with it has everything
    return table


def read_table(folder: Path) -> pa.Table:
    """The table of a sweep that `write_table` has written.

    Raises:
        RunError: if it is not there or damaged.
    """
    try:
        return pq.read_table(folder / TABLE)
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(
            f"--workdir={folder}: {TABLE} cannot be read ({error}). Give the command of the sweep again: what is "
            "finished is not trained again."
        ) from error


def _row(
    program: int, member: Member, entry: Mapping[str, Any], chunks: Mapping[str, int], fields: Sequence[str]
) -> dict[str, Any]:
    run, about = member.run, entry["about"]
    return {
        "id": member.id,
        "chunk": chunks[entry["chunk"]],
        "program": program,
        "method": run.method,
        "seed": run.seed,
        "order_seed": run.config.stream.order_seed,
        **{field: run.settings.get(field) for field in fields if field not in ("stream.order_seed", "encoder")},
        "encoder": run.config.encoder,
        "split": run.config.evaluation.split,
        **{name: None if np.isnan(score) else float(score) for name, score in entry["score"].items()},
        "final_loss": float(entry["losses"][-1, -1]),
        "diverged_at": int(entry["diverged_at"]) or None,
        "seconds": float(about["seconds"]),
        "chunk_size": int(about["chunk_size"]),
        "device": str(about["device"]),
    }


def _column(values: Sequence[Any]) -> pa.Array:
    """Numbers, texts and truth values as such; anything else, such as tuples, as it is written in Python."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        values = [None if value is None else float(value) for value in values]
    elif not (len(kinds) <= 1 and kinds <= {int, float, str, bool}):
        values = [None if value is None else repr(value) for value in values]
    return pa.array(values, None if kinds else pa.float64())


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            found = {name: content[name] for name in content.files}
        return {**found, "about": json.loads(str(found["about"]))}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{path} is damaged ({error}). Delete it and give the same command again: its runs are trained again."
        ) from error
