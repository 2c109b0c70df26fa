"""From the folders of finished runs to a table and two figures."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cmcl_jax.report import tables
from cmcl_jax.report.runs import Run, comparable, labels, load_run
from cmcl_jax.stream import Task
from cmcl_jax.workdir import RunError
from feature_cache.atomic import write_atomically

__all__ = ["Report", "Run", "RunError", "Task", "load_run", "write_report"]

PAGE = """# {title}

Percentages, mean ± standard deviation over seeds; the best value of each column is bold.

## After the last step

{results}

Acc and R@k are means over the test tasks. R@k averages both directions. BWT is the mean change of the tasks
learned before the last step since they were learned; joint training has none. `random` is the expected value for random
scores, `zero-shot` the start before any training.

## Over the steps

![Accuracy and R@10 over the steps](accuracy_and_recall.png)

Mean over the test tasks after each step; bands are ± one standard deviation over seeds.

## Forgetting and transfer

{transfer}

Just learned: at the end of a task's own step. Forgetting: the loss since a task's best level after that. Forward: the
change before a task's own step; gain: the change over the whole stream; both from the zero-shot start.

## Task by task

![Every test task over the steps](tasks.png)

The dotted line marks the step that trains the task.
"""


class Report(NamedTuple):
    """What `write_report` made.

    Attributes:
        table: the main table; `table.rich()` for the terminal, `table.markdown()` for a page.
        files: report.md and the figures.
    """

    table: tables.Table
    files: tuple[Path, ...]


def write_report(workdirs: Iterable[str | Path], out_dir: str | Path) -> Report:
    """Compares runs of one stream: writes report.md, accuracy_and_recall.png and tasks.png to `out_dir`.

    Runs with `config.evaluation.stability` get a section more, and stability.png.

    Raises:
        RunError: a run is missing, unfinished or damaged, or the runs are not of the same steps and test tasks.
    """
    from cmcl_jax.report import figures, stability  # matplotlib takes a second to import

    runs = comparable([load_run(workdir) for workdir in workdirs])
    named = labels(runs)
    results, transfer = (
        tables.make_table([(label, run.summary) for label, run in named.items()], columns, _title(runs))
        for columns in (tables.RESULTS, tables.TRANSFER)
    )
    page = PAGE.format(
        title=results.title,
        results=results.markdown(),
        transfer=transfer.markdown(),
    )
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    contents = {
        "report.md": page.encode(),
        "accuracy_and_recall.png": figures.png(figures.accuracy_and_recall(named)),
        "tasks.png": figures.png(figures.tasks(named)),
    }
    if recorded := stability.load(named):
        contents["report.md"] += stability.section(recorded).encode()
        contents["stability.png"] = figures.png(stability.figure(recorded))
    for name, content in contents.items():
        write_atomically(out / name, content)
    return Report(results, tuple(out / name for name in contents))


def _title(runs: list[Run]) -> str:
    encoders = dict.fromkeys(str(run.config["encoder"]) for run in runs)
    seeds = sorted({run.seeds for run in runs})
    count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}–{seeds[-1]}"
    return f"{len(runs[0].steps)} steps on {', '.join(encoders)}, {count} {'seed' if seeds == [1] else 'seeds'}"
