"""Eight virtual devices on the processor; their number is fixed when JAX starts, so that they get their own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_eight_devices_do_what_one_does() -> None:
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    script = ROOT / "tests/optax_acceptance/eight_devices.py"
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    ran = done.stdout.splitlines()
    for strength in ("updates", "exact"):
        assert sum(line.startswith(f"{strength} ") for line in ran) == 6
    assert sum(line.startswith("explicit types ") for line in ran) == 3
