"""`extract_features.py inspect`: what is in caches, and whether it is whole."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from feature_cache.commands.failing import run
from feature_cache.errors import extract_command
from feature_cache.flags import parse_strictly
from feature_cache.inspection import THRESHOLD, Inspection, find_caches, inspect
from feature_cache.manifest import CLASS_FILE, MediaSource

EXAMPLES = f"""
examples:
  python extract_features.py inspect --cache=caches/pocketbind/emoji
  python extract_features.py inspect --cache caches/pocketbind/emoji caches/pocketbind/sounds
  python extract_features.py inspect --cache=caches --json

A folder of caches stands for all of them. Norms, and the share of rows that repeat an earlier one, are of all rows. The
effective rank is the exponential of the entropy of the normalised spectrum of the training rows' second moment (Roy and
Vetterli 2007); directions are its eigenvalues above {THRESHOLD:g} of the largest, which dns keeps at that threshold.
Every file is read whole and compared with its checksum. Exit code: 0 = all caches are whole, 1 = one is not, 2 = the
command makes no sense.
"""
SHOWN = 5
"""Problems and sources beyond so many are only counted."""


def main(arguments: Sequence[str]) -> int:
    """Prints what the command line asks for on standard output; returns the exit code."""
    flags = parse(arguments)
    console = Console(highlight=False, soft_wrap=True)
    aside = Console(stderr=True, highlight=False, soft_wrap=True)
    return run(lambda: _inspect(flags, console, aside), aside)


def _inspect(flags: argparse.Namespace, console: Console, aside: Console) -> int:
    folders = list(dict.fromkeys(folder for path in flags.cache for folder in find_caches(path)))
    found = []
    for folder in folders:
        with aside.status(f"reading {folder}"):
            found.append(inspect(folder))
        if not flags.json:
            show(found[-1], console)
    if flags.json:
        print(json.dumps([one.to_json() for one in found], indent=2, ensure_ascii=False))
    elif len(found) > 1:
        console.print(f"{sum(one.whole for one in found)} of {len(found)} caches are whole.")
    return int(not all(one.whole for one in found))


def show(found: Inspection, console: Console) -> None:
    """Prints one cache."""
    console.print(Text(str(found.path), style="bold"), Text(found.state, style="green" if found.whole else "red"))
    for problem in _some(found.problems):
        console.print(f"  {problem}", markup=False, style="red")
    if found.state == "damaged":
        again = f"delete these files and run `{extract_command(found.path)}`, which makes them again."
        console.print(f"  To put it right, {again}", markup=False)
    if found.manifest is not None:
        for name, value in _described(found):
            console.print(f"  {name:<14} {value}", markup=False)
    counts = [f"{split} {count}" + (f" (+ {found.failed[split]} failed)" if found.failed.get(split) else "")
              for split, count in found.rows.items()]  # fmt: skip
    if counts:
        console.print(f"  {'rows':<14} {', '.join(counts)}", markup=False)
    if found.modalities:
        console.print(_table(found))
    if found.whole:
        console.print(f"  {'checksums':<14} every file has the checksum that it was written with", markup=False)
    console.print()


def _described(found: Inspection) -> list[tuple[str, str]]:
    manifest = found.manifest
    assert manifest is not None
    stored = f"{manifest.dtype}, {'brought to length 1' if manifest.normalized else 'as the encoder scales them'}"
    lines = [
        ("encoder", f"{manifest.encoder}, preprocessing {manifest.preprocessing_version}"),
        ("weights", manifest.weights_sha256),
        ("dataset", f"{manifest.dataset}, version {manifest.dataset_version}"),
        ("computed in", manifest.precision),
        ("stored in", stored),
        ("media", "made up" if manifest.synthetic else "real"),
    ]
    lines += [("source", line) for line in _some([_source(source) for source in manifest.sources])]
    for name, labels in manifest.label_sets.items():
        lines.append((name.replace("_", " "), f"{len(labels)}, their texts in {CLASS_FILE}"))
    return lines


def _source(source: MediaSource) -> str:
    return " · ".join(part for part in (f"{source.name} {source.version}", source.license, source.url) if part)


def _some(lines: Sequence[str]) -> list[str]:
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], f"and {more} more"] if more > 0 else list(lines)


def _table(found: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("  modality", no_wrap=True)
    columns = ("dim", "scale", "mean norm", "min", "max", "eff. rank", "directions", "repeated")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for modality, facts in found.modalities.items():
        numbers = (facts.scale, facts.mean_norm, facts.min_norm, facts.max_norm)
        table.add_row(
            f"  {modality}",
            str(facts.dim),
            *(_number(value, ".3f") for value in numbers),
            _number(facts.effective_rank, ".1f"),
            _number(facts.directions, "d"),
            _number(facts.repeated, ".1%"),
        )
    return table


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags, checked. Ends the program with exit code 2 on a mistake, naming it."""
    parser = argparse.ArgumentParser(
        prog="extract_features.py inspect",
        description="Show what is in feature caches, and whether it is whole.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    several = "folder of a cache, or of several; may be given several of them"
    parser.add_argument("--cache", type=Path, nargs="+", action="extend", required=True, help=several)
    parser.add_argument("--json", action="store_true", help="print the same as JSON")
    return parse_strictly(parser, arguments)
