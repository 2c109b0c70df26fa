"""What can be said of a cache by looking at all of it, whether it is whole, unfinished or damaged.

Of each modality's features, all splits together: their norms, and how many rows repeat an earlier one exactly. Of its
training features `X` [n, dim]: the spectrum of the second moment `X^T X / n`, eigenvalues λ. Its *effective rank* is
`exp(−Σ p log p)` with `p = λ / Σ λ` (Roy and Vetterli, "The effective rank: a measure of effective dimensionality",
EUSIPCO 2007, of the matrix `X^T X / n`): how many equally strong directions would have the same entropy. *Directions*
counts `λ > 1e-3 · max λ`, what `cmcl_jax.projector` keeps with the rule "relative" at that threshold. All in float64,
a shard in memory at a time. Imports neither torch nor jax.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float64

from feature_cache import shards
from feature_cache.errors import CacheError, DamagedCacheError
from feature_cache.manifest import FAILURES_FILE, FILE_NAME, SPLITS, Manifest, Shard, record_of, shard_stem
from feature_cache.reader import FeatureCache, open_cache

THRESHOLD = 1e-3
"""Of directions, relative to the strongest."""
SHARD_ENDINGS = ("parquet", "safetensors")
Json: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True)
class ModalityFacts:
    """Numbers of one modality; None where there are no rows.

    Attributes:
        dim, scale: as in the manifest.
        mean_norm, min_norm, max_norm: of all rows.
        effective_rank, directions: of the training rows, see the module.
        repeated: share of rows that equal an earlier one bit for bit.
    """

    dim: int
    scale: float
    mean_norm: float | None
    min_norm: float | None
    max_norm: float | None
    effective_rank: float | None
    directions: int | None
    repeated: float | None


@dataclass(frozen=True)
class Inspection:
    """What was found in one folder.

    Attributes:
        path: the folder.
        state: "whole", "unfinished", "damaged" or "absent".
        problems: all that is wrong, a sentence each; () if the cache is whole.
        manifest: None if it cannot be read.
        rows: per split the rows that are there.
        failed: per split how many items are listed in failures.jsonl; {} where the list cannot be read.
        modalities: numbers; {} unless the cache is whole.
    """

    path: Path
    state: str
    problems: tuple[str, ...]
    manifest: Manifest | None
    rows: Mapping[str, int]
    failed: Mapping[str, int]
    modalities: Mapping[str, ModalityFacts]

    @property
    def whole(self) -> bool:
        """Whether every file is there and has the checksum that it had when it was written."""
        return self.state == "whole"

    def to_json(self) -> Json:
        """The same in JSON's types; of the manifest all but the records of files."""
        manifest = None
        if self.manifest is not None:
            manifest = asdict(self.manifest)
            manifest["checksum"] = self.manifest.checksum
            for name in ("splits", "class_file", "failures_file"):
                del manifest[name]
        return {
            "path": str(self.path),
            "state": self.state,
            "problems": list(self.problems),
            "manifest": manifest,
            "rows": dict(self.rows),
            "failed": dict(self.failed),
            "modalities": {name: asdict(facts) for name, facts in self.modalities.items()},
        }


def find_caches(path: Path) -> list[Path]:
    """The caches in a folder that may be one itself, an encoder's, or a whole cache_dir; sorted, maybe unfinished.

    A folder with nothing like a cache in it is taken for one, so that inspecting it says so.
    """
    below = [folder for depth in ("*", "*/*") for folder in sorted(path.glob(depth)) if _looks_like_one(folder)]
    return [path] if _looks_like_one(path) or not below else sorted(below)


def inspect(path: Path) -> Inspection:
    """Reads all of a cache, whatever state it is in. Raises nothing that the cache is to blame for."""
    if not _looks_like_one(path):
        return Inspection(path, "absent", (_said(path),), None, {}, {}, {})
    try:
        manifest = Manifest.load(path)
    except DamagedCacheError as error:
        return _without_manifest(path, error)
    problems = _wrong_files(path, manifest)
    rows = {split: manifest.splits[split].count if split in manifest.splits else 0 for split in SPLITS}
    failed = _failed(path) if manifest.failures_file else {}
    facts: dict[str, ModalityFacts] = {}
    if not problems:
        try:
            facts = _facts(open_cache(path))
        except CacheError as error:
            problems = [str(error)]
    state = "damaged" if problems else "whole"
    return Inspection(path, state, tuple(problems), manifest, rows, failed, facts)


def effective_rank(spectrum: Float64[np.ndarray, " d"]) -> float:
    """`exp` of the entropy of a spectrum of numbers that are not negative, as shares of their sum; 0 for zeros.

    >>> round(effective_rank(np.array([3.0, 3.0, 3.0, 0.0])), 6)
    3.0
    """
    total = spectrum.sum()
    if total <= 0:
        return 0.0
    shares = spectrum[spectrum > 0] / total
    return float(np.exp(-np.sum(shares * np.log(shares))))


