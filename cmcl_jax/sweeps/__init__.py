"""Many runs as few programs: side by side on a device, over all its neighbours, and over hosts. See docs/sweeps.md."""

from cmcl_jax.sweeps.grid import SweepRun, expand, load_sweep
from cmcl_jax.sweeps.sweep import sweep

__all__ = ["SweepRun", "expand", "load_sweep", "sweep"]
