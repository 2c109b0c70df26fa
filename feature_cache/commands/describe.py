"""`extract_features.py describe`: what a dataset needs, where to get it, and what of it is on the disk."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from feature_cache import datasets
from feature_cache.flags import parse_strictly, some_of
from feature_cache.sources.inventory import Finding, verdict
from feature_cache.sources.provenance import GB, PROVENANCE, Manual, Provenance
from feature_cache.sources.table_of_pairs import FOLDER, describe_folder

EXAMPLES = """
examples:
  python extract_features.py describe --dataset=nyudv2
  python extract_features.py describe --dataset=paper --data_root=/data

Exit code: 0 = every dataset is complete, 1 = one is not, 2 = the command makes no sense.
"""


def main(arguments: Sequence[str]) -> int:
    """Describes the datasets that the command line names; returns the exit code."""
    flags = _parse(arguments)
    console = Console(highlight=False, soft_wrap=True)
    complete = [_describe(name, flags.data_root, console) for name in flags.dataset]
    return int(not all(complete))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="extract_features.py describe",
        description="Tell what a dataset needs, where to get it, and what of it is there.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = list(dict.fromkeys([*PROVENANCE, *datasets.REGISTRY, FOLDER]))
    dataset = some_of(names, "dataset", datasets.GROUPS)
    parser.add_argument("--dataset", type=dataset, help=f"needed; some of: {', '.join([*names, *datasets.GROUPS])}")
    parser.add_argument("--data_root", type=Path, default=Path("media"), help="folder of the media (default: media)")
    flags = parse_strictly(parser, arguments)
    if flags.dataset is None:
        parser.error("--dataset is missing; --help shows examples")
    return flags


def _describe(name: str, data_root: Path, console: Console) -> bool:
    """Prints all about one dataset; whether it is complete."""
    if name == FOLDER:
        console.print(describe_folder(), markup=False)
        return True
    if name not in PROVENANCE:
        return _describe_pocket(name, data_root, console)
    source = PROVENANCE[name]
    findings = [check(source.path(data_root)) for check in source.checks]
    console.print(f"[bold]{source.title}[/bold] ({source.name})")
    console.print(terms(source), markup=False)
    console.print(_layout(source, data_root))
    for note in source.notes:
        console.print(f"Note: {note}", markup=False)
    console.print(_found(findings))
    _print_verdict(source, findings, data_root, console)
    return verdict(findings) == "complete"


def terms(source: Provenance) -> str:
    """Licence, origin and sizes, a line each."""
    items = ", ".join(f"{split} {count}" for split, count in source.items.items())
    return "\n".join(
        [
            f"Licence:  {source.license}. {source.terms}",
            f"Home:     {source.homepage}",
            f"Items:    {items}",
            f"Size:     {size_of(source)}",
        ]
    )


def size_of(source: Provenance) -> str:
    """The sizes that somebody has stated, in words."""
    if source.download_size is None or source.disk_size is None:
        return "nobody states it"
    fetch, disk = source.download_size / GB, source.disk_size / GB
    return f"about {fetch:.3g} GB to fetch, {disk:.3g} GB in the end ({source.sizes_from})"


def how_to_get(source: Provenance, data_root: Path) -> str:
    """The command, and by hand what it cannot do."""
    command = f"python extract_features.py download --dataset={source.name} --data_root={data_root}"
    if isinstance(source.origin, Manual):
        steps = (step.format(folder=source.path(data_root)) for step in source.origin.steps[:-1])
        numbered = "".join(f"\n  {index}. {step}" for index, step in enumerate(steps, 1))
        return f"To get it:{numbered}\n  {len(source.origin.steps)}. {command}"
    return f"To get it, or the rest of it: {command}"


def _layout(source: Provenance, data_root: Path) -> Tree:
    tree = Tree(str(source.path(data_root)))
    for path, meaning in source.layout:
        tree.add(f"{_escaped(path)}\n  [dim]{_escaped(meaning)}[/dim]")
    return tree


def _found(findings: Sequence[Finding]) -> Table:
    table = Table("what", "where", box=None, pad_edge=False)
    table.add_column("found", justify="right")
    table.add_column("expected", justify="right")
    for finding in findings:
        expected = "?" if finding.expected is None else f"{finding.expected:,}"
        style = "green" if finding.complete else "red"
        table.add_row(_escaped(finding.what), _escaped(finding.where), f"{finding.found:,}", expected, style=style)
    return table


def _print_verdict(source: Provenance, findings: Sequence[Finding], data_root: Path, console: Console) -> None:
    result = verdict(findings)
    console.print(f"{source.name}: {result}", style="green" if result == "complete" else "red", markup=False)
    if result == "complete":
        return
    missing: list[str] = []
    for finding in findings:
        missing += finding.missing
    for path in dict.fromkeys(missing):  # what a missing table would list is missing with it
        console.print(f"  missing: {path}", markup=False)
    console.print(how_to_get(source, data_root), markup=False)


def _describe_pocket(name: str, data_root: Path, console: Console) -> bool:
    """A dataset of the pocket suite: what its packages are, and which are unpacked."""
    from feature_cache.datasets.pocket.archives import ARCHIVES, is_unpacked

    archives = [archive for archive in ARCHIVES if archive.dataset == name]
    console.print(f"[bold]{name}[/bold], of the pocket suite; docs/pocket.md describes it")
    lines = []
    for archive in archives:
        there = is_unpacked(archive, data_root)
        what = f"{archive.package} ({archive.url}): {'' if there else 'not '}in {archive.folder(data_root)}"
        lines.append((what, "green" if there else "red"))
    if not archives:
        console.print("It is made from the media of other datasets of the suite.")
        archives = list(ARCHIVES)
    for line, style in lines:
        console.print(line, style=style, markup=False)
    complete = all(is_unpacked(archive, data_root) for archive in archives)
    console.print(f"{name}: {'complete' if complete else 'incomplete'}", style="green" if complete else "red")
    if not complete:
        console.print(
            f"To get it: make pocket-media (python -m feature_cache.datasets.pocket.media --data_root={data_root})"
        )
    return complete


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
