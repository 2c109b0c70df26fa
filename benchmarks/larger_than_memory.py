"""Training from disk: memory over time, and speed beside training from memory.

    python -m benchmarks.larger_than_memory                    # 10 million rows: 5 GB of disk, removed afterwards
    python -m benchmarks.larger_than_memory --rows=200000 --out=/tmp/speed             # to try it

A cache of made-up float32 rows of two modalities is written by a process of its own. Vanilla and DNS each train one
epoch on it from disk, while a thread reads this process's resident memory every second: anonymous pages (arrays), and
pages of files (a shard while rows are copied out of it). What the system keeps in its page cache belongs to no process,
and is given up when memory is wanted. "peak remembering" is that after the epoch, of DNS's pass for its second moments;
vanilla has none.

An epoch sorts random numbers for its order, one per row, all at once: some 30 bytes a row at the peak, of which 4 stay.
"grows by" is the slope of a line through the samples in the second half of the epoch, in MB per million rows trained.
The rows themselves are 512 MB per million at width 64.

Then the first rows train from memory and from disk, in turns, one epoch each after one that compiles: "times slower" is
the median over pairs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.speed.measuring import interleaved, median_ratio
from benchmarks.speed.results import FOLDER, Table, publish
from cmcl_jax.feature_memory import MB, block_memory
from cmcl_jax.heads import Heads, init_heads
from cmcl_jax.methods import method_from_config
from cmcl_jax.methods.base import InStep, Learner, TrainEpochs
from cmcl_jax.runs import RunAxis
from cmcl_jax.stream import Step, Stream
from cmcl_jax.train_streamed import StreamedStepByStep
from configs.defaults import default_config
from feature_cache import CacheWriter, FeatureCache, Manifest, MediaSource, ModalitySpec, Rows, open_cache

NAME = "larger_than_memory"
MODALITIES = ("vision", "text")
METHODS = ("vanilla", "dns")
DATASET = "random"
COLORS = {"vanilla": "#4477aa", "dns": "#ee6677"}


class Sample(NamedTuple):
    """Resident memory of this process.

    Attributes:
        seconds: since the method began.
        anonymous, files: MB.
    """

    seconds: float
    anonymous: float
    files: float


def write(folder: Path, rows: int, width: int, shard_rows: int) -> None:
    """A cache of random rows in float32."""
    manifest = Manifest(
        encoder=DATASET,
        weights_sha256="0" * 64,
        preprocessing_version="1",
        dataset=DATASET,
        dataset_version="1",
        dtype="float32",
        synthetic=True,
        sources=(MediaSource("random numbers", "1", "MIT", "https://numpy.org"),),
        modalities={modality: ModalitySpec(dim=width) for modality in MODALITIES},
        classes=(),
    )
    writer = CacheWriter(folder, manifest)
    rng = np.random.default_rng(0)
    for index, start in enumerate(range(0, rows, shard_rows)):
        ids = [str(i) for i in range(start, min(start + shard_rows, rows))]
        shared = rng.standard_normal((len(ids), width), np.float32)
        features = {m: shared + rng.standard_normal((len(ids), width), np.float32) for m in MODALITIES}
        writer.write_shard("train", index, Rows(ids, [""] * len(ids), [-1] * len(ids)), features)
    writer.finish()


def resident() -> tuple[float, float]:
    """MB of anonymous pages and of pages of files, from `/proc/self/status`."""
    fields = (line.partition(":") for line in Path("/proc/self/status").read_text().splitlines())
    found = {name: int(value.split()[0]) / 1024 for name, _, value in fields if "Rss" in name}
    return found["RssAnon"], found["RssFile"]


@contextmanager
def sampled(interval: float) -> Iterator[list[Sample]]:
    """Samples of resident memory, at the start, every `interval` seconds, and at the end."""
    samples, done, started = list[Sample](), threading.Event(), time.perf_counter()

    def sample() -> None:
        samples.append(Sample(time.perf_counter() - started, *resident()))

    def keep_sampling() -> None:
        while not done.wait(interval):
            sample()

    thread = threading.Thread(target=keep_sampling, daemon=True)
    sample()
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
        sample()


class Setting:
    """One step on the cache, for one run of a method with the defaults."""

    def __init__(self, cache: FeatureCache, batch_size: int, row_limit: int | None = None) -> None:
        self.step = Step(1, DATASET, MODALITIES, ("recall",))
        self.stream = Stream((self.step,), {DATASET: cache}, row_limit)
        self.batch_size = batch_size
        self.keys = jax.random.key(0)[None]
        self.heads: Heads = jax.tree.map(lambda leaf: leaf[None], init_heads(self.keys[0], self.stream.widths))

    def too_little(self, megabytes: float) -> int:
        """So much memory in bytes, or so little that the rows do not fit."""
        return min(int(megabytes * MB), self.stream.training_bytes(self.step) - 1)

    def learner(self, method: str, memory: int) -> Learner:
        """One that may have so many bytes of features on the device."""
        config = default_config()
        config.method = method
        config.training.epochs, config.training.batch_size = 1, self.batch_size
        return StreamedStepByStep(method_from_config(config), self.stream, jnp.float32, RunAxis.default(), memory)

    def learn(self, learner: Learner, on_epoch: Callable[[], Any] = lambda: None) -> None:
        """One epoch, and what the method remembers of it."""

        def in_pieces(in_step: InStep, train: TrainEpochs) -> InStep:
            in_step = jax.block_until_ready(train(in_step, (0, 1)))
            on_epoch()
            return in_step

        learned = learner.learn(self.heads, learner.start(self.heads), self.step, self.keys, in_pieces)
        jax.block_until_ready(learned)
        assert np.isfinite(learned.losses).all()


def memory_curve(setting: Setting, method: str, memory: int, interval: float) -> dict[str, Any]:
    """An epoch from disk with its samples of memory."""
    ends = list[float]()
    started = time.perf_counter()
    with sampled(interval) as samples:
        setting.learn(setting.learner(method, memory), lambda: ends.append(time.perf_counter() - started))
    rows, epoch = setting.stream.rows(setting.step), ends[-1]
    half = [sample for sample in samples if epoch / 2 <= sample.seconds <= epoch]
    after = [sample for sample in samples if sample.seconds >= epoch]
    return {
        "samples": samples,
        "train_seconds": epoch,
        "remember_seconds": samples[-1].seconds - epoch,
        "before": samples[0].anonymous,
        "peak": max(sample.anonymous for sample in samples),
        "half": [fold(sample.anonymous for sample in half) for fold in (min, max)] if half else None,
        "remember_peak": max(sample.anonymous for sample in after),
        "files_peak": max(sample.files for sample in samples),
        "files_before": samples[0].files,
        "grows_by": _slope(half) * epoch / (rows / 1e6) if len(half) > 2 else None,
    }


def _slope(samples: Sequence[Sample]) -> float:
    """MB a second."""
    seconds, anonymous, _ = np.array(samples).T
    return float(np.polyfit(seconds, anonymous, 1)[0])


def speed(setting: Setting, method: str, memory: int, repeats: int) -> dict[str, Any]:
    """Seconds of an epoch from memory and from disk, in turns."""
    learners = {"memory": setting.learner(method, sys.maxsize), "disk": setting.learner(method, memory)}
    seconds = interleaved({side: partial(setting.learn, learner) for side, learner in learners.items()}, repeats)
    return {"seconds": seconds, "times_slower": median_ratio(seconds["disk"], seconds["memory"])}


def tables(results: dict[str, Any]) -> list[Table]:
    """Memory, and speed."""
    number = lambda value: "–" if value is None else f"{value:,.0f}"  # noqa: E731
    memory, speeds = [], []
    for method, found in results["memory"].items():
        half = "–" if found["half"] is None else " to ".join(map(number, found["half"]))
        grows = "–" if found["grows_by"] is None else f"{found['grows_by']:+.1f}"
        of_files = number(found["files_peak"] - found["files_before"])
        cells = (found["before"], found["peak"], found["remember_peak"])
        memory.append((method, *map(number, cells), half, grows, of_files, number(found["train_seconds"])))
    for method, found in results["speed"].items():
        disk, memory_side = (median(found["seconds"][side]) for side in ("disk", "memory"))
        rows = results["rows_compared"]
        speeds.append(
            (method, f"{memory_side:.2f}", f"{disk:.2f}", f"{found['times_slower']:.2f}", number(rows / disk))
        )
    title = f"Resident memory of an epoch on {results['rows']:,} rows, {results['megabytes']:,.0f} MB on disk (MB)"
    columns = ("", "before", "peak", "peak remembering", "second half", "grows by", "pages of files", "epoch, s")
    compared = f"An epoch on {results['rows_compared']:,} rows from memory and from disk"
    return [
        Table(title, columns, memory),
        Table(compared, ("", "memory, s", "disk, s", "times slower", "rows/s from disk"), speeds),
    ]


def draw(results: dict[str, Any], path: Path) -> None:
    """Resident memory over time."""
    with mpl.rc_context({"svg.hashsalt": NAME}):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.subplots()
        for method, found in results["memory"].items():
            seconds, anonymous, files = np.array(found["samples"]).T
            axes.plot(seconds, anonymous, color=COLORS[method], label=f"{method}, arrays")
            axes.plot(seconds, files, color=COLORS[method], linestyle=":", label=f"{method}, pages of files")
            axes.axvline(found["train_seconds"], color=COLORS[method], linewidth=0.5)
        axes.axhline(results["megabytes"], color="black", linewidth=0.8, linestyle="--", label="the rows")
        axes.set(xlabel="seconds", ylabel="resident, MB", ylim=(0, None))
        axes.legend(fontsize="small")
        figure.savefig(path, dpi=150)


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Everything, on a cache that is removed afterwards."""
    with tempfile.TemporaryDirectory(dir=flags.disk) as parent:
        folder = Path(parent) / DATASET
        seconds = [time.perf_counter()]
        writer = multiprocessing.get_context("spawn").Process(
            target=write, args=(folder, flags.rows, flags.width, flags.shard_rows)
        )
        writer.start()
        writer.join()
        if writer.exitcode:
            raise SystemExit(f"The cache could not be written to {folder}: see above.")
        seconds.append(time.perf_counter())
        cache = open_cache(folder)
        seconds.append(time.perf_counter())
        cache.verify()
        seconds.append(time.perf_counter())
        whole = Setting(cache, flags.batch_size)
        some = Setting(cache, flags.batch_size, min(flags.rows, flags.compare))
        memory, less = (setting.too_little(flags.feature_memory_mb) for setting in (whole, some))
        curves = {method: memory_curve(whole, method, memory, flags.interval) for method in METHODS}
        return {
            "rows": flags.rows,
            "width": flags.width,
            "batch_size": flags.batch_size,
            "megabytes": sum(cache.rows("train", modality).nbytes for modality in MODALITIES) / MB,
            "block_megabytes": block_memory(memory) / MB,
            "seconds": dict(zip(("write", "open", "verify"), np.diff(seconds).tolist(), strict=True)),
            "memory": curves,
            "rows_compared": some.stream.rows(some.step),
            "speed": {method: speed(some, method, less, flags.repeats) for method in METHODS},
        }


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        f"python -m benchmarks.{NAME}",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rows", type=int, default=10_000_000, help="(default: %(default)s)")
    add("--width", type=int, default=64, help="(default: %(default)s)")
    add("--batch_size", type=int, default=64, help="(default: %(default)s)")
    add("--shard_rows", type=int, default=100_000, help="(default: %(default)s)")
    add("--feature_memory_mb", type=float, default=512, help="as in configs (default: %(default)s)")
    add("--compare", type=int, default=200_000, help="rows for the comparison of speed (default: %(default)s)")
    add("--repeats", type=int, default=3, help="pairs of the comparison (default: %(default)s)")
    add("--interval", type=float, default=1.0, help="seconds between samples (default: %(default)s)")
    add("--disk", type=Path, default=None, help="folder for the cache (default: the system's for temporary files)")
    add("--out", type=Path, default=FOLDER, help="folder of the results (default: %(default)s)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    given = sys.argv[1:] if arguments is None else arguments
    flags = parse(given)
    results = measure(flags)
    command = " ".join([f"python -m benchmarks.{NAME}", *given])
    publish(NAME, command, tables(results), results, flags.out)
    draw(results, flags.out / f"{NAME}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
