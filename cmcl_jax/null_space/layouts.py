"""Where the matrix is in a parameter: which axes are its input, which its output, and which number many matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax.serialization import register_serialization_state
from jaxtyping import Array, Float, PyTree


@jax.tree_util.register_static
@dataclass(frozen=True)
class WeightDimensionNumbers:
    """The axes of a parameter that together are the input and the output of its matrix.

    Axes named in neither are batch axes: each index along them is a matrix of its own, with its own projectors. Axes
    may be negative. Several axes are flattened in the order in which they stand here. To JAX it is a static node of a
    tree, without leaves: an optimizer's state carries it through jit, vmap, scan and checkpoints.

    | parameter                          | shape               | inputs      | outputs  |
    |------------------------------------|---------------------|-------------|----------|
    | Flax, Haiku dense kernel           | (in, out)           | (0,)        | (1,)     |
    | torch, Equinox dense weight        | (out, in)           | (1,)        | (0,)     |
    | convolution, of flattened patches  | (h, w, in, out)     | (0, 1, 2)   | (3,)     |
    | attention: query, key, value       | (in, heads, dim)    | (0,)        | (1, 2)   |
    | attention: out                     | (heads, dim, out)   | (0, 1)      | (2,)     |
    | stacked (scanned) dense kernels    | (layers, in, out)   | (1,)        | (2,)     |
    | bias of query, key, value          | (heads, dim)        | ()          | (0, 1)   |

    Attributes:
        inputs: axes whose sizes multiply to `d_in`. Empty for a bias, whose input is always 1.
        outputs: axes whose sizes multiply to `d_out`; at least one.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


# Flax checkpoints (msgpack) hold arrays only: the numbers are taken from the state that is restored into.
register_serialization_state(WeightDimensionNumbers, lambda numbers: {}, lambda numbers, state: numbers)

DimensionNumbers: TypeAlias = PyTree | Callable[[PyTree], PyTree] | None
DENSE = WeightDimensionNumbers((0,), (1,))
BIAS = WeightDimensionNumbers((), (0,))


def numbers_of_leaves(dimension_numbers: DimensionNumbers, params: PyTree) -> PyTree:
    """The tree of `params` with valid `WeightDimensionNumbers` of axes from 0, or `None`, in place of each leaf.

    Raises:
        ValueError: if a leaf has no entry, or one that does not fit it; and, without dimension numbers, if the
          parameters are a single vector, as inside `optax.flatten`.
    """
    if dimension_numbers is None:
        if isinstance(params, jax.Array) and params.ndim == 1:
            raise ValueError(
                f"dimension_numbers: the parameters are one vector of {params.size} numbers; optax.flatten hides "
                "which of them are kernels and biases. Put dual_null_space() outside of flatten, after it in the chain."
            )
        return jax.tree.map(lambda leaf: {1: BIAS, 2: DENSE}.get(np.ndim(leaf)), params)
    entries = _entries(dimension_numbers)
    if callable(dimension_numbers) and not any(map(_is_numbers, entries.values())):  # an Equinox module can be called
        entries = _entries(dimension_numbers(params))
    return jax.tree.map_with_path(lambda path, leaf: _valid(_entry(entries, path, leaf), path, leaf), params)


def sizes(shape: tuple[int, ...], numbers: WeightDimensionNumbers) -> tuple[tuple[int, ...], int, int]:
    """Sizes of the batch axes, `d_in` and `d_out`."""
    size = lambda axes: tuple(shape[axis] for axis in axes)  # noqa: E731
    return size(_batch(len(shape), numbers)), math.prod(size(numbers.inputs)), math.prod(size(numbers.outputs))


def as_matrices(
    leaf: Float[Array, ...], numbers: WeightDimensionNumbers
) -> tuple[Float[Array, ...], Callable[[Float[Array, ...]], Float[Array, ...]]]:
    """The leaf as `(*batch, d_in, d_out)`, where a bias is a single row, and the function that undoes it."""
    order = (*_batch(leaf.ndim, numbers), *numbers.inputs, *numbers.outputs)
    moved = jnp.transpose(leaf, order)
    batch, d_in, d_out = sizes(leaf.shape, numbers)
    undo = sorted(range(leaf.ndim), key=order.__getitem__)
    return moved.reshape(*batch, d_in, d_out), lambda matrices: jnp.transpose(matrices.reshape(moved.shape), undo)


def _batch(ndim: int, numbers: WeightDimensionNumbers) -> tuple[int, ...]:
    return tuple(axis for axis in range(ndim) if axis not in numbers.inputs + numbers.outputs)


def _is_numbers(node: PyTree) -> bool:
    return isinstance(node, WeightDimensionNumbers)


def _entries(tree: PyTree) -> dict[tuple[Any, ...], Any]:
    found, _ = jax.tree.flatten_with_path(tree, is_leaf=lambda node: node is None or _is_numbers(node))
    return dict(found)


def _entry(entries: dict[tuple[Any, ...], Any], path: tuple[Any, ...], leaf: Array) -> WeightDimensionNumbers | None:
    """What stands at the leaf or at a subtree that holds it; by path, since `masked` cuts subtrees out of `params`."""
    for length in range(len(path) + 1):
        found = entries.get(path[:length])
        if _is_numbers(found) or (found is None and path[:length] in entries):
            return found
    raise ValueError(
        f"dimension_numbers has no entry for the leaf {_name(path)} of shape {np.shape(leaf)}. Give "
        "WeightDimensionNumbers(inputs, outputs), or None to leave it unprotected, at its path or at a path above it."
    )


def _valid(numbers: WeightDimensionNumbers | None, path: tuple[Any, ...], leaf: Array) -> WeightDimensionNumbers | None:
    if numbers is None:
        return None
    ndim = np.ndim(leaf)
    if problem := _problem(numbers, ndim):
        raise ValueError(f"dimension_numbers: {numbers} of the leaf {_name(path)} of shape {np.shape(leaf)}: {problem}")
    return WeightDimensionNumbers(*(tuple(axis % ndim for axis in axes) for axes in (numbers.inputs, numbers.outputs)))


def _problem(numbers: WeightDimensionNumbers, ndim: int) -> str | None:
    sides = (numbers.inputs, numbers.outputs)
    if not all(isinstance(axes, tuple) and all(isinstance(axis, int) for axis in axes) for axes in sides):
        return "axes are not given as tuples of integers. Write (0,) for axis 0 alone, and () for none."
    if not numbers.outputs:
        return "outputs is empty. Name at least one output axis; a bias has outputs and no inputs."
    for axis in numbers.inputs + numbers.outputs:
        if not -ndim <= axis < ndim:
            return f"axis {axis} is out of range. Use axes below {ndim}; None for this leaf leaves it unprotected."
    inputs, outputs = ([axis % ndim for axis in axes] for axes in sides)
    for side, axes in (("inputs", inputs), ("outputs", outputs)):
        if repeated := sorted({axis for axis in axes if axes.count(axis) > 1}):
            return f"axis {repeated[0]} is repeated in {side}. Name each axis once."
    if both := sorted(set(inputs) & set(outputs)):
        return f"axis {both[0]} is in inputs and in outputs. Keep it in one; a batch axis stands in neither."
    return None


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path) or "(the only one)"
