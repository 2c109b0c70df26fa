"""`extract_features.py` without a command's name: embeds the media of datasets into feature caches."""

import argparse
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from feature_cache import datasets, encoders
from feature_cache.commands.explanations import explained
from feature_cache.commands.machinery import Machinery, default_workers
from feature_cache.commands.progress import progress_of
from feature_cache.datasets.base import Dataset
from feature_cache.encoders.base import PRECISIONS
from feature_cache.errors import CacheError, DamagedCacheError
from feature_cache.extraction.decode_pool import DECODE_TIMEOUT
from feature_cache.extraction.options import Options
from feature_cache.extraction.run import Report, extract, why_outdated
from feature_cache.flags import one_of, parse_strictly, some_of
from feature_cache.interchange.base import UNKNOWN
from feature_cache.lock import Share
from feature_cache.manifest import DTYPES, FAILURES_FILE, FILE_NAME, Manifest
from feature_cache.registry import resolve

EXAMPLES = """
other commands, each with a --help of its own:
  describe   what a dataset needs, where to get it, and what of it is there
  download   fetches datasets             weights   fetches the checkpoint of an encoder
  inspect    what is in caches            merge     joins the caches of --shard runs without a shared disk
  import     caches of your own features  export    the features of a cache in other formats
as in
  python extract_features.py describe --dataset=esc50

examples:
  python extract_features.py --encoder=pocketbind --dataset=emoji
  python extract_features.py --encoder=pocketbind --dataset=pocket --cache_dir=caches
  python extract_features.py --encoder=pocketbind --dataset=emoji,furniture --device=cuda --batch_size=256
  python extract_features.py --encoder=pocketbind --dataset=folder --pairs=birds.csv
  python extract_features.py --encoder=pocketbind --dataset=pocket --shard=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
  python extract_features.py --encoder=pocketbind --dataset=pocket --engine=ray --actors=4

The dataset folder is your own: a table with a column per modality (vision, text, audio, thermal, depth, imu, video,
tactile, speech) of paths, or captions in text, and, where you like, id, label, class_text (its prompt) and split.

The cache of a dataset is the folder CACHE_DIR/ENCODER/DATASET. An extraction that was stopped goes on where it was when
the same command is given again; a finished one is left alone. With --overwrite it starts over each time. Items that
cannot be decoded are listed in the cache's failures.jsonl and stay failed until --retry_failures.

--shard=I/N shares the work of one cache between N runs, I = 0 … N-1, wherever they run: each makes every N-th shard,
and whichever finds the last one there finishes the cache. In a SLURM array that counts from 0 (sbatch --array=0-7) pass
the variables above. With torchrun, a GPU each:
  torchrun --nproc_per_node=8 --no_python bash -c 'CUDA_VISIBLE_DEVICES=$LOCAL_RANK \\
    python extract_features.py --encoder=pocketbind --dataset=pocket --shard=$RANK/$WORLD_SIZE'
Runs without a shared disk write to a --cache_dir of their own, and `python extract_features.py merge` joins the caches.

Exit code: 0 = every cache is whole, or this run's share of it is; 1 = one is not; 2 = the command makes no sense.
"""
FOLDER = "folder"
"""The dataset that --pairs describes."""
DATA_ROOT = Path("media")


def main(arguments: Sequence[str]) -> int:
    """Extracts what the command line asks for; returns the exit code."""
    flags = parse(arguments)
    # Threads that spin while they wait make small layers several times slower while another process is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported, which is later
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    failed = False
    with Machinery(flags) as machinery:
        for name in flags.dataset:
            try:
                failed |= not _extract_dataset(flags, name, machinery, console)
            except KeyboardInterrupt:
                how = "the same command without --overwrite" if flags.overwrite else "the same command again"
                console.print(f"{name}: stopped. To go on, give {how}.", markup=False)
                return 130
            except Exception as error:
                if (said := explained(error, flags, name)) is None:
                    raise
                console.print(f"{name}: {said}", markup=False, style="red")
                failed = True
    return int(failed)


