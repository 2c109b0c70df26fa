"""Where results go: one JSON file per benchmark, one table on the terminal and the same one as markdown."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.speed.environment import environment, in_words
from feature_cache.atomic import write_atomically

FOLDER = Path("docs/speed")
PAGE = Path("benchmarks/README.md")
"""Has a place for the tables of each benchmark, filled in by the runs whose results go to `FOLDER`."""


class Table(NamedTuple):
    """A table of finished cells; the first column is left-aligned."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> RichTable:
        """For a terminal."""
        table = RichTable(title=self.title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for i, column in enumerate(self.columns):
            table.add_column(column, justify="left" if i == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a page.

        >>> print(Table("t", ("side", "s"), [("ours", "1.0")]).markdown())
        **t**
        <BLANKLINE>
        | side | s |
        | --- | ---: |
        | ours | 1.0 |
        """
        lines = [self.columns, ["---"] + ["---:"] * (len(self.columns) - 1), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def publish(name: str, command: str, tables: Sequence[Table], results: Mapping[str, Any], out: Path = FOLDER) -> None:
    """Prints the tables, writes `<out>/<name>.json` and `<out>/<name>.md`, and puts the latter into `PAGE`.

    The page is left alone unless `out` is `FOLDER`.

    Args:
        name: of the benchmark.
        command: that was given.
        tables: finished tables.
        results: everything measured, for the JSON file.
        out: the folder.
    """
    facts = environment()
    console = Console(width=130)
    for table in tables:
        console.print(table.rich())
    console.print(in_words(facts), highlight=False, soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    content = {"command": command, "environment": facts, **results}
    write_atomically(out / f"{name}.json", (json.dumps(content, indent=1) + "\n").encode())
    block = "\n\n".join([*(table.markdown() for table in tables), f"`{command}`", in_words(facts)])
    write_atomically(out / f"{name}.md", (block + "\n").encode())
    if out == FOLDER:
        write_atomically(PAGE, filled_in(PAGE.read_text(), name, block).encode())


def filled_in(page: str, name: str, block: str) -> str:
    """The page with a block between the marks of a benchmark, in the place of what was there.

    >>> filled_in("<!-- a -->old<!-- end of a -->", "a", "new")
    '<!-- a -->\\n\\nnew\\n\\n<!-- end of a -->'

    Raises:
        ValueError: if the page has no such place.
    """
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    place = re.compile(re.escape(first) + ".*?" + re.escape(last), re.DOTALL)
    if not place.search(page):
        raise ValueError(f"filled_in: the page has no place {first} … {last} for the results of {name}. Add it.")
    return place.sub(lambda _: f"{first}\n\n{block}\n\n{last}", page)
