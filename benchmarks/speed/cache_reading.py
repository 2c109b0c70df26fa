"""How fast features come from a cache, against plain `np.load` and `torch.load` of the same numbers.

    python -m benchmarks.speed.cache_reading                   # 12,025 rows of width 1024
    python -m benchmarks.speed.cache_reading --rows=500 --width=32 --out=/tmp/speed   # to try it

All files are in the page cache: this is the cost of the formats and of copies, not the disk's. Every side reads the
float16 rows of one modality into float32 in memory, as training does. `open_cache` reads the manifest and checks that
the files fit it; `verify` reads every byte and compares its SHA-256.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.speed.measuring import interleaved, median_ratio
from benchmarks.speed.results import FOLDER, Table, publish
from feature_cache import CacheWriter, FeatureCache, Manifest, MediaSource, ModalitySpec, Rows, open_cache

MODALITIES = ("vision", "text")
SPLITS_AFTER = ("validation", "test")


def write(folder: Path, rows: int, width: int, shard_size: int) -> FeatureCache:
    """A cache of random rows in float16."""
    source = MediaSource("random numbers", "1", "MIT", "https://example.org")
    manifest = Manifest(
        encoder="random",
        weights_sha256="0" * 64,
        preprocessing_version="1",
        dataset="random",
        dataset_version="1",
        dtype="float16",
        synthetic=True,
        sources=(source,),
        modalities={modality: ModalitySpec(dim=width) for modality in MODALITIES},
        classes=(),
    )
    writer = CacheWriter(folder, manifest)
    rng = np.random.default_rng(0)

    def shard(split: str, index: int, start: int, stop: int) -> None:
        ids = [f"{split} {i}" for i in range(start, stop)]
        features = {m: rng.standard_normal((len(ids), width), np.float32) for m in MODALITIES}
        writer.write_shard(split, index, Rows(ids=ids, captions=ids, labels=[-1] * len(ids)), features)

    for index, start in enumerate(range(0, rows, shard_size)):
        shard("train", index, start, min(start + shard_size, rows))
    for split in SPLITS_AFTER:
        shard(split, 0, 0, 1)
    writer.finish()
    return open_cache(folder)


def readers(folder: Path, cache: FeatureCache) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; plain files with the same rows are written beside the cache."""
    rows = np.asarray(cache.features("train", "vision"))
    plain = folder.parent
    np.save(plain / "rows.npy", rows)
    torch.save(torch.from_numpy(np.array(rows)), plain / "rows.pt")
    return {
        "open_cache": lambda: open_cache(folder),
        "verify": lambda: open_cache(folder).verify(),
        "features": lambda: open_cache(folder).features("train", "vision").astype(np.float32),
        "np.load": lambda: np.load(plain / "rows.npy").astype(np.float32),
        "np.load, mapped": lambda: np.load(plain / "rows.npy", mmap_mode="r").astype(np.float32),
        "torch.load": lambda: torch.load(plain / "rows.pt", weights_only=True).float(),
        "torch.load, mapped": lambda: torch.load(plain / "rows.pt", weights_only=True, mmap=True).float(),
    }


def measure(rows: int, width: int, shard_size: int, repeats: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every reader, and the MB that it reads."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "cache"
        cache = write(folder, rows, width, shard_size)
        seconds = interleaved(readers(folder, cache), repeats)
        whole = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    megabytes = {name: rows * width * 2 / 1e6 for name in seconds}
    return seconds, {**megabytes, "open_cache": 0.0, "verify": whole}


def table(seconds: dict[str, list[float]], megabytes: dict[str, float], title: str) -> Table:
    """Milliseconds, MB/s of what is stored, and times of `features` relative to the others."""
    out = []
    for name, times in seconds.items():
        rate = f"{megabytes[name] / median(times):,.0f}" if megabytes[name] else "–"
        compared = f"{median_ratio(times, seconds['features']):.2f}" if "load" in name else "–"
        out.append([name, f"{1e3 * median(times):.2f}", rate, compared])
    return Table(title, ("reader", "ms", "MB/s", "÷ features"), out)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed.cache_reading",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--rows", type=int, default=12_025, help="training rows (default: 12,025, LLVIP's)")
    add("--width", type=int, default=1024, help="of the features (default: 1024)")
    add("--shard_size", type=int, default=4096, help="rows of a shard (default: 4096)")
    add("--repeats", type=int, default=9, help="of each reader, in turns (default: 9)")
    add("--out", type=Path, default=FOLDER, help=f"folder for JSON and markdown (default: {FOLDER})")
    given = list(sys.argv[1:] if arguments is None else arguments)
    flags = parser.parse_args(given)
    tables, results = [], {}
    for name, size in (("several shards", flags.shard_size), ("one shard", flags.rows)):
        seconds, megabytes = measure(flags.rows, flags.width, size, flags.repeats)
        title = f"{flags.rows:,} rows of width {flags.width} in float16, {name}"
        tables.append(table(seconds, megabytes, title))
        results[name] = {"seconds": seconds, "megabytes": megabytes}
    command = " ".join(["python -m benchmarks.speed.cache_reading", *given])
    publish("cache_reading", command, tables, results, flags.out)


if __name__ == "__main__":
    main()