def _extract_dataset(flags: argparse.Namespace, name: str, machinery: Machinery, console: Console) -> bool:
    """Brings one cache, or this run's share of it, up to date; whether it is."""
    encoder = resolve(encoders.REGISTRY, "encoder", flags.encoder)
    dataset = _dataset(flags, name)
    folder = flags.cache_dir / encoder.name / dataset.name
    options = Options(
        flags.batch_size, flags.dtype, flags.normalize, flags.shard_size, flags.overwrite, flags.max_failure_rate,
        flags.retry_failures, flags.shard,
    )  # fmt: skip
    reason = why_outdated(folder, encoder, dataset, options, flags.precision)
    if reason is None and flags.weights:  # a checkpoint that is named may be another than the last one
        with console.status(f"{name}: comparing the checksum of {flags.weights}"):
            weights = machinery.encoder.weights_sha256()
        reason = why_outdated(folder, encoder, dataset, options, flags.precision, weights)
    reason = reason or _why_anyway(folder, flags)
    if reason is None:
        console.print(f"{name}: {_up_to_date(folder)}", markup=False)
        return True
    _spare_imported(folder, flags)
    console.print(f"{name}: extracting to {folder}: {reason}", markup=False)
    data_root = flags.data_root or getattr(dataset, "home", DATA_ROOT)
    media = dataset(data_root)
    for note in getattr(media, "notes", ()):
        console.print(f"{name}: {note}", markup=False)
    with progress_of(name, console) as progress:
        report = extract(folder, machinery.encoder, media, options, progress, machinery.engine(dataset, data_root))
    console.print(f"{name}: {summary(report, folder, options)}", markup=False)
    return report.finished or report.absent > 0


def _why_anyway(folder: Path, flags: argparse.Namespace) -> str | None:
    """Why a cache that is up to date should be made again all the same."""
    if flags.overwrite:
        return "asked to overwrite it"
    if flags.retry_failures and Manifest.load(folder).failures_file:
        return f"asked to try the items in {FAILURES_FILE} again"
    return None


def _spare_imported(folder: Path, flags: argparse.Namespace) -> None:
    """Raises `CacheError` if the cache is of features from elsewhere, which no extraction brings back."""
    if flags.overwrite or not (folder / FILE_NAME).exists():
        return
    with suppress(DamagedCacheError):
        if Manifest.load(folder).preprocessing_version == UNKNOWN:
            raise CacheError(
                f"{folder} has features that were imported, which an extraction would replace. Choose another "
                "--cache_dir, or give --overwrite."
            )


def _dataset(flags: argparse.Namespace, name: str) -> type[Dataset]:
    """The dataset's class; that of a table of pairs is made of the table."""
    if name != FOLDER:
        found: type[Dataset] = datasets.find(name, flags.source)
        return found
    from feature_cache.datasets.folder import of_table

    return of_table(flags.pairs, flags.name, flags.license or "unknown")


def _up_to_date(folder: Path) -> str:
    manifest = Manifest.load(folder)
    rows = sum(split.count for split in manifest.splits.values())
    failed = f", without those in {FAILURES_FILE} (--retry_failures tries them again)"
    return f"{folder} is up to date: {rows} items{failed if manifest.failures_file else ''}."


