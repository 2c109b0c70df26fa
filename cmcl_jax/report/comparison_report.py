"""From the runs of a comparison to a page, two figures and a file of numbers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cmcl_jax.report import comparison_tables as tables
from cmcl_jax.report.comparison import load_comparison
from cmcl_jax.report.comparison_tasks import tasks_table
from cmcl_jax.report.tables import Table
from feature_cache.atomic import write_atomically

PAGE = """# {title}

Percentages, mean ± half of the 95 % confidence interval; the best value of each column is bold.

## After the last step

{levels}

{intervals} Acc and R@k are means over the test tasks. R@k averages both directions. BWT is the mean change of the
tasks learned before the last step since they were learned; joint training has none. `random` is the expected value for
random scores, `zero-shot` the start before any training.

## Over the steps

![Accuracy and R@10 over the steps](levels.png)

Mean over the test tasks after each step; bands are the confidence intervals. They are wide where the orders differ in
which tasks were trained by then. Joint training has made as many updates as the others, on batches of all steps.
"""
DIFFERENCES = """
## {title}

{differences}

![Paired differences](differences.png)

Differences are taken within the same order and seed, in percentage points; bold: for the better, and the interval
excludes zero. p, pairs: paired t-test over all pairs of order and seed, which takes them as independent. p, orders:
t-test over the means of the orders, the careful one. p, ranks: Wilcoxon's signed-rank test over all pairs. All are
two-sided and not corrected for the number of rows.
"""
TASKS = """
## Task by task

{tasks}

Means over orders and seeds: of the zero-shot start, and for each method just after a task's own step → after the last
one.
"""
INTERVALS = {
    "orders": "The intervals are Student's over the orders of the steps, each the mean of its seeds.",
    "seeds": "There is one order of the steps: the intervals are Student's over its seeds, and know no other order.",
}


class ComparisonReport(NamedTuple):
    """What `write_comparison` made.

    Attributes:
        tables: the levels, and the differences if there are several methods.
        files: report.md, comparison.json and the figures.
    """

    tables: tuple[Table, ...]
    files: tuple[Path, ...]


def write_comparison(workdirs: Mapping[str, Sequence[str | Path]], out_dir: str | Path) -> ComparisonReport:
    """Compares methods over orders and seeds: writes report.md, comparison.json, levels.png and differences.png.

    Args:
        workdirs: the folders of each method's runs, one for each order, the orders of all methods alike.
        out_dir: where the files go.

    Raises:
        RunError: see `load_comparison`.
    """
    from cmcl_jax.report import comparison_figures, figures  # matplotlib takes a second to import

    comparison = load_comparison(workdirs)
    levels = tables.levels_table(comparison)
    shown, contents = [levels], {"levels.png": figures.png(comparison_figures.levels(comparison))}
    page = PAGE.format(title=levels.title, levels=levels.markdown(), intervals=INTERVALS[comparison.over])
    if comparison.others:
        differences = tables.differences_table(comparison)
        page += DIFFERENCES.format(title=differences.title, differences=differences.markdown())
        contents["differences.png"] = figures.png(comparison_figures.differences(comparison))
        shown.append(differences)
    page += TASKS.format(tasks=tasks_table(comparison).markdown())
    contents["comparison.json"] = json.dumps(tables.as_json(comparison), indent=2, ensure_ascii=False).encode()
    contents["report.md"] = page.encode()
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(out / name, content)
    return ComparisonReport(tuple(shown), tuple(out / name for name in contents))
