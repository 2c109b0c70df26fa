"""Flax NNX keeps each array in a `Variable`; a state of several arrays per parameter has to stand outside of it.

`jax.tree.map` over a module's state puts what it makes for a parameter *into* the parameter's `Variable`. An
`nnx.Optimizer` updates such a `Variable` as one value: a tuple in it comes back as an `nnx.State` (flax 0.12.8,
`nnx.update`), and the next step no longer finds what it put there. So projectors are laid out over the bare tree.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import jax
from jaxtyping import PyTree


def without_variables(tree: PyTree) -> PyTree:
    """The tree with what its `nnx.Variable`s hold in their place; a tree without any as it is."""
    if "flax.nnx" not in sys.modules:  # nobody can have made one, and its import takes time
        return tree
    from flax import nnx

    is_variable = lambda node: isinstance(node, nnx.Variable)  # noqa: E731
    return jax.tree.map(lambda node: node.get_value() if is_variable(node) else node, tree, is_leaf=is_variable)


def with_variables_of(like: PyTree, tree: PyTree) -> PyTree:
    """Leaves of `tree` in the structure of `like`, the inverse of `without_variables`."""
    return jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(tree))


def in_mapping_of(like: PyTree, tree: PyTree) -> PyTree:
    """A dict as the `nnx.State` or `FrozenDict` that `like` is; these hold plain dicts below their first level."""
    if type(tree) is dict and isinstance(like, Mapping) and type(like) is not dict:
        return type(like)(tree)  # type: ignore[call-arg]
    return tree
