"""`extract_features.py merge`: joins the caches of --shard runs that had no disk in common."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from feature_cache.errors import UserError
from feature_cache.flags import parse_strictly
from feature_cache.merging import merge

EXAMPLES = """
example, with one machine each for the first two lines:
  python extract_features.py --encoder=pocketbind --dataset=emoji --cache_dir=part0 --shard=0/2
  python extract_features.py --encoder=pocketbind --dataset=emoji --cache_dir=part1 --shard=1/2
  python extract_features.py merge --from=part0/pocketbind/emoji,part1/pocketbind/emoji --into=caches/pocketbind/emoji

The result is the cache that one run would have made, bit for bit on the same kind of device. Exit
code: 0 = it is whole, 1 = it is not, 2 = the command makes no sense.
"""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit code: 0 = the cache is whole, 1 = it is not."""
    flags = _parse(arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        with console.status(f"copying what is whole into {flags.into}"):
            manifest = merge(flags.sources, flags.into, flags.max_failure_rate)
    except UserError as error:
        console.print(str(error), markup=False, style="red")
        return 1
    except OSError as error:
        path = error.filename2 or error.filename or flags.into
        what = f"{path}: {error.strerror or error}. Put that right and give the same command again, which goes on."
        console.print(what, markup=False, style="red")
        return 1
    rows = sum(split.count for split in manifest.splits.values())
    console.print(f"{flags.into} is whole: {rows} items.", markup=False)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="extract_features.py merge",
        description="Join the caches that --shard runs made without a shared disk.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--from", dest="sources", type=_folders, help="needed; the folders of the parts, with commas between")
    add("--into", type=Path, help="needed; the folder of the whole cache, CACHE_DIR/ENCODER/DATASET")
    add("--max_failure_rate", type=float, default=0.01, help="share of items that may have failed (default: 0.01)")
    flags = parse_strictly(parser, arguments)
    for flag, value in (("--from", flags.sources), ("--into", flags.into)):
        if value is None:
            parser.error(f"{flag} is missing; --help shows an example")
    if not 0 <= flags.max_failure_rate <= 1:
        parser.error(f"--max_failure_rate should be between 0 and 1, but is {flags.max_failure_rate:g}")
    return flags


def _folders(text: str) -> list[Path]:
    folders = [Path(part) for part in text.split(",")]
    for folder in folders:
        if not folder.is_dir():
            raise argparse.ArgumentTypeError(f"{folder} is not a folder")
    return folders
