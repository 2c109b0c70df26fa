"""One table, two renderings: `rich` for the terminal, Markdown for a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table as RichTable

NOT_MEASURED = "–"

Entries = tuple[str, list[Mapping[str, Any] | None]]  # a row's label and an entry of summary.json for each column


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: of the run's summary.
        heading: with an arrow towards better values.
        zero_shot: the summary's key for the zero-shot start, None where that has no such value.
        signed: show the sign, for differences.
        lower_is_better: as for forgetting.
    """

    key: str
    heading: str
    zero_shot: str | None = None
    signed: bool = False
    lower_is_better: bool = False


RESULTS = (
    Column("acc", "Acc ↑", "zero_shot_acc"),
    Column("bwt_a", "BWT_A ↑", signed=True),
    Column("r1", "R@1 ↑", "zero_shot_r1"),
    Column("r5", "R@5 ↑", "zero_shot_r5"),
    Column("r10", "R@10 ↑", "zero_shot_r10"),
    Column("bwt_r10", "BWT_R10 ↑", signed=True),
)
TRANSFER = (
    Column("open_acc", "Open acc ↑", "zero_shot_open_acc"),
    Column("learned_a", "Acc just learned ↑", "zero_shot_acc"),
    Column("forgetting_a", "Forgetting_A ↓", lower_is_better=True),
    Column("forward_a", "Forward_A ↑", signed=True),
    Column("gain_a", "Gain_A ↑", signed=True),
    Column("learned_r10", "R@10 just learned ↑", "zero_shot_r10"),
    Column("forgetting_r10", "Forgetting_R10 ↓", lower_is_better=True),
    Column("forward_r10", "Forward_R10 ↑", signed=True),
    Column("gain_r10", "Gain_R10 ↑", signed=True),
)


@dataclass(frozen=True)
class Row:
    """A label and, for each column, the text of the cell and whether it is the column's best."""

    label: str
    cells: tuple[str, ...]
    best: tuple[bool, ...]


@dataclass(frozen=True)
class Table:
    """A finished table: percentages with one decimal, mean ± standard deviation over seeds or half an interval.

    Attributes:
        corner: heading of the labels in Markdown, which has no title: says when the data are synthetic.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    corner: str = "method"

    def rich(self) -> RichTable:
        """For `rich.print`."""
        table = RichTable(
            title=self.title, title_style="bold", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
        )
        table.add_column("method", overflow="fold")
        for heading in self.headings:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            cells = _emphasised(row, "[bold green]", "[/]")
            table.add_row(escape(row.label), *(cell.replace(" ± ", " ±") for cell in cells))  # fits 80 columns
        return table

    def markdown(self) -> str:
        """A Markdown table, without the title."""
        lines = [
            [self.corner, *self.headings],
            ["---", *("---:" for _ in self.headings)],
            *([row.label.replace("|", "\\|"), *_emphasised(row, "**", "**")] for row in self.rows),
        ]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def make_table(
    summaries: Sequence[tuple[str, Mapping[str, Any]]], columns: Sequence[Column] = RESULTS, title: str = "Results"
) -> Table:
    """A row for random scores if the summaries know that level, one for the zero-shot start and one for each run.

    Runs of one stream start alike and share these rows; where they do not (to the decimals shown), each run has its
    own. The best value of a column is emphasised, equal ones together; differences and levels of the zero-shot
    start compete like the others.

    Args:
        summaries: labels and contents of summary.json; if any run is synthetic, title and corner say so.
        columns: `RESULTS` or `TRANSFER`.
        title: of the table.
    """
    note = " (synthetic data)" if any(summary["synthetic"] for _, summary in summaries) else ""
    random = [(label, [summary.get(f"chance_{column.key}") for column in columns]) for label, summary in summaries]
    random = [(label, levels) for label, levels in random if any(levels)]
    starts = [
        (label, [summary[column.zero_shot] if column.zero_shot else None for column in columns])
        for label, summary in summaries
    ]
    ends = [(label, [summary[column.key] for column in columns]) for label, summary in summaries]
    entries = _shared("random", random, columns) + _shared("zero-shot", starts, columns) + ends
    by_column = zip(columns, zip(*(values for _, values in entries), strict=True), strict=True)
    best = zip(*(_best(values, column) for column, values in by_column), strict=True)
    rows = tuple(
        Row(label, _texts(values, columns), chosen) for (label, values), chosen in zip(entries, best, strict=True)
    )
    return Table(title + note, tuple(column.heading for column in columns), rows, "method" + note)


def _shared(name: str, rows: Sequence[Entries], columns: Sequence[Column]) -> list[Entries]:
    """One row of this name if all read the same, else one for each label."""
    if len({_texts(values, columns) for _, values in rows}) == 1:
        return [(name, rows[0][1])]
    return [(f"{name} of {label}", values) for label, values in rows]


def _shown(entry: Mapping[str, Any] | None) -> float | None:
    """The mean as the table shows it, without a minus before zero."""
    return None if entry is None or entry["mean"] is None else round(entry["mean"], 1) + 0.0


def _best(entries: Sequence[Mapping[str, Any] | None], column: Column) -> list[bool]:
    shown = [_shown(entry) for entry in entries]
    known = [value for value in shown if value is not None]
    target = (min if column.lower_is_better else max)(known, default=None)
    return [value is not None and value == target for value in shown]


def _texts(entries: Sequence[Mapping[str, Any] | None], columns: Sequence[Column]) -> tuple[str, ...]:
    return tuple(_text(entry, column.signed) for entry, column in zip(entries, columns, strict=True))


def _text(entry: Mapping[str, Any] | None, signed: bool) -> str:
    mean = _shown(entry)
    if entry is None or mean is None:
        return NOT_MEASURED
    text = f"{mean:{'+' if signed else ''}.1f}".replace("-", "−")
    return text if len(entry["seeds"]) < 2 else f"{text} ± {entry['std']:.1f}"


def _emphasised(row: Row, before: str, after: str) -> list[str]:
    return [f"{before}{cell}{after}" if best else cell for cell, best in zip(row.cells, row.best, strict=True)]
