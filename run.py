"""Trains, reports, compares, sweeps. `python run.py --help` shows examples; without arguments it is the demo."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from feature_cache.errors import UserError
from feature_cache.flags import unknown_flags
from feature_cache.registry import check_name

EXAMPLES = """
examples:
  python run.py                                                       the demo: zero-shot, vanilla and dns
  python run.py train --config=configs/pocket.py --config.method=dns --workdir=runs/pocket_dns
  python run.py train --config=configs/paper.py:imagebind --workdir=runs/imagebind_dns
  python run.py report --workdir=runs/pocket_dns
  python run.py compare --config=configs/pocket.py --methods=vanilla,dns,joint --orders=5 --workdir=runs/compare
  python run.py sweep --config=configs/sweep_pocket.py --workdir=runs/sweep

Any field of a config can be set: --config.training.epochs=2. Fields and defaults are in configs/defaults.py. A run that
was stopped goes on when the same command is given again. Exit code: 0 = done, 1 = it failed, 2 = the command makes no
sense.
"""
DEMO_METHODS = ("vanilla", "dns")


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line asks for; returns the exit code."""
    flags = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        if flags.command is not report:
            from cmcl_jax.compilation_cache import use_compilation_cache

            use_compilation_cache()
        flags.command(flags)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename}: {error.strerror}. Choose another --workdir or --out.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. To go on, give the same command again.", file=sys.stderr)
        return 130
    return 0


def demo(flags: argparse.Namespace) -> None:
    """Trains the demo's methods side by side and reports."""
    if any(override.startswith("method=") for override in flags.overrides):
        raise UserError(f"The demo trains {' and '.join(DEMO_METHODS)}; for one of them, use `python run.py train`.")
    workdirs = [flags.workdir / method for method in DEMO_METHODS]
    for method, workdir in zip(DEMO_METHODS, workdirs, strict=True):
        _train(flags.config, [*flags.overrides, f"method={method}"], workdir)
    _report(workdirs, flags.workdir)


def train(flags: argparse.Namespace) -> None:
    """Trains one run and reports it."""
    _train(flags.config, flags.overrides, flags.workdir)
    _report([flags.workdir], flags.workdir)


def report(flags: argparse.Namespace) -> None:
    """Reports finished runs, or a sweep."""
    from cmcl_jax.sweeps.results import TABLE

    if any((workdir / TABLE).exists() for workdir in flags.workdir):
        if len(flags.workdir) > 1 or flags.out is not None:
            raise UserError("A sweep is reported alone, in its own folder: give one --workdir, and no --out.")
        _report_sweep(flags.workdir[0], None)
        return
    _report(flags.workdir, flags.workdir[0] if flags.out is None else flags.out)


def compare(flags: argparse.Namespace) -> None:
    """Trains methods over orders of the steps and compares them."""
    from rich.console import Console

    from cmcl_jax.compare import check_methods, train_all
    from cmcl_jax.config import load_config
    from cmcl_jax.progress import RunsProgress
    from cmcl_jax.report.comparison_report import write_comparison

    for field in ("method", "stream.order_seed"):
        if any(override.startswith(f"{field}=") for override in flags.overrides):
            raise UserError(f"A comparison sets config.{field} itself; use --methods and --orders.")
    methods = flags.methods.split(",")
    check_methods(methods)
    config = load_config(flags.config, flags.overrides)
    with RunsProgress(Console(stderr=True), runs=len(methods) * flags.orders) as progress:
        workdirs = train_all(config, methods, flags.orders, flags.workdir, progress)
    report = write_comparison(workdirs, flags.workdir)
    console = Console()
    for table in report.tables:
        console.print(table.rich())
    console.print("Written: " + ", ".join(str(file) for file in report.files), highlight=False, soft_wrap=True)


def sweep(flags: argparse.Namespace) -> None:
    """Trains a grid of runs as few programs, on all devices, and reports the best."""
    from rich.console import Console

    from cmcl_jax.metrics.transfer import SUMMARY
    from cmcl_jax.sweeps import load_sweep
    from cmcl_jax.sweeps import sweep as train_sweep
    from cmcl_jax.sweeps.hosts import join
    from cmcl_jax.sweeps.progress import SweepProgress
    from cmcl_jax.sweeps.sweep import check_flags

    check_flags(flags.chunk, flags.memory_gb)
    if flags.metric is not None:
        larger_is_better = [name for name in SUMMARY if not name.startswith("forgetting")]
        check_name(larger_is_better, "metric in --metric", flags.metric)
    config = load_sweep(flags.config, flags.overrides)
    process = join(flags.coordinator, flags.num_processes, flags.process_id, flags.distributed)
    memory = None if flags.memory_gb is None else int(flags.memory_gb * 1e9)
    with SweepProgress(Console(stderr=True), flags.metric) as progress:
        train_sweep(config, flags.workdir, progress, process, flags.chunk, memory)
    if process.index == 0:
        _report_sweep(flags.workdir, flags.metric)


