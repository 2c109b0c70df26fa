"""A run: through the stream step by step, with evaluation and a checkpoint after each."""

from __future__ import annotations

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
from cmcl_jax.measuring import Matrices, TestTasks, finite_runs, initial_heads
from cmcl_jax.methods import method_from_config
from cmcl_jax.methods.base import Learner
from cmcl_jax.metrics.transfer import HEADLINES
from cmcl_jax.open_stream import open_stream
from cmcl_jax.progress import Progress
from cmcl_jax.runs import RunAxis
from cmcl_jax.stability_record import record_for
from cmcl_jax.stream import Step, Stream
from cmcl_jax.workdir import Workdir
from feature_cache.errors import UserError


def run(config: ConfigDict, workdir: str | Path, progress: Progress | None = None) -> dict[str, Any]:
    """Trains one method through one stream, with `config.seeds` seeds side by side.

    Writes the folder that docs/architecture.md describes. A run that was killed continues after its last finished step
    and ends with the same bits; one that is finished is only read.

    Args:
        config: see configs/defaults.py.
        workdir: the run's folder.
        progress: shows where the run is.

    Returns:
        The content of `summary.json`.

    Raises:
        CacheError, StreamError, UnknownNameError, ConfigError, RunError: if config, caches and workdir do not fit each
          other, or the workdir is damaged or in use.
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
        self.dtype = jnp.dtype(config.dtype)
        method = method_from_config(config)
        self.stream: Stream = open_stream(
            config.stream.steps, config.cache_dir, config.encoder, config.stream.row_limit, config.stream.order_seed
        )
        self.learner: Learner = method.learner(self.stream, self.dtype, RunAxis.default(config.runs_at_once))
        seeds = range(config.first_seed, config.first_seed + config.seeds)
        self.keys: PRNGKeyArray = jax.vmap(jax.random.key)(jnp.asarray(seeds))
        self.record = record_for(folder, self.stream, self.learner, config)
        self.test = TestTasks(self.stream, config.evaluation.split, config.evaluation.credit, self.dtype)

    def finish(self) -> dict[str, Any]:
        """Runs what is left of the stream and writes the results."""
        state = self._start()
        with Checkpoints(self.folder.checkpoints, keep=self.config.checkpoints_kept) as checkpoints:
            done, state = checkpoints.restore_latest(state)
            log = self.folder.open_log(done)
            self.progress.start(self.config, done)
            if done == 0:
                log.write(event="start", step=0, **_row(state["matrices"], 0))
            for step in self.stream.steps[done:]:
                started, before = time.perf_counter(), state["heads"]
                state, losses = self._learn(state, step)
                event = {"event": "step", "step": step.number, "name": step.name, "losses": losses.tolist()}
                event["seconds"] = round(time.perf_counter() - started, 3)
                log.write(**event, **_row(state["matrices"], step.number))
                if self.record is not None:
                    log.write(**self.record.after_step(step, before, state["heads"]))
                checkpoints.save(step.number, state)
                self.progress.step_done(step, losses)
        return self.folder.write_results(
            state["matrices"], self.stream, self.config, self.test.chance(), self.learner.stepwise
        )

    def _start(self) -> dict[str, Any]:
        """The state before the first step, measured zero-shot."""
        heads = initial_heads(self.stream, self.keys, self.dtype, self.config.head.hidden)
        matrices = self.test.measure(heads, {}, 0, trained=heads)
        return {"heads": heads, "memory": self.learner.start(heads), "matrices": matrices}

    def _learn(self, state: dict[str, Any], step: Step) -> tuple[dict[str, Any], Float[np.ndarray, "seeds epochs"]]:
        heads, memory, on_device = self.learner.learn(
            state["heads"], state["memory"], step, self.keys, self.progress.on_epoch(step)
        )
        losses = np.asarray(on_device)
        jax.effects_barrier()  # no epoch is reported after its step
        if not finite_runs(losses, heads).all():
            raise DivergedError(
                f"Training diverged in step {step.name}: its losses are {losses.mean(axis=0)}. Lower "
                f"config.training.learning_rate (now {self.config.training.learning_rate}) or raise "
                f"config.training.temperature (now {self.config.training.temperature})."
            )
        trained = step.modalities if self.learner.stepwise else tuple(heads)
        matrices = self.test.measure(heads, state["matrices"], step.number, trained)
        return {"heads": heads, "memory": memory, "matrices": matrices}, losses


def _row(matrices: Matrices, time_index: int) -> dict[str, list[float | None]]:
    """The headline metrics of every task at one time, means over seeds; None is not this task's metric."""
    rows = {name: matrices[name][:, time_index].mean(axis=0) for name in HEADLINES if name in matrices}
    return {name: [None if np.isnan(value) else round(float(value), 3) for value in row] for name, row in rows.items()}
