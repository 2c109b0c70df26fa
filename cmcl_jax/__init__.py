"""Continual multimodal contrastive learning in JAX, with dual-sided null-space projection as an optax transform."""

from cmcl_jax.heads import init_heads
from cmcl_jax.layouts import WeightDimensionNumbers
from cmcl_jax.losses import info_nce
from cmcl_jax.memory import FeatureMemory, empty_memory, output_moment, projectors_from, update_memory
from cmcl_jax.null_space import (
    DualNullSpaceState,
    NullSpaceProjector,
    dual_null_space,
    projector,
    protected_fraction,
    replace_projectors,
)
from cmcl_jax.optimizers import dns_adamw

__all__ = [
    "DualNullSpaceState",
    "FeatureMemory",
    "NullSpaceProjector",
    "WeightDimensionNumbers",
    "dns_adamw",
    "dual_null_space",
    "empty_memory",
    "info_nce",
    "init_heads",
    "output_moment",
    "projector",
    "projectors_from",
    "protected_fraction",
    "replace_projectors",
    "update_memory",
]
