"""Reads a table of pairs, CSV or Parquet, and says in which row and column it is wrong. No medium is opened.

A column per modality, by its name, has paths; `text` has the captions themselves. `id`, `label`, `class_text` and
`split` may be there. An empty cell and a null are the same.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from feature_cache.errors import MediaError
from feature_cache.manifest import MODALITY_ORDER, SPLITS, ClassLabel
from feature_cache.registry import nearest

ID, LABEL, CLASS_TEXT, SPLIT = "id", "label", "class_text", "split"
COLUMNS = (ID, *MODALITY_ORDER, LABEL, CLASS_TEXT, SPLIT)
Cells: TypeAlias = "Mapping[str, str]"


@dataclass(frozen=True)
class PairTable:
    """A table that has been checked.

    Attributes:
        path: the file, for messages.
        modalities: those that have a column, in storage order.
        classes: the classes by name, sorted.
        rows: the cells of each row by column; all columns of `COLUMNS` that the file has, and `id`.
        has_splits: whether the file says in which split a row is.
    """

    path: Path
    modalities: tuple[str, ...]
    classes: tuple[ClassLabel, ...]
    rows: Sequence[Cells]
    has_splits: bool


def version_of(path: Path) -> str:
    """The SHA-256 of the table's file. Raises `MediaError` if there is none."""
    return hashlib.sha256(_content(path)).hexdigest()


def read_pairs(path: Path) -> PairTable:
    """Reads and checks a table. Raises `MediaError`, which names row, column and value, and what to do.

    Rows are counted from 1, without the line of a CSV that names the columns.
    """
    readers = {".csv": _csv_rows, ".parquet": _parquet_rows}
    if path.suffix.lower() not in readers:
        raise MediaError(f"{path}: a table of pairs should end in .csv or .parquet, but ends in {path.suffix!r}.")
    columns, rows = readers[path.suffix.lower()](path)
    _check_columns(path, columns)
    if not rows:
        raise MediaError(f"{path}: the table has columns but not a single row. Add a row for each item.")
    modalities = tuple(modality for modality in MODALITY_ORDER if modality in columns)
    if ID not in columns:
        width = len(str(len(rows)))
        rows = [{ID: f"{number:0{width}d}", **cells} for number, cells in _numbered(rows)]
    _check_ids(path, rows)
    for number, cells in _numbered(rows):
        if not any(cells[modality] for modality in modalities):
            raise MediaError(
                f"{path}, row {number}: all of {', '.join(modalities)} are empty, so that there is nothing to embed. "
                "Fill one in, or remove the row."
            )
        if SPLIT in columns and cells[SPLIT] not in SPLITS:
            guess = f"; did you mean {nearest(cells[SPLIT], SPLITS)[0]!r}?" if cells[SPLIT] else "."
            raise MediaError(
                f"{path}, row {number}: the split {cells[SPLIT]!r} should be one of {', '.join(SPLITS)}{guess}"
            )
    return PairTable(path, modalities, _classes(path, rows), rows, SPLIT in columns)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediaError(f"--pairs={path} cannot be read: {error.strerror or error}. Check the path.") from None


def _numbered(rows: Iterable[Cells]) -> Iterator[tuple[int, Cells]]:
    return enumerate(rows, 1)


def _csv_rows(path: Path) -> tuple[list[str], list[Cells]]:
    try:
        text = _content(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise MediaError(
            f"{path} should be UTF-8, but byte {error.object[error.start]:#04x} in line {line} is not. Save it as "
            f"UTF-8, for example with `iconv -f latin1 -t utf-8`, if it is Latin-1."
        ) from None
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = next(lines, [])
        rows = [line for line in lines if line]
    except csv.Error as error:
        raise MediaError(f"{path}, line {lines.line_num}: {error}. Put quotes around cells with commas.") from None
    for number, cells in enumerate(rows, 1):
        if len(cells) != len(columns):
            raise MediaError(
                f"{path}, row {number}: there should be {len(columns)} cells, as many as columns, but there are "
                f"{len(cells)}: {cells}. Put cells with commas into double quotes."
            )
    return columns, [dict(zip(columns, cells, strict=True)) for cells in rows]


def _parquet_rows(path: Path) -> tuple[list[str], list[Cells]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(_content(path)))
    except (OSError, pa.ArrowException) as error:
        raise MediaError(
            f"{path} should be a Parquet file, but cannot be read as one: {str(error).rstrip('.')}."
        ) from None
    for field in table.schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        right = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
        if field.name in COLUMNS and not right and not (field.name == ID and pa.types.is_integer(kind)):
            raise MediaError(
                f"{path}: the column {field.name!r} should be text, but is {field.type}. Cast it to strings; a label "
                "is the name of a class, not its number."
            )
    columns = table.schema.names
    values = {name: ["" if cell is None else str(cell) for cell in table[name].to_pylist()] for name in set(columns)}
    return columns, [{name: values[name][row] for name in columns} for row in range(table.num_rows)]


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in COLUMNS:
            hint = " It looks as if ';' or a tab stood between the cells: use commas." if set(name) & set(";\t") else ""
            raise MediaError(
                f"{path}: there is no column {name!r}; the nearest are: {', '.join(nearest(name, COLUMNS))}.{hint} "
                f"The columns are {', '.join(COLUMNS)}; rename it or take it out."
            )
        if columns.count(name) > 1:
            raise MediaError(f"{path}: the column {name!r} is there {columns.count(name)} times. Keep one of them.")
    if not set(columns) & set(MODALITY_ORDER):
        raise MediaError(
            f"{path}: there is no column of a modality, only {', '.join(columns) or 'nothing'}. Add at least one of "
            f"{', '.join(MODALITY_ORDER)}."
        )


def _check_ids(path: Path, rows: Sequence[Cells]) -> None:
    seen: dict[str, int] = {}
    for number, cells in _numbered(rows):
        if not cells[ID]:
            raise MediaError(f"{path}, row {number}: the id is empty. Fill it in, or remove the column.")
        if cells[ID] in seen:
            raise MediaError(
                f"{path}, row {number}: the id {cells[ID]!r} is that of row {seen[cells[ID]]}, too. Ids should be "
                "unique; without the column, rows are numbered."
            )
        seen[cells[ID]] = number


def _classes(path: Path, rows: Sequence[Cells]) -> tuple[ClassLabel, ...]:
    """The classes, each with its text or, where none is given, its name."""
    names = {cells[LABEL] for cells in rows if cells.get(LABEL)}
    texts: dict[str, str] = {}
    for number, cells in _numbered(rows):
        label, text = cells.get(LABEL, ""), cells.get(CLASS_TEXT, "")
        if text and not label:
            raise MediaError(f"{path}, row {number}: there is the class_text {text!r} but no label. Fill it in.")
        if text and texts.setdefault(label, text) != text:
            raise MediaError(
                f"{path}, row {number}: the class_text of {label!r} is {text!r}, but in an earlier row it is "
                f"{texts[label]!r}. A class has one text."
            )
    return tuple(ClassLabel(name, texts.get(name, name)) for name in sorted(names))
