"""What a time was measured on: the facts that every JSON file begins with."""

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


def environment() -> dict[str, Any]:
    """Processor, cores, memory, versions, device, day."""
    import jax

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "vector_instructions": "AVX-512" if "avx512f" in _cpuinfo("flags").split() else None,
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in PACKAGES},
        "device": jax.devices()[0].device_kind,
        "date": datetime.now(UTC).date().isoformat(),
    }


def in_words(facts: dict[str, Any]) -> str:
    """One line for below a table."""
    return (
        f"{facts['date']}: {facts['cores']} cores of {facts['processor']}, device {facts['device']}, jax "
        f"{facts['jax']}, torch {facts['torch']}, load average {facts['load_at_start']} at the start."
    )


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    """The first value of a field of /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")
