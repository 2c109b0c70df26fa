"""How much of the bare forward pass's throughput the extraction keeps: decoding, checking and writing included.

    python -m benchmarks.extraction_pipeline --dataset=emoji --items=96

The same items in the same batches go (A) through `embed_items` alone, decoded beforehand and in memory, and (B) through
the whole pipeline from media files to a cache on disk, in turn (ABAB…); the ratio is of medians. 1 = decoding is free.

With the real forward pass on a CPU, worker processes take from the encoder what they use, so the ratio is bounded by
the number of cores. The emulated accelerator is the same pipeline with a forward pass that sleeps as long as the real
one took: the CPU is free meanwhile, as it is with a GPU. Its features are the real ones, computed beforehand.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from feature_cache import datasets, encoders
from feature_cache.commands.machinery import default_workers
from feature_cache.datasets.base import Dataset, Item
from feature_cache.encoders.base import Encoder
from feature_cache.extraction.decode import Array, Decoder, Outcome, Request, decode_here
from feature_cache.extraction.decode_pool import DecodePool
from feature_cache.extraction.embedding import embed_items
from feature_cache.extraction.engine import LocalEngine
from feature_cache.extraction.options import Options
from feature_cache.extraction.run import describe
from feature_cache.extraction.shard_tasks import ShardTask
from feature_cache.registry import resolve
from feature_cache.writer import CacheWriter


class Emulated:
    """An encoder whose `embed` sleeps as long as the real one's took per medium, instead of computing."""

    def __init__(self, encoder: Encoder, decoded: Sequence[dict[str, Array]]) -> None:
        self._encoder = encoder
        self._seconds: dict[str, float] = {}
        self._features: dict[tuple[str, bytes], Array] = {}
        for modality in decoded[0]:
            arrays = [outcome[modality] for outcome in decoded]
            start = time.perf_counter()
            features = [encoder.embed(modality, arrays[at : at + 32]) for at in range(0, len(arrays), 32)]
            self._seconds[modality] = (time.perf_counter() - start) / len(arrays)
            rows = np.concatenate(features)
            self._features |= {(modality, a.tobytes()): row for a, row in zip(arrays, rows, strict=True)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def embed(self, modality: str, batch: Sequence[Array]) -> Array:
        start = time.perf_counter()
        rows = np.stack([self._features[modality, array.tobytes()] for array in batch])
        time.sleep(max(0.0, start + self._seconds[modality] * len(batch) - time.perf_counter()))
        return rows


class Bench:
    """The two ways of one batch of items."""

    def __init__(self, dataset: Dataset, items: Sequence[Item], batch_size: int, decoded: Sequence[Outcome]) -> None:
        self._dataset, self._items, self._decoded = dataset, items, decoded
        self._options = Options(batch_size)

    def bare(self, encoder: Encoder) -> float:
        """Seconds of the forward pass alone."""
        start = time.perf_counter()
        modalities = self._dataset.modalities
        embed_items(encoder, self._items, iter(self._decoded), modalities, self._options.batch_size)
        return time.perf_counter() - start

    def pipeline(self, encoder: Encoder, decode: Decoder) -> float:
        """Seconds from media files to finished shards on the disk, two of them."""
        half = len(self._items) // self._options.batch_size // 2 * self._options.batch_size
        tasks = [ShardTask(0, "train", 0, self._items[:half]), ShardTask(1, "train", 1, self._items[half:])]
        with tempfile.TemporaryDirectory(dir=".") as folder:
            writer = CacheWriter(Path(folder), describe(encoder, self._dataset, self._options))
            start = time.perf_counter()
            LocalEngine(encoder, decode).make(writer, tasks, self._options, lambda count: None)
            return time.perf_counter() - start

    def compare(self, encoder: Encoder, decoders: dict[str, Decoder], rounds: int) -> dict[str, list[float]]:
        """Seconds of every round, per way; the first round is for warming up."""
        ways: dict[str, Callable[[], float]] = {"bare": lambda: self.bare(encoder)}
        for name, decode in decoders.items():
            ways[name] = lambda decode=decode: self.pipeline(encoder, decode)  # type: ignore[misc]
        measured = [{name: way() for name, way in ways.items()} for _ in range(rounds + 1)]
        return {name: [each[name] for each in measured[1:]] for name in ways}


def report(title: str, items: int, measured: dict[str, list[float]]) -> None:
    """A table of medians."""
    bare = statistics.median(measured["bare"])
    print(f"\n{title}\n{'':12}  items/s  of the bare forward   rounds (s)")
    for name, seconds in measured.items():
        median = statistics.median(seconds)
        each = " ".join(f"{value:.2f}" for value in seconds)
        print(f"{name:12}  {items / median:7.1f}  {bare / median:19.2f}   {each}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.extraction_pipeline", description=__doc__)
    parser.add_argument("--encoder", default="pocketbind")
    parser.add_argument("--dataset", default="emoji")
    parser.add_argument("--data_root", type=Path, default=Path("media"))
    parser.add_argument("--items", type=int, default=96)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    dataset = resolve(datasets.REGISTRY, "dataset", flags.dataset)(flags.data_root)
    encoder: Encoder = resolve(encoders.REGISTRY, "encoder", flags.encoder)("auto")
    items = dataset.items("train")[: flags.items]
    with ExitStack() as stack:
        decoders: dict[str, Decoder] = {"workers=0": decode_here(encoder)}
        for workers in (1, 2):
            decoders[f"workers={workers}"] = stack.enter_context(DecodePool(encoder, workers))
        requests = [Request("train", item, dataset.modalities) for item in items]
        start = time.perf_counter()
        decoded = [outcome for outcome in decoders["workers=0"](requests, 0) if isinstance(outcome, dict)]
        seconds = time.perf_counter() - start
        bench = Bench(dataset, items, flags.batch_size, decoded)
        print(
            f"{flags.encoder}, {flags.dataset}, {len(items)} items in batches of {flags.batch_size}; "
            f"{default_workers() + 1} CPUs; decoding alone: {len(items) / seconds:.1f} items/s in one process"
        )
        bench.bare(encoder)
        report("real forward pass", len(items), bench.compare(encoder, decoders, flags.rounds))
        emulated: Any = Emulated(encoder, decoded)
        report("emulated accelerator", len(items), bench.compare(emulated, decoders, flags.rounds))


if __name__ == "__main__":
    main()
