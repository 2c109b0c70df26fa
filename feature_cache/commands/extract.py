"""`extract_features.py` without a command's name: embeds the media of datasets into feature caches."""

import argparse
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from feature_cache import datasets, encoders
from feature_cache.encoders.base import PRECISIONS, Encoder
from feature_cache.errors import UserError
from feature_cache.extraction import Options, Report, extract, why_outdated
from feature_cache.flags import one_of, parse_strictly, some_of
from feature_cache.manifest import DTYPES, FAILURES_FILE, Manifest
from feature_cache.registry import resolve

EXAMPLES = """
examples:
  python extract_features.py --encoder=pocketbind --dataset=emoji
  python extract_features.py --encoder=pocketbind --dataset=pocket --cache_dir=caches
  python extract_features.py --encoder=pocketbind --dataset=emoji,furniture --device=cuda --batch_size=256

The cache of a dataset is the folder CACHE_DIR/ENCODER/DATASET. An extraction that was stopped goes on where it was when
the same command is given again; a finished one is left alone. With --overwrite it starts over each time. Items that
cannot be decoded are listed in the cache's failures.jsonl. Exit code: 0 = every cache is whole, 1 = one is not, 2 = the
command makes no sense.
"""


def main(arguments: Sequence[str]) -> int:
    """Extracts what the command line asks for; returns the exit code."""
    flags = parse(arguments)
    # Threads that spin while they wait make small layers several times slower while another process is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported, which is later
    console = Console(stderr=True, highlight=False, soft_wrap=True)

    @functools.cache
    def load() -> Encoder:
        make = resolve(encoders.REGISTRY, "encoder", flags.encoder)
        encoder: Encoder = make(flags.device, flags.precision, flags.weights)
        return encoder

    failed = False
    for name in flags.dataset:
        try:
            failed |= not _extract_dataset(flags, name, load, console)
        except (UserError, OSError, ImportError, MemoryError) as error:
            console.print(f"{name}: {_explained(error, flags)}", markup=False, style="red")
            failed = True
        except KeyboardInterrupt:
            how = "the same command without --overwrite" if flags.overwrite else "the same command again"
            console.print(f"{name}: stopped. To go on, give {how}.", markup=False)
            return 130
    return int(failed)


def _explained(error: Exception, flags: argparse.Namespace) -> str:
    """What is wrong and what to do, in one paragraph."""
    if isinstance(error, ImportError):
        return f"{error}. Extraction needs more packages than training; to get them, run `make extract-deps`."
    if isinstance(error, MemoryError):
        return f"out of memory with --batch_size={flags.batch_size}; choose a smaller one."
    if isinstance(error, OSError):
        path = error.filename2 or error.filename or flags.cache_dir
        return f"{path}: {error.strerror or error}. Put that right, or choose another --cache_dir or --data_root."
    return str(error)


def _extract_dataset(flags: argparse.Namespace, name: str, load: Callable[[], Encoder], console: Console) -> bool:
    """Brings one cache up to date; whether it is whole."""
    encoder = resolve(encoders.REGISTRY, "encoder", flags.encoder)
    dataset = datasets.find(name, flags.source)
    folder = flags.cache_dir / encoder.name / dataset.name
    options = Options(
        flags.batch_size, flags.dtype, flags.normalize, flags.shard_size, flags.overwrite, flags.max_failure_rate
    )
    reason = why_outdated(folder, encoder, dataset, options, flags.precision)
    if reason is None and not flags.overwrite:
        console.print(f"{name}: {_up_to_date(folder)}", markup=False)
        return True
    console.print(f"{name}: extracting to {folder}: {reason or 'asked to overwrite it'}", markup=False)
    media = dataset(flags.data_root)
    with progress_bar(name, console) as progress:
        report = extract(folder, load(), media, options, progress)
    console.print(f"{name}: {summary(report, folder, options)}", markup=False)
    return report.finished


def _up_to_date(folder: Path) -> str:
    manifest = Manifest.load(folder)
    rows = sum(split.count for split in manifest.splits.values())
    lacking = f", without the items in {FAILURES_FILE} (--overwrite tries them again)" if manifest.failures_file else ""
    return f"{folder} is up to date: {rows} items{lacking}."


def summary(report: Report, folder: Path, options: Options) -> str:
    """One paragraph on what was done and what was not."""
    earlier = f", {report.reused} done by an earlier run" if report.reused else ""
    text = f"{report.items} items in {report.seconds:.1f} s{earlier}."
    if report.failures:
        first = report.failures[0]
        text += (
            f" {len(report.failures)} of them could not be decoded and are listed in {folder / FAILURES_FILE}; the "
            f"first is {first.id!r}, {first.modality}: {first.reason}."
        )
    if not report.finished:
        text += (
            f" That is more than --max_failure_rate={options.max_failure_rate:g} allows, so the cache is left "
            "unfinished. Put the media right and give the same command again, which tries them again, or allow more."
        )
    return text


@contextmanager
def progress_bar(name: str, console: Console) -> Iterator[Callable[[int, int, bool], None]]:
    """A bar with items/s and time left; yields the `progress` of `extract`. Items done earlier do not count."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None, rate="")
        earlier = 0

        def progress(count: int, total: int, reused: bool) -> None:
            nonlocal earlier
            earlier += count * reused
            bar.update(task, total=total - earlier, advance=0 if reused else count)
            speed = bar.tasks[task].speed
            bar.update(task, rate=f"{speed:.1f} items/s" if speed else "")

        yield progress


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags, checked; `dataset` is a list. Ends the program with exit code 2 on a mistake, naming it."""
    parser = _parser()
    flags = parse_strictly(parser, arguments)
    for name in ("encoder", "dataset"):
        if getattr(flags, name) is None:
            parser.error(f"--{name} is missing; --help shows examples")
    if not 0 <= flags.max_failure_rate <= 1:
        parser.error(f"--max_failure_rate should be between 0 and 1, but is {flags.max_failure_rate:g}")
    return flags


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="extract_features.py",
        description="Embed the media of datasets with a frozen encoder into feature caches.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    encoder, dataset = one_of(encoders.REGISTRY, "encoder"), some_of(datasets.REGISTRY, "dataset", datasets.GROUPS)
    add("--encoder", type=encoder, help=f"needed; one of: {', '.join(encoders.REGISTRY)}")
    groups = " or ".join(f"{group} ({', '.join(names)})" for group, names in datasets.GROUPS.items())
    several = f"needed; one, or several with commas between; {groups} stands for all of its own"
    add("--dataset", type=dataset, help=several)
    add("--data_root", type=Path, default=Path("media"), help="folder of the raw media (default: media)")
    add("--cache_dir", type=Path, default=Path("caches"), help="folder of all caches (default: caches)")
    add(
        "--source",
        choices=datasets.SOURCES,
        default="files",
        help=f"tfds: {', '.join(datasets.TFDS)} as prepared by it",
    )
    add("--batch_size", type=_positive, default=32, help="media embedded at once (default: 32)")
    add("--weights", type=Path, help="file or folder of the checkpoint (default: weights/ENCODER)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: the GPU where there is one (default)")
    add("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the arithmetic (default: float32)")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="of the stored features (default: float16)")
    add("--normalize", action="store_true", help="store embeddings of length 1 instead of the encoder's own")
    add("--shard_size", type=_positive, default=512, help="items of a shard, the unit of resuming (default: 512)")
    add("--overwrite", action="store_true", help="start over, each time that the command is given")
    add("--max_failure_rate", type=float, default=0.01, help="share of items that may fail to decode (default: 0.01)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"should be a whole number of at least 1, but is {text!r}")
    return int(text)