def spectrum(second_moment: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, " d"]:
    """The eigenvalues of a second moment, largest first; what rounding makes negative is 0."""
    return np.maximum(np.linalg.eigvalsh(second_moment)[::-1], 0.0)


class _Sums:
    """What has been seen of one modality so far."""

    def __init__(self, dim: int) -> None:
        self.norms: list[Float64[np.ndarray, " n"]] = []
        self.moment = np.zeros((dim, dim))
        self.trained = 0
        self.seen: set[bytes] = set()

    def add(self, features: Float[np.ndarray, "n dim"], training: bool) -> None:
        stored = np.ascontiguousarray(features)
        values = stored.astype(np.float64)
        self.norms.append(np.linalg.norm(values, axis=1))
        # Of long rows a digest: rows of a thousand numbers need not stay in memory to be recognised.
        self.seen.update(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in stored)
        if training:
            self.moment += values.T @ values
            self.trained += len(values)

    def facts(self, dim: int, scale: float) -> ModalityFacts:
        norms = np.concatenate([np.empty(0), *self.norms])
        if not len(norms):
            return ModalityFacts(dim, scale, None, None, None, None, None, None)
        rank = directions = None
        if self.trained:
            values = spectrum(self.moment / self.trained)
            rank, directions = effective_rank(values), int(np.sum(values > THRESHOLD * values[0]))
        extent = (float(norms.mean()), float(norms.min()), float(norms.max()))
        return ModalityFacts(dim, scale, *extent, rank, directions, 1 - len(self.seen) / len(norms))


def _facts(cache: FeatureCache) -> dict[str, ModalityFacts]:
    sums = {modality: _Sums(spec.dim) for modality, spec in cache.modalities.items()}
    for split, shard in _shards(cache.manifest):
        tensors = shards.map_tensors(cache.path / shard.features_file)
        for modality, total in sums.items():
            total.add(tensors[modality], split == "train")
    return {modality: sums[modality].facts(spec.dim, spec.scale) for modality, spec in cache.modalities.items()}


def _shards(manifest: Manifest) -> Iterator[tuple[str, Shard]]:
    for name, split in manifest.splits.items():
        for shard in split.shards:
            yield name, shard


def _wrong_files(path: Path, manifest: Manifest) -> list[str]:
    """Every file that is not what the manifest says."""
    problems = []
    for name, record in manifest.files():
        try:
            found = record_of((path / name).read_bytes())
        except OSError as error:
            problems.append(f"{name} cannot be read: {error.strerror or error}")
            continue
        if found.bytes != record.bytes:
            problems.append(f"{name} should be {record.bytes} bytes long, but is {found.bytes}")
        elif found.sha256 != record.sha256:
            problems.append(f"{name} should have the SHA-256 {record.sha256}, but has {found.sha256}")
    return problems


def _without_manifest(path: Path, error: DamagedCacheError) -> Inspection:
    """A cache whose manifest is absent, as of an extraction that was stopped, or cannot be read."""
    unfinished = not (path / FILE_NAME).exists()
    rows, problems = dict.fromkeys(SPLITS, 0), [] if unfinished else [f"{FILE_NAME}: {error.what}"]
    if unfinished:
        problems.append(f"{FILE_NAME} is missing, which is written last: {_said(path)}")
    for split in SPLITS:
        stems = {file.stem for ending in SHARD_ENDINGS for file in path.glob(f"{split}-*.{ending}")}
        for stem in sorted(stems):
            if not (path / f"{stem}.safetensors").is_file() or not (path / f"{stem}.parquet").is_file():
                problems.append(f"the shard {stem} has only one of its two files: it will be made again")
                continue
            try:
                rows[split] += len(shards.read_table(path / f"{stem}.parquet")[0])
            except DamagedCacheError as damage:
                problems.append(f"{damage.path.name}: {damage.what}")
        gaps = [shard_stem(split, index) for index in range(len(stems)) if shard_stem(split, index) not in stems]
        problems += [f"the shard {stem} is missing, while later ones are there" for stem in gaps]
    return Inspection(path, "unfinished" if unfinished else "damaged", tuple(problems), None, rows, _failed(path), {})


def _failed(path: Path) -> dict[str, int]:
    """The items in failures.jsonl by split; {} without a list that can be read."""
    counts = dict.fromkeys(SPLITS, 0)
    try:
        for line in (path / FAILURES_FILE).read_bytes().splitlines():  # not of str, which breaks lines within ids
            counts[json.loads(line)["split"]] += 1
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return counts


def _looks_like_one(path: Path) -> bool:
    if not path.is_dir():
        return False
    shard = "*-[0-9][0-9][0-9][0-9][0-9]"  # other formats number their files likewise: train-00000.tar
    return (path / FILE_NAME).exists() or any(any(path.glob(f"{shard}.{ending}")) for ending in SHARD_ENDINGS)


def _said(path: Path) -> str:
    """What `open_cache` says of a folder that it cannot open."""
    try:
        open_cache(path)
    except CacheError as error:
        return str(error)
    return "it was finished in this moment: inspect it again."