def summary(report: Report, folder: Path, options: Options) -> str:
    """One paragraph on what was done and what was not."""
    earlier = f", {report.reused} done by an earlier run" if report.reused else ""
    text = f"{report.items} items in {report.seconds:.1f} s{earlier}."
    if report.absent:
        there = report.shards - report.absent
        text += f" {there} of {report.shards} shards are there; the rest belongs to other --shard runs."
    if report.failures:
        listed = "" if report.absent else f" and are listed in {folder / FAILURES_FILE}"
        first = report.failures[0]
        text += (
            f" {len(report.failures)} items failed{listed}; the first is {first.id!r}, {first.modality}: "
            f"{first.reason.removesuffix('.')}."
        )
    if not report.finished and not report.absent:
        text += (
            f" That is more than --max_failure_rate={options.max_failure_rate:g} allows, so the cache is left "
            "unfinished. Put the media right and add --retry_failures, which tries these items again, or allow more."
        )
    return text


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags, checked; `dataset` is a list. Ends the program with exit code 2 on a mistake, naming it."""
    parser = _parser()
    flags = parse_strictly(parser, arguments)
    for name in ("encoder", "dataset"):
        if getattr(flags, name) is None:
            parser.error(f"--{name} is missing; --help shows examples")
    if FOLDER in flags.dataset and flags.pairs is None:
        parser.error(f"--dataset={FOLDER} needs --pairs=pairs.csv, the table of its items; --help says more")
    unused = [name for name in ("pairs", "name", "license") if getattr(flags, name) is not None]
    if FOLDER not in flags.dataset and unused:
        parser.error(f"--{unused[0]} belongs to --dataset={FOLDER}, but --dataset is {','.join(flags.dataset)}")
    elsewhere = [name for name in flags.dataset if flags.source == "tfds" and name not in datasets.TFDS]
    if elsewhere:
        parser.error(f"--source=tfds is for {' and '.join(datasets.TFDS)}; leave it away for {', '.join(elsewhere)}")
    if not 0 <= flags.max_failure_rate <= 1:
        parser.error(f"--max_failure_rate should be between 0 and 1, but is {flags.max_failure_rate:g}")
    if flags.engine == "ray" and flags.shard != Share():
        parser.error("--engine=ray shares the work out itself; leave --shard away")
    if flags.engine != "ray" and flags.actors is not None:
        parser.error("--actors is for --engine=ray")
    return flags


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="extract_features.py",
        description="Embed the media of datasets with a frozen encoder into feature caches.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_what(parser.add_argument_group("what").add_argument)
    _add_how(parser.add_argument_group("how").add_argument)
    _add_who(parser.add_argument_group("by whom").add_argument)
    _add_again(parser.add_argument_group("failures, and caches that are there already").add_argument)
    return parser


def _add_what(add: Callable[..., object]) -> None:
    encoder, dataset = one_of(encoders.REGISTRY, "encoder"), some_of(datasets.REGISTRY, "dataset", datasets.GROUPS)
    add("--encoder", type=encoder, help=f"needed; one of: {', '.join(encoders.REGISTRY)}")
    groups = " or ".join(f"{group} ({', '.join(names)})" for group, names in datasets.GROUPS.items())
    one_or_more = f"needed; one, or several with commas between; {groups} stands for all of its own"
    add("--dataset", type=dataset, help=f"{one_or_more}; {FOLDER} is what --pairs describes")
    add("--pairs", type=Path, help=f"of {FOLDER}: table of its items, .csv or .parquet")
    add("--name", help=f"of {FOLDER}: what to call the dataset (default: the table's name)")
    add("--license", help=f"of {FOLDER}: licence of the media, for the manifest (default: unknown)")
    add("--data_root", type=Path, help=f"folder of the raw media (default: media; of {FOLDER}: the table's folder)")
    add("--cache_dir", type=Path, default=Path("caches"), help="folder of all caches (default: caches)")
    prepared = f"tfds: {', '.join(datasets.TFDS)} as tensorflow-datasets prepares them (default: files)"
    add("--source", choices=datasets.SOURCES, default="files", help=prepared)
    add("--weights", type=Path, help="file or folder of the checkpoint (default: weights/ENCODER)")


def _add_how(add: Callable[..., object]) -> None:
    add("--batch_size", type=_positive, default=32, help="media embedded at once (default: 32)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: the GPU where there is one (default)")
    add("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the arithmetic (default: float32)")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="of the stored features (default: float16)")
    add("--normalize", action="store_true", help="store embeddings of length 1 instead of the encoder's own")
    add("--shard_size", type=_positive, default=512, help="items of a shard, the unit of resuming (default: 512)")


def _add_who(add: Callable[..., object]) -> None:
    workers = f"processes that decode, for each encoder; 0 = none besides it (default here: {default_workers()})"
    add("--workers", type=_natural, help=workers)
    timeout = "after this many seconds a worker gives a medium up as undecodable (default: 300)"
    add("--decode_timeout", type=_seconds, default=DECODE_TIMEOUT, metavar="SECONDS", help=timeout)
    add("--shard", type=_share, default=Share(), metavar="I/N", help="make only the I-th of N shares; see below")
    add("--engine", choices=("local", "ray"), default="local", help="ray: actors of a Ray cluster embed")
    add("--actors", type=_positive, help="with --engine=ray, how many encoders (default: one per GPU, else per 2 CPUs)")


def _add_again(add: Callable[..., object]) -> None:
    add("--overwrite", action="store_true", help="start over, each time that the command is given")
    add("--max_failure_rate", type=float, default=0.01, help="share of items that may fail (default: 0.01)")
    add("--retry_failures", action="store_true", help="make the shards again that miss an item which failed")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"should be a whole number of at least 1, but is {text!r}")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"should be a whole number of at least 0, but is {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"should be a positive number of seconds, but is {text!r}")
    return seconds


def _share(text: str) -> Share:
    """
    >>> _share("0/4")
    Share(index=0, count=4)
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"should be I/N with I from 0 to N-1, as in 0/4, but is {text!r}")
    return Share(int(index), int(count))
