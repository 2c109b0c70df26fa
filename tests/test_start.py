"""What starts fast stays fast: heavy packages are imported when they are needed. Times themselves are not tested."""

import json
import subprocess
import sys

HEAVY = ("orbax", "torch", "tensorflow", "grain", "matplotlib", "pyarrow", "pandas", "sklearn", "transformers", "ray")
ASK = """
import contextlib, io, json, sys
import run
said = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        try:
            run.main(arguments)
        except SystemExit as exit:
            said.append([exit.code, out.getvalue()])
print(json.dumps([said, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_help_and_mistakes_in_flags_import_no_jax() -> None:
    commands = ["demo", "train", "report", "compare"]
    asked = [["--help"], *([command, "--help"] for command in commands)]
    mistakes = [["train"], ["trian"], ["--confg=x"], ["compare", "--orders=0"], ["--config.method", "dns"]]
    said, imported = json.loads(python(ASK, json.dumps([*asked, *mistakes])))
    assert [code for code, _ in said] == [0] * len(asked) + [2] * len(mistakes)
    assert all("examples:" in text for _, text in said[: len(asked)])
    assert "argparse" in imported
    assert not ({"jax", "ml_collections", "rich", *HEAVY} - {"pyarrow"}) & set(imported)


def test_the_library_imports_nothing_heavy() -> None:
    code = "import sys, cmcl_jax; print(*{name.partition('.')[0] for name in sys.modules})"
    imported = set(python(code).split())
    assert {"jax", "optax", "flax"} <= imported
    assert not set(HEAVY) & imported