def _report_sweep(workdir: Path, metric: str | None) -> None:
    from rich.console import Console

    from cmcl_jax.sweeps.report import write_sweep_report

    report = write_sweep_report(workdir, metric)
    console = Console()
    console.print(report.table.rich())
    console.print(report.note, highlight=False, soft_wrap=True)
    console.print("Written: " + ", ".join(str(file) for file in report.files), highlight=False, soft_wrap=True)


def _train(config: str, overrides: Sequence[str], workdir: Path) -> None:
    from rich.console import Console

    from cmcl_jax.config import load_config
    from cmcl_jax.continual import run
    from cmcl_jax.progress import Progress

    loaded = load_config(config, overrides)
    with Progress(Console(stderr=True)) as progress:
        run(loaded, workdir, progress)


def _report(workdirs: Sequence[Path], out: Path) -> None:
    from rich.console import Console

    from cmcl_jax.report import write_report

    report = write_report(workdirs, out)
    console = Console()
    console.print(report.table.rich())
    console.print("Written: " + ", ".join(str(file) for file in report.files), highlight=False, soft_wrap=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags, checked; `overrides` holds the `--config.field=value`. Ends the program with code 2 on a mistake."""
    parser = _parser()
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["demo", *arguments]
    flags, rest = parser.parse_known_args(arguments)
    for flag, value in zip(rest, rest[1:], strict=False):
        if flag.startswith("--config.") and "=" not in flag and not value.startswith("-"):
            parser.error(f"write {flag}={value}, in one word")
    flags.overrides = [flag.removeprefix("--config.") for flag in rest if flag.startswith("--config.")]
    unknown = [flag for flag in rest if not flag.startswith("--config.") or not hasattr(flags, "config")]
    if unknown:
        unknown_flags(parser, unknown, [name for name in vars(flags) if name not in ("command", "overrides")])
    missing = [f"--{name}" for name in ("config", "workdir") if vars(flags).get(name, "") is None]
    if missing:
        parser.error(f"this command needs {' and '.join(missing)}; `run.py --help` shows examples")
    return flags


def _parser() -> argparse.ArgumentParser:
    layout: dict[str, Any] = {
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "epilog": EXAMPLES,
        "allow_abbrev": False,
    }
    parser = argparse.ArgumentParser(
        prog="run.py", description="Continual multimodal contrastive learning on cached features.", **layout
    )
    commands = parser.add_subparsers(title="commands", metavar="{demo,train,report,compare,sweep}", required=True)

    def add_training(
        command: Callable[[argparse.Namespace], None], config: str | None = None, workdir: Path | None = None
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(command.__name__, help=command.__doc__, description=command.__doc__, **layout)
        sub.add_argument("--config", default=config, help=f"config file, maybe with :variant{_default(config)}")
        sub.add_argument("--workdir", type=Path, default=workdir, help=f"where results go{_default(workdir)}")
        sub.set_defaults(command=command)
        return sub

    add_training(demo, "configs/pocket.py", Path("runs/demo"))
    add_training(train)
    sub = commands.add_parser("report", help=report.__doc__, description=report.__doc__, **layout)
    sub.add_argument("--workdir", type=Path, nargs="+", help="folders of the runs to compare")
    sub.add_argument("--out", type=Path, help="where report.md and figures go (default: the first workdir)")
    sub.set_defaults(command=report)
    sub = add_training(compare)
    sub.add_argument("--methods", default="vanilla,dns,joint", help="what to compare (default: vanilla,dns,joint)")
    sub.add_argument("--orders", type=_at_least_one, default=5, help="in how many orders of the steps (default: 5)")
    sub = add_training(sweep)
    sub.add_argument("--metric", help="by which settings are chosen (default: r10, and acc without recall)")
    sub.add_argument("--chunk", type=_at_least_one, help="runs per device at a time (default: what memory allows)")
    sub.add_argument("--memory-gb", type=float, help="what a sweep may use on each device (default: 60 percent of it)")
    sub.add_argument("--coordinator", help="host:port of process 0, for jax.distributed")
    sub.add_argument("--num-processes", type=_at_least_one, help="how many processes share the sweep")
    sub.add_argument("--process-id", type=int, help="which of them this is, from 0")
    sub.add_argument("--distributed", action="store_true", help="processes are those that SLURM or MPI started")
    return parser


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _default(value: object) -> str:
    return f" (default: {value})" if value else ""


if __name__ == "__main__":
    sys.exit(main())
