"""What can be told of media without having them: a checksum of each, and a thumbnail of each picture.

    python -m feature_cache.datasets.pocket.fingerprints --out=tests/samples/pocket_fingerprints.parquet

The media of the pocket suite are not in the repository; with their fingerprints, its tests still see whether one of
them, or one that looks nearly the same, is in two splits.
"""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.progress import track

from feature_cache import datasets
from feature_cache.atomic import write_atomically
from feature_cache.datasets.base import Dataset, DepthMap, Motion, Raw, Video, Waveform
from feature_cache.datasets.pocket.likeness import thumbnail
from feature_cache.encoders.pocket.depth_picture import depth_picture
from feature_cache.flags import parse_strictly
from feature_cache.manifest import SPLITS
from feature_cache.registry import resolve

SCHEMA = pa.schema(
    {
        "dataset": pa.string(),
        "split": pa.string(),
        "id": pa.string(),
        "modality": pa.string(),
        "sha256": pa.binary(),
        "thumbnail": pa.binary(),  # null for what is no picture; of a video that of its first frame
    }
)


def fingerprints(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """A row of `SCHEMA` for every medium of a dataset but texts."""
    items = [(split, item) for split in SPLITS for item in dataset.items(split)]
    for split, item in track(items, dataset.name):
        for modality in dataset.modalities:
            if modality != "text":
                raw = item.open(modality)
                picture = picture_of(raw)
                yield {
                    "dataset": dataset.name,
                    "split": split,
                    "id": item.id,
                    "modality": modality,
                    "sha256": hashlib.sha256(content_of(raw).tobytes()).digest(),
                    "thumbnail": None if picture is None else thumbnail(picture).tobytes(),
                }


def content_of(raw: Raw) -> np.ndarray[Any, Any]:
    """The pixels or samples of a medium."""
    match raw:
        case Waveform() | Motion():
            return raw.samples
        case DepthMap():
            return raw.depth
        case Video():
            return np.stack([np.asarray(frame) for frame in raw.pick(range(len(raw)))])
    return np.asarray(raw)


def picture_of(raw: Raw) -> Image.Image | None:
    """What of a medium can be looked at."""
    match raw:
        case Image.Image():
            return raw
        case Video():
            return raw.pick([0])[0]
        case DepthMap():
            return depth_picture(raw)
    return None


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m feature_cache.datasets.pocket.fingerprints", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--data_root", type=Path, default=Path("media"), help="folder of the raw media")
    parser.add_argument("--out", type=Path, required=True, help="the Parquet file to write")
    flags = parse_strictly(parser, arguments)
    loaded = [resolve(datasets.REGISTRY, "dataset", name)(flags.data_root) for name in datasets.POCKET]
    rows = [row for dataset in loaded for row in fingerprints(dataset)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink, compression="zstd", compression_level=19)
    write_atomically(flags.out, bytes(sink.getvalue()))


if __name__ == "__main__":
    main()
