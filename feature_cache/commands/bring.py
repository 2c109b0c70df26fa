"""`extract_features.py import` and `export`: features that somebody already has, and those of a cache for others."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from feature_cache import open_cache
from feature_cache.commands.failing import run
from feature_cache.errors import CacheError
from feature_cache.flags import one_of, parse_strictly
from feature_cache.interchange import EXPORTS, IMPORTS
from feature_cache.manifest import DTYPES, FILE_NAME
from feature_cache.registry import resolve
from feature_cache.unfinished import UNFINISHED_FILE

IMPORT_EXAMPLES = """
examples:
  python extract_features.py import --from=hdf5 --path=features_storage --encoder=imagebind --dataset=esc50
  python extract_features.py import --from=npz --path=my_features --encoder=mine --dataset=birds

The cache becomes the folder CACHE_DIR/ENCODER/DATASET.
  hdf5        the public reference's files DATASET_{train,test,class}_ENCODER.h5
  npz         train.npz, validation.npz, test.npz: an array [n, dim] per modality, ids, captions, labels
  parquet     train.parquet, …: columns id, caption, label, and lists of floats per modality
  webdataset  train*.tar, …: key.<modality>.npy, key.json with id, caption, label
The last three find their classes in classes.npz: names, texts, features. The first lines of the files in
feature_cache/interchange/ say it all. Exit code: 0 = done, 1 = the files do not fit, 2 = the command makes no sense.
"""
EXPORT_EXAMPLES = """
examples:
  python extract_features.py export --to=tfds --cache=caches/pocketbind/emoji --path=tfds
  python extract_features.py export --to=hdf5 --cache=caches/imagebind/esc50 --path=features_storage

A cache is read shard by shard. Exit code: 0 = done, 1 = it failed, 2 = the command makes no sense.
"""


def import_main(arguments: Sequence[str]) -> int:
    """Makes a cache of features from elsewhere; returns the exit code."""
    flags = parse_import(arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    return run(lambda: _import(flags, console), console)


def export_main(arguments: Sequence[str]) -> int:
    """Writes the features of a cache in another format; returns the exit code."""
    flags = parse_export(arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    return run(lambda: _export(flags, console), console)


def _import(flags: argparse.Namespace, console: Console) -> int:
    from feature_cache.interchange.base import Request, in_order, store

    folder = flags.cache_dir / flags.encoder / flags.dataset
    if (folder / FILE_NAME).exists() and not flags.overwrite:
        raise CacheError(f"{folder} is a finished cache already. Choose another --cache_dir, or give --overwrite.")
    if (folder / UNFINISHED_FILE).exists() and not flags.overwrite:
        raise CacheError(
            f"{folder} has the shards of an extraction that is not finished, which would be lost. Choose another "
            "--cache_dir, or give --overwrite."
        )
    modalities = in_order(flags.modalities, "--modalities") if flags.modalities else None
    incoming = resolve(IMPORTS, "format", flags.format)(Request(flags.path, flags.encoder, flags.dataset, modalities))
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed} rows"),
                  TimeElapsedColumn(), console=console) as bar:  # fmt: skip
        task = bar.add_task(f"{flags.path} -> {folder}", total=None)
        manifest = store(
            folder, incoming, flags.encoder, flags.dataset, flags.dtype, flags.shard_size, flags.license, flags.url,
            lambda rows: bar.advance(task, rows),
        )  # fmt: skip
    counts = ", ".join(f"{name} {split.count}" for name, split in manifest.splits.items())
    made = f"{folder}: {counts} rows of {', '.join(manifest.modalities)}; {len(manifest.classes)} classes."
    for line in (made, *incoming.notes):
        console.print(line, markup=False)
    return 0


def _export(flags: argparse.Namespace, console: Console) -> int:
    cache = open_cache(flags.cache)
    if not flags.overwrite and flags.path.is_dir() and any(flags.path.iterdir()):
        raise CacheError(f"--path={flags.path} is not empty. Choose another, or give --overwrite to write into it.")
    write = resolve(EXPORTS, "format", flags.format)
    with console.status(f"{flags.cache} -> {flags.path}"):
        notes = write(cache, flags.path)
    for line in (f"{flags.cache} is now in {flags.path}, as {flags.format}.", *notes):
        console.print(line, markup=False)
    return 0


def parse_import(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags of `import`, checked. Ends the program with exit code 2 on a mistake, naming it."""
    parser = _parser("import", "Make a feature cache of features that you already have.", IMPORT_EXAMPLES)
    add = parser.add_argument
    add("--from", dest="format", required=True, type=one_of(IMPORTS, "format"), help=f"one of: {', '.join(IMPORTS)}")
    add("--path", type=Path, required=True, help="folder of the files")
    add("--encoder", type=_folder_name, required=True, help="what embedded them; the cache's folder")
    add("--dataset", type=_folder_name, required=True, help="what of; the cache's folder")
    add("--cache_dir", type=Path, default=Path("caches"), help="folder of all caches (default: caches)")
    several = "what is stored, with commas between (default: what the files or the dataset's name tell)"
    add("--modalities", type=lambda text: text.split(","), help=several)
    add("--dtype", choices=DTYPES, default="float32", help="of the stored features (default: float32)")
    add("--shard_size", type=positive, default=512, help="items of a shard (default: 512)")
    add("--license", default="unknown", help="of the media (default: unknown)")
    add("--url", default="", help="where the features come from")
    add("--overwrite", action="store_true", help="replace a cache that is there")
    return parse_strictly(parser, arguments)


def parse_export(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags of `export`, checked. Ends the program with exit code 2 on a mistake, naming it."""
    parser = _parser("export", "Write the features of a cache in another format.", EXPORT_EXAMPLES)
    add = parser.add_argument
    add("--to", dest="format", required=True, type=one_of(EXPORTS, "format"), help=f"one of: {', '.join(EXPORTS)}")
    add("--cache", type=Path, required=True, help="the cache's folder")
    add("--path", type=Path, required=True, help="folder to write into")
    add("--overwrite", action="store_true", help="write into a folder that is not empty")
    return parse_strictly(parser, arguments)


def _parser(command: str, description: str, examples: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"extract_features.py {command}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def positive(text: str) -> int:
    """An argparse `type` for a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"should be a whole number of at least 1, but is {text!r}")
    return int(text)


def _folder_name(text: str) -> str:
    if not text or text.startswith(".") or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"should be the name of a folder, without a /, but is {text!r}")
    return text
