"""Makes synthetic feature caches, on the command line. `python -m feature_cache.synthetic --help` shows examples."""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from feature_cache.errors import UserError
from feature_cache.flags import parse_strictly, some_of
from feature_cache.manifest import DTYPES
from feature_cache.synthetic.caches import ENCODER, Options, why_outdated, write_cache
from feature_cache.synthetic.shapes import SHAPES
from feature_cache.synthetic.world import World, make_world

EXAMPLES = """
examples:
  python -m feature_cache.synthetic
  python -m feature_cache.synthetic --factor=0.05 --width=256 --seed=1
  python run.py train --config=configs/paper.py:synthetic --config.method=vanilla --workdir=runs/synthetic

The features are made up: they have the paper's shapes and say nothing about any encoder. The cache of a dataset is the
folder CACHE_DIR/synthetic/DATASET. What was stopped goes on where it was when the same command is given again; what is
finished is left alone, unless a flag has changed. Exit code: 0 = done, 1 = it failed, 2 = the command makes no sense.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes what the command line asks for; returns the exit code."""
    flags, options = parse(sys.argv[1:] if arguments is None else arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    world = functools.cache(lambda: make_world(options.width, options.seed))
    try:
        for name in flags.dataset:
            _bring_up_to_date(flags.cache_dir / ENCODER / name, options, world, console)
    except OSError as error:
        path = error.filename2 or error.filename or flags.cache_dir
        console.print(f"{path}: {error.strerror or error}. Choose another --cache_dir.", markup=False, style="red")
        return 1
    except KeyboardInterrupt:
        console.print("Stopped. To go on, give the same command again.")
        return 130
    return 0


def _bring_up_to_date(folder: Path, options: Options, world: Callable[[], World], console: Console) -> None:
    shape = SHAPES[folder.name]
    reason = why_outdated(folder, shape, options)
    if reason is None:
        console.print(f"{shape.name}: {folder} is up to date.", markup=False)
        return
    console.print(f"{shape.name}: generating to {folder}: {reason}", markup=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(shape.name, total=sum(shape.counts(options.factor, options.test_factor).values()))
        write_cache(folder, shape, world(), options, lambda rows: bar.update(task, advance=rows))


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, Options]:
    """The flags, checked; `dataset` is a list. Ends the program with exit code 2 on a mistake, naming it."""
    parser = _parser()
    flags = parse_strictly(parser, arguments)
    try:
        return flags, Options(flags.factor, flags.test_factor, flags.width, flags.seed, flags.dtype, flags.shard_size)
    except UserError as error:
        parser.error(f"--{error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m feature_cache.synthetic",
        description="Makes up feature caches in the shapes of the paper's seven datasets.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    several = f"one, several with commas between, or all of: {', '.join(SHAPES)} (default: all)"
    add("--dataset", type=some_of(SHAPES, "dataset"), default="all", help=several)
    add("--cache_dir", type=Path, default=Path("caches"), help="folder of all caches (default: caches)")
    add("--factor", type=float, default=1.0, help="times the true number of training rows (default: 1)")
    add("--test_factor", type=float, default=1.0, help="times the true number of test rows (default: 1)")
    add("--width", type=int, default=1024, help="of all features (default: 1024, as ImageBind's)")
    add("--seed", type=int, default=0, help="another seed, other features (default: 0)")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="of the stored features (default: float16)")
    add("--shard_size", type=int, default=4096, help="rows of a shard, the unit of resuming (default: 4096)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
