"""Compiled programs that outlive the command: the next one reads them instead of compiling again.

Only the command line turns this on; the library leaves JAX's settings alone. A program that calls back to the host is
never kept: the address of what it calls is part of it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
from pathlib import Path

VARIABLE = "CMCL_COMPILATION_CACHE"
DEFAULT = "~/.cache/cmcl_jax/xla"
MAX_BYTES = 1 << 30  # the least recently used programs go first
MAX_PROGRAMS = 1000  # ten demos; what JAX adds to a folder of so many takes it 40 ms, longer the more there are
ENDS = ("cache", "atime")  # of a program's file, and of that with the time of its last use
SILENT_SINCE = (0, 10, 2)  # before, XLA took tuning flags of its own for missing CPU features at every program it read


def use_compilation_cache() -> Path | None:
    """Points JAX at a folder of compiled programs, in which several processes may read and write at once.

    The folder is one per kind of CPU, below the one that the environment variable CMCL_COMPILATION_CACHE names or
    `~/.cache/cmcl_jax/xla`. With "off", with a folder that JAX's own settings name (JAX_COMPILATION_CACHE_DIR), and
    with a jaxlib that would fill the terminal with false alarms, everything stays as it is. A folder that cannot be
    used is named on stderr, and the command goes on without.

    Returns:
        The folder, None without any of ours.
    """
    choice = os.environ.get(VARIABLE, "")
    if choice == "off":
        return None

    import jax
    import jaxlib.version

    quiet = jaxlib.version.__version_info__ >= SILENT_SINCE
    if not choice and (jax.config.values["jax_compilation_cache_dir"] or not quiet):
        return None
    try:
        folder = Path(choice or DEFAULT).expanduser().absolute() / cpu_name()
        _prepare(folder)
    except (OSError, RuntimeError, ImportError) as error:
        print(
            f"Compiled programs are not kept for the next command: {error}. The environment variable {VARIABLE} names "
            'another folder, or is "off".',
            file=sys.stderr,
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a hundred of them take 0.1 s each
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def cpu_name() -> str:
    """A word for CPUs with the same instructions.

    Programs are compiled for the CPU at hand, by which JAX's keys do not tell them apart: read on another one that
    shares the home directory, they could end with an illegal instruction.
    """
    instructions = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        instructions = next((line for line in lines if line.startswith(("flags", "Features"))), instructions)
    return f"{platform.machine()}-{hashlib.sha256(instructions.encode()).hexdigest()[:8]}"


def _prepare(folder: Path) -> None:
    """The folder exists, can be written, has not too many programs, and every one of them is whole.

    JAX writes a program, then beside it the time of its last use. One alone was left by a process that died in
    between, and JAX would complain about it in every command to come.
    """
    from filelock import FileLock  # which JAX needs for a limit in size

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder), FileLock(folder / ".lockfile", timeout=10):
        programs, uses = ({file.name.rpartition("-")[0]: file for file in folder.glob(f"*-{end}")} for end in ENDS)
        recent = sorted(uses.keys() & programs.keys(), key=lambda name: uses[name].stat().st_mtime_ns)[-MAX_PROGRAMS:]
        for files in (programs, uses):
            for name in files.keys() - set(recent):
                files[name].unlink()
