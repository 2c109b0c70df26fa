"""Every block, command and table of docs/optax.md."""

import importlib
import inspect
import re
import shlex
from pathlib import Path

import optax
import pytest

import cmcl_jax
from tests.optax_acceptance.test_wrappers import BREAK, KEEP

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/optax.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TEXT = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for line in re.findall(r"^ {4}(\w.*)$", TEXT, re.MULTILINE)]


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block {i + 1}" for i in range(len(BLOCKS))])
def test_its_code_runs(block: str) -> None:
    assert "assert" in block  # and shows something
    exec(compile(block, "docs/optax.md", "exec"), {"__name__": "page"})


def test_it_has_its_four_blocks_and_five_commands() -> None:
    assert len(BLOCKS) == 4
    assert COMMANDS == [
        ["pip", "install", "."],
        ["python", "-m", "examples.optax_recipe"],
        ["python", "-m", "examples.two_towers"],
        ["python", "-m", "examples.mlp_classifier"],
        ["python", "-m", "examples.finetune_minilm"],
    ]


def test_its_first_example_is_of_fifteen_lines() -> None:
    assert len(BLOCKS[0].strip().splitlines()) <= 15


@pytest.mark.parametrize("module", [command[2] for command in COMMANDS[1:]])
def test_its_commands_name_programs(module: str) -> None:
    """tests/examples runs them."""
    assert callable(importlib.import_module(module).main)
    assert (ROOT / "tests/examples" / f"test_{module.rpartition('.')[2]}.py").is_file()


def test_what_it_says_keeps_and_breaks_the_promise_is_what_is_tested() -> None:
    [table] = re.findall(r"\| keeps the promise \| breaks it \|\n(?:\|.*\n)+", PAGE)
    keeps, breaks = zip(*(row.strip("|").split(" | ") for row in table.strip().splitlines()[2:]), strict=True)
    for name in BREAK:
        assert f"`{name}`" in " ".join(breaks), name
    for name in KEEP:
        if name.isidentifier() and name not in ("scale", "zero_nans"):
            assert f"`{name}`" in " ".join(keeps), name


def test_the_names_of_its_tables_exist() -> None:
    names = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\|.*$", PAGE, re.M)))) - {"WeightDimensionNumbers"}
    assert len(names) > 15
    for name in names:
        assert hasattr(optax, name) or hasattr(optax.contrib, name), name
    for name in re.findall(r"`tests/[\w/]+\.py`", PAGE):
        assert (ROOT / name.strip("`")).is_file()
    assert "dimension_numbers" in inspect.signature(cmcl_jax.dual_null_space).parameters
