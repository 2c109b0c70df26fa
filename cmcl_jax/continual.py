"""A run: through the stream step by step, with evaluation and a checkpoint after each."""

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
from cmcl_jax.evaluate import evaluate_task
from cmcl_jax.heads import Heads, init_heads
from cmcl_jax.methods import method_from_config
from cmcl_jax.methods.base import Learner
from cmcl_jax.metrics.chance import chance_levels
from cmcl_jax.metrics.transfer import HEADLINES
from cmcl_jax.open_stream import open_stream
from cmcl_jax.progress import Progress
from cmcl_jax.runs import RunAxis
from cmcl_jax.stability_record import record_for
from cmcl_jax.stream import Step, Stream
from cmcl_jax.workdir import Workdir
from feature_cache.errors import UserError

Matrices = dict[str, Float[np.ndarray, "seeds times tasks"]]
GALLERY_SEED = 0


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
        self.test = [self.stream.test_features(t, config.evaluation.split, self.dtype) for t in self.stream.tasks]

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
            state["matrices"], self.stream, self.config, self._chance(), self.learner.stepwise
        )

    def _start(self) -> dict[str, Any]:
        """The state before the first step, measured zero-shot."""
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 0))(self.keys)  # the steps fold in 1, 2, …
        init = functools.partial(
            init_heads, widths=self.stream.widths, dtype=self.dtype, hidden=self.config.head.hidden
        )
        heads = jax.vmap(init)(keys)
        return {
            "heads": heads,
            "memory": self.learner.start(heads),
            "matrices": self._measure(heads, {}, 0, set(heads)),
        }

    def _learn(self, state: dict[str, Any], step: Step) -> tuple[dict[str, Any], Float[np.ndarray, "seeds epochs"]]:
        heads, memory, on_device = self.learner.learn(
            state["heads"], state["memory"], step, self.keys, self.progress.on_epoch(step)
        )
        losses = np.asarray(on_device)
        jax.effects_barrier()  # no epoch is reported after its step
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((losses, heads))):
            raise DivergedError(
                f"Training diverged in step {step.name}: its losses are {losses.mean(axis=0)}. Lower "
                f"config.training.learning_rate (now {self.config.training.learning_rate}) or raise "
                f"config.training.temperature (now {self.config.training.temperature})."
            )
        trained = set(step.modalities) if self.learner.stepwise else set(heads)
        matrices = self._measure(heads, state["matrices"], step.number, trained)
        return {"heads": heads, "memory": memory, "matrices": matrices}, losses

    def _chance(self) -> list[dict[str, float]]:
        """What random scores would reach on every test task."""
        return [
            chance_levels(
                task.metrics,
                np.asarray(features.groups),
                {name: len(label_set.class_features) for name, label_set in features.label_sets.items()},
                self.config.evaluation.credit,
            )
            for task, features in zip(self.stream.tasks, self.test, strict=True)
        ]

    def _measure(self, heads: Heads, matrices: Matrices, time_index: int, trained: set[str]) -> Matrices:
        """The matrices with row `time_index` filled in: every test task, whatever was trained so far.

        Tasks without a head that was trained since the row before have the values of that row: they are copied.
        """
        shape = (self.config.seeds, len(self.stream.steps) + 1, len(self.stream.tasks))
        measured = {name: _with_row_before(matrix, time_index) for name, matrix in matrices.items()}
        for column, (task, features) in enumerate(zip(self.stream.tasks, self.test, strict=True)):
            if trained.isdisjoint(task.pair):
                continue
            values = evaluate_task(
                heads, task, features, jax.random.key(GALLERY_SEED), credit=self.config.evaluation.credit
            )
            for name, value in values.items():
                matrix = measured.setdefault(name, np.full(shape, np.nan, np.float32))
                matrix[:, time_index, column] = value
        return measured


def _row(matrices: Matrices, time_index: int) -> dict[str, list[float | None]]:
    """The headline metrics of every task at one time, means over seeds; None is not this task's metric."""
    rows = {name: matrices[name][:, time_index].mean(axis=0) for name in HEADLINES if name in matrices}
    return {name: [None if np.isnan(value) else round(float(value), 3) for value in row] for name, row in rows.items()}


def _with_row_before(matrix: np.ndarray, row: int) -> np.ndarray:
    """A copy in which a row starts as the one before it."""
    matrix = np.array(matrix)
    matrix[:, row] = matrix[:, row - 1]
    return matrix
