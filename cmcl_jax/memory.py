"""What is remembered of old features: second moments and means, never the features; and the projectors they give."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cmcl_jax.heads import Head
from cmcl_jax.null_space import HIGHEST, NullSpaceProjector, Subspace, Subspaces, as_matrix, subspace

AxisName: TypeAlias = "str | tuple[str, ...]"


class FeatureMemory(NamedTuple):
    """Running moments of one modality's features.

    Attributes:
        moment: `(d, d)`, the uncentred `E[x x^T]`: the mean is a direction to protect like any other.
        mean: `(d,)`, `E[x]`; it carries the head's bias into the moments of the outputs.
        rows: number of rows seen.
    """

    moment: Float[Array, "d d"]
    mean: Float[Array, " d"]
    rows: Float[Array, ""]


def empty_memory(width: int, dtype: jnp.dtype | type = jnp.float32) -> FeatureMemory:
    """The memory of no rows at all: it protects nothing."""
    return FeatureMemory(jnp.zeros((width, width), dtype), jnp.zeros(width, dtype), jnp.zeros((), dtype))


@functools.partial(jax.jit, static_argnames="axis_name")
def update_memory(
    memory: FeatureMemory,
    features: Float[Array, "n d"],
    valid: Bool[Array, " n"] | None = None,
    axis_name: AxisName | None = None,
) -> FeatureMemory:
    """The memory after also seeing the valid rows of `features`; updating in parts equals updating at once.

    It keeps its dtype, whatever that of the features is. Under `jit`, rows that are sharded over devices or hosts need
    nothing more: the compiler sums over them.

    Args:
        memory: of the rows before, of width `d`.
        features: new rows, `(n, d)`.
        valid: which of them count. `None`: all.
        axis_name: axes of `shard_map` or `pmap` whose devices have different rows and the same memory; the result is
          the memory after the rows of all of them, by `psum`. `None`: these rows are all.

    Raises:
        ValueError: for features of another width than the memory's.
    """
    if features.ndim != 2 or features.shape[1:] != memory.mean.shape:
        raise ValueError(
            f"update_memory: features has shape {features.shape}, but the memory is of rows of width "
            f"{memory.mean.shape[0]}. Give (n, {memory.mean.shape[0]}), or start with empty_memory of your width."
        )
    valid = jnp.ones(features.shape[0], bool) if valid is None else valid
    rows = jnp.where(valid[:, None], features, 0).astype(memory.moment.dtype)
    sums = (jnp.matmul(rows.T, rows, precision=HIGHEST), jnp.sum(rows, axis=0), jnp.sum(valid, dtype=memory.rows.dtype))
    products, total, added = sums if axis_name is None else jax.lax.psum(sums, axis_name)
    count = memory.rows + added
    divisor = jnp.maximum(count, 1)
    moment = (memory.rows * memory.moment + products) / divisor
    mean = (memory.rows * memory.mean + total) / divisor
    return FeatureMemory(moment, mean, count)


def output_moment(memory: FeatureMemory, head: Head) -> Float[Array, "d_out d_out"]:
    """Second moment of the head's outputs on the remembered rows, `E[z z^T]` with `z = K^T x + b`.

    Needs only the moments of the inputs, so it can be taken with today's head long after the rows are gone:
    `K^T S K + K^T μ b^T + b μ^T K + b b^T`.
    """
    kernel, bias = head["kernel"], head["bias"]
    moment = jnp.linalg.multi_dot([kernel.T, memory.moment, kernel], precision=HIGHEST)
    cross = jnp.outer(jnp.matmul(memory.mean, kernel, precision=HIGHEST), bias)
    return moment + cross + cross.T + jnp.outer(bias, bias)


def stacked_moment(memory: FeatureMemory) -> Float[Array, "d+1 d+1"]:
    """Second moment of the rows `[x, 1]`, `[[S, μ], [μ^T, 1]]`, zeros without any: what `stack_biases` needs."""
    column = memory.mean[:, None]
    one = (memory.rows > 0).astype(column.dtype).reshape(1, 1)
    return jnp.block([[memory.moment, column], [column.T, one]])


@functools.partial(jax.jit, static_argnames=("rule", "one_sided", "stacked"))
def projectors_from(
    inputs: Sequence[FeatureMemory],
    partners: Sequence[tuple[FeatureMemory, Head | None]],
    thresholds: tuple[float, float],
    rule: str = "absolute",
    one_sided: bool = False,
    stacked: bool = False,
) -> NullSpaceProjector:
    """What a head must not move, given everything it met.

    Args:
        inputs: one memory of the head's own features per pair that it was trained in.
        partners: for each of those pairs, the partner's memory and its head *as it is today*. With the head of
          back then the projector is stale, and the promise breaks once the partner has moved. `None` for the head: the
          memory is one of outputs already.
        thresholds: of the input side and of the output side, see `projector`.
        rule: threshold rule of `projector`. By all but "absolute", the moments of partner outputs count with a trace of
          1 each, so that a partner of larger outputs does not push the others below the threshold. "noise" takes the
          number of rows from the memories, and them for independent: the same rows in several memories count in each,
          its edge is lower than that of the distinct rows, and noise is protected with the signal. No direction is
          lost by it; a higher threshold makes up for it.
        one_sided: protect all outputs (`P_out = I`) once there is something to protect.
        stacked: `inputs` projects the rows `[x, 1]`, for `stack_biases`. The 1 does not scale with the features, so
          that a threshold between the two scales drops the smaller one.

    Returns:
        Projectors `(d_in, d_in)`, `(d_in + 1, d_in + 1)` if stacked, and `(d_out, d_out)`; of zeros where no row was
        seen.

    Raises:
        ValueError: without any memory of inputs, or of partners.
    """
    found = subspaces_from(inputs, partners, thresholds, rule, one_sided, stacked)
    return NullSpaceProjector(*map(as_matrix, found))


@functools.partial(jax.jit, static_argnames=("rule", "one_sided", "stacked"))
def subspaces_from(
    inputs: Sequence[FeatureMemory],
    partners: Sequence[tuple[FeatureMemory, Head | None]],
    thresholds: tuple[float, float],
    rule: str = "absolute",
    one_sided: bool = False,
    stacked: bool = False,
) -> Subspaces:
    """The projectors of `projectors_from` as `Subspaces`, in the eigenbases of the moments; arguments as there."""
    if not (inputs and partners):
        raise ValueError(
            "projectors_from: inputs and partners must have one memory at least, whose widths say how large the "
            "projectors are. For a head that met nothing yet, give empty_memory(width)."
        )
    seen = _total([memory.rows for memory in inputs])
    moments = [stacked_moment(memory) if stacked else memory.moment for memory in inputs]
    of_inputs = _pooled(moments, [memory.rows for memory in inputs])
    met_outputs = [memory.moment if head is None else output_moment(memory, head) for memory, head in partners]
    if rule != "absolute":
        met_outputs = [_of_unit_trace(moment) for moment in met_outputs]
    of_outputs = _pooled(met_outputs, [memory.rows for memory, _ in partners])
    if one_sided:
        width = of_outputs.shape[0]
        outputs = Subspace(jnp.eye(width, dtype=of_outputs.dtype), jnp.broadcast_to(seen > 0, (width,)))
    else:
        outputs = subspace(of_outputs, thresholds[1], rule, rows=_total([memory.rows for memory, _ in partners]))
    return Subspaces(subspace(of_inputs, thresholds[0], rule, rows=seen), outputs)


def _of_unit_trace(moment: Array) -> Array:
    trace = jnp.trace(moment)
    return moment / jnp.where(trace > 0, trace, 1)


def _pooled(moments: Sequence[Array], counts: Sequence[Array]) -> Array:
    """Mean over all rows of all pairs; pairs that were not met yet have no weight."""
    total = jnp.maximum(_total(counts), 1)
    return _total([moment * (count / total) for moment, count in zip(moments, counts, strict=True)])


def _total(terms: Sequence[Array]) -> Array:
    return sum(terms[1:], terms[0])  # a start of zeros would have a dtype of its own
