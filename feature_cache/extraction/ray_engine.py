"""Shards made by the actors of a Ray cluster, all of which see the cache's folder and the media."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from feature_cache.errors import UserError
from feature_cache.extraction.decode_pool import MOST_WORKERS
from feature_cache.extraction.embedding import Features
from feature_cache.extraction.options import Options
from feature_cache.extraction.ray_actor import CLASSES, Recipe, ShardMaker, unpacked_classes
from feature_cache.extraction.shard_tasks import ShardTask
from feature_cache.manifest import Manifest
from feature_cache.writer import CacheWriter

CPUS_PER_ACTOR = 2
"""Where there are no GPUs, and nobody says how many actors there should be: one embeds, one decodes."""


class Resources(NamedTuple):
    """What the cluster gives: actors, CPUs and GPUs of each, and processes that decode for each."""

    actors: int
    cpus: float
    gpus: int
    workers: int


class RayEngine:
    """An `Engine` on Ray Data. Each actor loads the encoder once and makes whole shards as `LocalEngine` does.

    A shard whose actor dies is made again by another. Connects to the cluster that there is (RAY_ADDRESS, or one that
    was started on this machine), and else starts one on this machine.

    Args:
        recipe: what the actors need.
        actors: how many; None = one per GPU, without GPUs one per `CPUS_PER_ACTOR`.
        workers: how many processes decode for each actor; None = what CPUs there are.

    Raises `UserError` if Ray is not installed, or has no GPU where one is asked for.
    """

    def __init__(self, recipe: Recipe, actors: int | None = None, workers: int | None = None) -> None:
        self._recipe = recipe
        self._ray = _start_ray()
        self._actors = actors
        self._workers = workers
        self._classes: Features | None = None

    def make(
        self, writer: CacheWriter, tasks: Sequence[ShardTask], options: Options, advance: Callable[[int], None]
    ) -> None:
        # The class texts with the shards: otherwise an actor would have to load the encoder for them again.
        numbers = [*([CLASSES] if writer.manifest.label_sets else []), *(task.number for task in tasks)]
        self._run(writer.manifest, writer.folder, numbers, options, advance)

    def embed_classes(self, manifest: Manifest, options: Options) -> Features:
        if self._classes is None:
            self._run(manifest, None, [CLASSES], options, lambda count: None)
        assert self._classes is not None
        return self._classes

    def _run(
        self,
        manifest: Manifest,
        folder: Path | None,
        numbers: Sequence[int],
        options: Options,
        advance: Callable[[int], None],
    ) -> None:
        data, resources = self._ray.data, self._resources
        rows = data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
        where = None if folder is None else folder.absolute()
        made = rows.map_batches(
            ShardMaker,
            fn_constructor_args=(self._recipe, manifest, where, options, resources.workers),
            batch_size=1,
            compute=data.ActorPoolStrategy(size=min(resources.actors, len(numbers))),
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
        )
        for row in made.iter_rows():
            if row["error"] is not None:
                raise self._ray.cloudpickle.loads(row["error"])
            if row["number"] == CLASSES:
                self._classes = unpacked_classes(row["classes"])
            advance(row["items"])

    @cached_property
    def _resources(self) -> Resources:
        return share_out(self._ray.cluster_resources(), self._recipe.device, self._actors, self._workers)


def share_out(there: Mapping[str, float], device: str, actors: int | None, workers: int | None) -> Resources:
    """How to use what is there: "CPU" and "GPU" of all machines together. Raises `UserError` as `RayEngine`."""
    cpus, gpus = int(there.get("CPU", 1)), int(there.get("GPU", 0))
    if device == "cuda" and not gpus:
        raise UserError("--device=cuda needs a GPU, but the Ray cluster has none; --device=auto does without.")
    on_gpu = bool(gpus) and device != "cpu"
    actors = actors or (gpus if on_gpu else max(cpus // CPUS_PER_ACTOR, 1))
    if on_gpu and actors > gpus:
        raise UserError(f"--actors={actors}: each needs a GPU, but the Ray cluster has {gpus}. Ask for fewer.")
    if workers is None:
        workers = min(max(cpus // actors - 1, 0), MOST_WORKERS)
    # One CPU must stay free for the reading tasks of Ray Data, or nothing ever begins.
    return Resources(actors, min(1.0, max(cpus - 1, 0.5) / actors), int(on_gpu), workers)


def _start_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.cloudpickle
        import ray.data
    except ImportError as error:
        raise UserError(f"--engine=ray needs Ray ({error}). To get it, run `pip install 'cmcl-jax[ray]'`.") from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    _quieten(ray)
    return ray


def _quieten(ray: Any) -> None:
    """The progress bar is ours."""
    import logging

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
