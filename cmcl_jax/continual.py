"""A run: through the stream step by step, with evaluation and a checkpoint after each, and checkpoints in long ones."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray
from ml_collections import ConfigDict

from cmcl_jax.checkpoint import Checkpoints
from cmcl_jax.config import check_config
from cmcl_jax.heads import Heads
from cmcl_jax.measuring import Matrices, TestTasks, finite_runs, initial_heads
from cmcl_jax.methods import method_from_config
from cmcl_jax.methods.base import InPieces, InStep, Learner
from cmcl_jax.metrics.transfer import HEADLINES
from cmcl_jax.open_stream import open_stream
from cmcl_jax.pieces import Pace, StepInPieces
from cmcl_jax.progress import Progress
from cmcl_jax.runs import RunAxis
from cmcl_jax.stability_record import record_for
from cmcl_jax.stream import Step, Stream
from cmcl_jax.workdir import Workdir, identity
from feature_cache.errors import UserError


def run(config: ConfigDict, workdir: str | Path, progress: Progress | None = None) -> dict[str, Any]:
    """Trains one method through one stream, with `config.seeds` seeds side by side.

    Writes the folder that docs/architecture.md describes. A run that was killed continues at its last checkpoint, which
    is inside a step if that was long, and ends with the same bits; one that is finished is only read.

    Args:
        config: see configs/defaults.py.
        workdir: the run's folder.
        progress: shows where the run is.

    Returns:
        The content of `summary.json`.

    Raises:
        CacheError, StreamError, UnknownNameError, ConfigError, RunError: if config, caches and workdir do not fit each
          other, or the workdir is damaged or in use.
        CheckpointError: if a checkpoint cannot be written or read, or is not this run's.
        DivergedError: if a loss or a head is not finite.
    """
    check_config(config)
    folder = Workdir(Path(workdir))
    with jax.enable_x64(config.dtype == "float64"):
        prepared = _Run(config, folder, progress or Progress.silent())
        with folder.locked():
            folder.claim(config, prepared.stream)
            return folder.summary() or prepared.finish()


class DivergedError(UserError):
    """A loss or a head became NaN or infinite."""


class _Run:
    """One run in progress: what is fixed about it, and `state`, which the checkpoints hold."""

    def __init__(self, config: ConfigDict, folder: Workdir, progress: Progress) -> None:
        self.config, self.folder, self.progress = config, folder, progress
        self.dtype, self.epochs = jnp.dtype(config.dtype), config.training.epochs
        method = method_from_config(config)
        self.stream: Stream = open_stream(
            config.stream.steps, config.cache_dir, config.encoder, config.stream.row_limit, config.stream.order_seed
        )
        axis = RunAxis.default(config.runs_at_once)
        self.learner: Learner = method.learner(self.stream, self.dtype, axis, config.feature_memory_mb)
        seeds = range(config.first_seed, config.first_seed + config.seeds)
        self.keys: PRNGKeyArray = jax.vmap(jax.random.key)(jnp.asarray(seeds))
        self.record = record_for(folder, self.stream, self.learner, config)
        self.test = TestTasks(self.stream, config.evaluation.split, config.evaluation.credit, self.dtype)

    def finish(self) -> dict[str, Any]:
        """Runs what is left of the stream and writes the results."""
        state, pace = self._start(), Pace(self.config.checkpoint_minutes, self.progress.is_shown)
        about = identity(self.config, self.stream)
        with Checkpoints(self.folder.checkpoints, self.config.checkpoints_kept, about) as checkpoints:
            trained, state = checkpoints.restore_latest(state)  # numbered by the epochs of all steps
            log = self.folder.open_log(*divmod(trained, self.epochs))
            self.progress.start(self.config, trained)
            if trained == 0:
                log.write(event="start", step=0, **_row(state["matrices"], 0))
            for step in self.stream.steps[trained // self.epochs :]:
                started, before = time.perf_counter(), state["heads"]
                state, losses = self._learn(state, step, self._in_pieces(state, step, checkpoints, trained, pace))
                event = {"event": "step", "step": step.number, "name": step.name, "losses": losses.tolist()}
                event["seconds"] = round(time.perf_counter() - started, 3)
                log.write(**event, **_row(state["matrices"], step.number))
                if self.record is not None:
                    log.write(**self.record.after_step(step, before, state["heads"]))
                checkpoints.save(step.number * self.epochs, state)
                pace.saved()
                self.progress.step_done(step, losses)
        return self.folder.write_results(
            state["matrices"], self.stream, self.config, self.test.chance(), self.learner.stepwise
        )

    def _start(self) -> dict[str, Any]:
        """The state before the first step, measured zero-shot."""
        heads = initial_heads(self.stream, self.keys, self.dtype, self.config.head.hidden)
        matrices = self.test.measure(heads, {}, 0, trained=heads)
        return {"heads": heads, "memory": self.learner.start(heads), "matrices": matrices}

    def _in_pieces(
        self, state: dict[str, Any], step: Step, checkpoints: Checkpoints, trained: int, pace: Pace
    ) -> InPieces:
        """Trains a step, and saves inside it when the pace says so; goes on if the run was resumed inside it."""
        before = (step.number - 1) * self.epochs

        def save(done: int, in_step: InStep) -> None:
            self._check_finite(step, np.asarray(in_step.losses)[:, :done], in_step.trained)
            checkpoints.save(before + done, state, in_step)
            pace.saved()

        restore = functools.partial(checkpoints.restore_in_step, trained)
        tell = self.progress.trained if self.progress.is_shown else None
        return StepInPieces(pace, self.stream.rows(step), self.epochs, max(0, trained - before), restore, save, tell)

    def _learn(
        self, state: dict[str, Any], step: Step, in_pieces: InPieces
    ) -> tuple[dict[str, Any], Float[np.ndarray, "seeds epochs"]]:
        self.progress.step_starts(step)
        heads, memory, on_device = self.learner.learn(state["heads"], state["memory"], step, self.keys, in_pieces)
        losses = np.asarray(on_device)
        self._check_finite(step, losses, heads)
        trained = step.modalities if self.learner.stepwise else tuple(heads)
        matrices = self.test.measure(heads, state["matrices"], step.number, trained)
        return {"heads": heads, "memory": memory, "matrices": matrices}, losses

    def _check_finite(self, step: Step, losses: Float[np.ndarray, "seeds epochs"], heads: Heads) -> None:
        if not finite_runs(losses, heads).all():
            raise DivergedError(
                f"Training diverged in step {step.name}: its losses are {losses.mean(axis=0)}. Lower "
                f"config.training.learning_rate (now {self.config.training.learning_rate}) or raise "
                f"config.training.temperature (now {self.config.training.temperature})."
            )


def _row(matrices: Matrices, time_index: int) -> dict[str, list[float | None]]:
    """The headline metrics of every task at one time, means over seeds; None is not this task's metric."""
    rows = {name: matrices[name][:, time_index].mean(axis=0) for name in HEADLINES if name in matrices}
    return {name: [None if np.isnan(value) else round(float(value), 3) for value in row] for name, row in rows.items()}
