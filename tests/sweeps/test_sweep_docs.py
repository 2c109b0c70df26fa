"""Every command and block of docs/sweeps.md."""

import re
import shlex
from pathlib import Path

import pytest

import run as cli
from cmcl_jax.sweeps import expand, load_sweep
from tests.sweeps.conftest import TINY

PAGE = Path("docs/sweeps.md").read_text()
TEXT = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL).replace("\\\n", "")
COMMANDS = [shlex.split(line)[2:] for line in re.findall(r"^ {4}(python run.py sweep .*)$", TEXT, re.MULTILINE)]
[PMAP] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_command_describes_a_grid() -> None:
    runs = []
    for command in COMMANDS:
        flags = cli.parse(command)
        runs.append(len(expand(load_sweep(flags.config, flags.overrides))))
    assert runs == [96, 84, 15, 96, 96, 96]
    slurm = re.search(r"srun .venv/bin/python run.py (sweep .*)", TEXT)
    assert slurm is not None
    assert cli.parse(shlex.split(slurm[1])).distributed


def test_its_first_command_and_its_report_work_on_a_smaller_stream(
    tiny_caches: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"--config": TINY, "--workdir": str(tmp_path)}
    command = [
        f"{name}={small.get(name, value)}" for name, _, value in (flag.partition("=") for flag in COMMANDS[0][1:])
    ]
    more = [f"--config.cache_dir={tiny_caches}", "--config.sweep.method=vanilla", "--config.seeds=1"]
    test = "--config.evaluation.split=test"
    assert cli.main(["sweep", *command, *more, test]) == 0
    shown = capsys.readouterr()
    assert "2 of 2 runs · best r10" in shown.err
    assert "on which no setting may be chosen" in shown.out
    assert cli.main(["report", f"--workdir={tmp_path}"]) == 0
    assert cli.main(["report", f"--workdir={tmp_path}", "--out=elsewhere"]) == 1
    assert "A sweep is reported alone" in capsys.readouterr().err


def test_the_example_with_pmap_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(PMAP, "docs/sweeps.md", "exec"), {"__name__": "page"})
    assert capsys.readouterr().out == "(1, 3)\n"
