"""Dual-sided null-space projection for optax chains. It uses nothing else of this project.

transform.py     dual_null_space(): projects what passes through
rotation.py      in_rotated_coordinates(): an optimizer in coordinates of which the protected ones stay zero
stacking.py      stack_biases(): kernel and bias as one matrix, the tight form
adapters.py      low-rank changes that cannot touch what is protected
projectors.py    projector(): from a second moment to an orthogonal projector
free_part.py     what a projector leaves, for the arithmetic that its rank asks for
ranks.py         its threshold rules: how many directions count as used
protection.py    replace_projectors(), protected_fraction(): what an optimizer's state protects
layouts.py       WeightDimensionNumbers: where the matrix is in a parameter
variables.py     projectors outside of Flax NNX's Variables
"""

from cmcl_jax.null_space.adapters import LowRankAdapter, adapter_kernel, adapter_projectors, init_adapter
from cmcl_jax.null_space.layouts import WeightDimensionNumbers
from cmcl_jax.null_space.projectors import (
    HIGHEST,
    NullSpaceProjector,
    Subspace,
    Subspaces,
    as_matrix,
    projector,
    subspace,
)
from cmcl_jax.null_space.protection import protected_fraction, replace_projectors
from cmcl_jax.null_space.ranks import THRESHOLD_RULES
from cmcl_jax.null_space.rotation import RotatedState, in_rotated_coordinates
from cmcl_jax.null_space.stacking import StackedBiasesState, stack_biases
from cmcl_jax.null_space.transform import DualNullSpaceState, dual_null_space

__all__ = [
    "HIGHEST",
    "THRESHOLD_RULES",
    "DualNullSpaceState",
    "LowRankAdapter",
    "NullSpaceProjector",
    "RotatedState",
    "StackedBiasesState",
    "Subspace",
    "Subspaces",
    "WeightDimensionNumbers",
    "adapter_kernel",
    "adapter_projectors",
    "as_matrix",
    "dual_null_space",
    "in_rotated_coordinates",
    "init_adapter",
    "projector",
    "protected_fraction",
    "replace_projectors",
    "stack_biases",
    "subspace",
]
