"""What the command line keeps of compiled programs. In other processes: JAX opens one cache in its life."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cmcl_jax import compilation_cache
from cmcl_jax.compilation_cache import VARIABLE, cpu_name, use_compilation_cache

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
ADD = """
import jax, jax.numpy as jnp
from cmcl_jax.compilation_cache import use_compilation_cache
use_compilation_cache()
print(float(jax.jit(lambda x: x @ x + 1)(jnp.eye(3))[0, 0]))
"""


def settings() -> dict[str, object]:
    return {name: jax.config.values[name] for name in SETTINGS}


def program(cache: object, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, VARIABLE: str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(process: subprocess.Popen[str]) -> str:
    """What it printed, and that it complained of nothing."""
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert not any(word in errors.lower() for word in ("warn", "error", "not kept", "cpu_aot")), errors
    return out


def used(cache: Path) -> dict[str, bytes]:
    """The time of each program's last use."""
    return {file.name: file.read_bytes() for file in (cache / cpu_name()).glob("*-atime")}


def kept(cache: Path) -> dict[str, int]:
    """When each program was written, in ns."""
    return {file.name: file.stat().st_mtime_ns for file in (cache / cpu_name()).glob("*-cache")}


def test_the_second_command_reads_every_program_and_compiles_none_that_can_be_kept(
    tiny_caches: Path, tmp_path: Path
) -> None:
    command = ["run.py", "train", "--config=tests/tiny_config.py", f"--config.cache_dir={tiny_caches}"]
    command += ["--config.method=vanilla", "--config.seeds=1", "--config.training.epochs=1"]
    command += ["--config.stream.steps=(('birds', ('text', 'vision'), ('recall',)),)"]
    finished(program(tmp_path / "cache", *command, f"--workdir={tmp_path / 'first'}"))
    programs, uses = kept(tmp_path / "cache"), used(tmp_path / "cache")
    assert len(programs) == len(uses) > 10
    finished(program(tmp_path / "cache", *command, f"--workdir={tmp_path / 'second'}"))
    assert kept(tmp_path / "cache") == programs
    assert all(uses[name] != now for name, now in used(tmp_path / "cache").items())
    first, second = ((tmp_path / run / "summary.json").read_bytes() for run in ("first", "second"))
    assert first == second


def test_processes_share_a_folder_and_mend_what_one_of_them_left_when_it_died(tmp_path: Path) -> None:
    for process in [program(tmp_path, "-c", ADD) for _ in range(2)]:
        assert finished(process) == "2.0\n"
    programs = kept(tmp_path)
    [last] = [file for file in (tmp_path / cpu_name()).glob("jit__lambda-*-cache")]
    last.write_bytes(last.read_bytes()[:100])  # killed while it wrote
    last.with_name(last.name.removesuffix("cache") + "atime").unlink()
    assert finished(program(tmp_path, "-c", ADD)) == "2.0\n"
    assert kept(tmp_path).keys() == programs.keys()
    assert len(last.read_bytes()) > 100


def test_a_folder_with_too_many_programs_loses_those_that_were_not_used_for_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age in range(5):
        for end in ("cache", "atime"):
            (tmp_path / f"jit_f-{age}-{end}").write_bytes(b"content")
            os.utime(tmp_path / f"jit_f-{age}-{end}", (1e9 - age, 1e9 - age))
    monkeypatch.setattr(compilation_cache, "MAX_PROGRAMS", 2)
    compilation_cache._prepare(tmp_path)
    left = {file.name for file in tmp_path.iterdir()} - {".lockfile"}
    assert left == {f"jit_f-{age}-{end}" for age in range(2) for end in ("cache", "atime")}


@pytest.mark.parametrize("value", ["off", "file"])
def test_off_and_a_folder_that_cannot_be_written_change_no_setting(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, value if value == "off" else str(tmp_path / "file"))
    before = settings()
    assert use_compilation_cache() is None
    assert settings() == before
    said = capsys.readouterr().err
    assert said.count("\n") == (value == "file")
    assert value == "off" or (str(tmp_path / "file") in said and "CMCL_COMPILATION_CACHE names another folder" in said)


def test_the_folder_is_in_the_home_directory_unless_jax_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    before = settings()
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
        assert use_compilation_cache() is None
        assert settings()["jax_compilation_cache_dir"] == str(tmp_path / "mine")
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setattr("jaxlib.version.__version_info__", (0, 10, 1))  # it cries wolf: only for who asks for it
        assert use_compilation_cache() is None
        monkeypatch.undo()
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv(VARIABLE, raising=False)
        assert use_compilation_cache() == tmp_path / ".cache" / "cmcl_jax" / "xla" / cpu_name()
        assert settings()["jax_compilation_cache_max_size"] == 1 << 30
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert not (tmp_path / "mine").exists()


def test_importing_the_library_leaves_the_cache_alone(tmp_path: Path) -> None:
    code = "import jax; before = dict(jax.config.values); import cmcl_jax; assert dict(jax.config.values) == before"
    finished(program(tmp_path / "cache", "-c", code))
    assert not (tmp_path / "cache").exists()
