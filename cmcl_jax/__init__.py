"""Continual multimodal contrastive learning in JAX, with dual-sided null-space projection as an optax transform."""

from cmcl_jax.heads import init_heads
from cmcl_jax.layer_memory import capture_layers, empty_layer_memories, layer_projectors, update_layer_memories
from cmcl_jax.losses import info_nce
from cmcl_jax.memory import FeatureMemory, empty_memory, output_moment, projectors_from, update_memory
from cmcl_jax.null_space import (
    DualNullSpaceState,
    LowRankAdapter,
    NullSpaceProjector,
    RotatedState,
    StackedBiasesState,
    WeightDimensionNumbers,
    adapter_kernel,
    adapter_projectors,
    dual_null_space,
    in_rotated_coordinates,
    init_adapter,
    projector,
    protected_fraction,
    replace_projectors,
    stack_biases,
)
from cmcl_jax.optimizers import dns_adamw

__all__ = [
    "DualNullSpaceState",
    "FeatureMemory",
    "LowRankAdapter",
    "NullSpaceProjector",
    "RotatedState",
    "StackedBiasesState",
    "WeightDimensionNumbers",
    "adapter_kernel",
    "adapter_projectors",
    "capture_layers",
    "dns_adamw",
    "dual_null_space",
    "empty_layer_memories",
    "empty_memory",
    "in_rotated_coordinates",
    "info_nce",
    "init_adapter",
    "init_heads",
    "layer_projectors",
    "output_moment",
    "projector",
    "projectors_from",
    "protected_fraction",
    "replace_projectors",
    "stack_biases",
    "update_layer_memories",
    "update_memory",
]
