"""Memories of every dense layer of a Flax Linen network, for networks whose heads are not one linear map.

Row `i` enters layer ℓ as `x_ℓ(i)` and leaves it as `y_ℓ(i) = x_ℓ(i) K_ℓ + b_ℓ`; the network's output is `z(i)`, and
`J_ℓ(i) = ∂z(i)/∂y_ℓ(i)`. Changing the layers by `ΔK_ℓ, Δb_ℓ` moves the old alignment `A_ij = z(i) · z_b(j)` with the
output `z_b(j)` of a partner to first order by

    Σ_ℓ (x_ℓ(i) ΔK_ℓ + Δb_ℓ) J_ℓ(i)^T z_b(j)

so that layer ℓ must not move from the inputs `x_ℓ(i)` to the *directions* `J_ℓ(i)^T z_b(j)`: partner outputs carried
back to the layer. With `P_in` onto the former and `P_out` onto the latter, `ΔK − P_in ΔK P_out` and `Δb − Δb P_out`
move no old alignment to first order in all layers together (for one linear layer `J = I`, and this is the rule of
`cmcl_jax.null_space`). To what order it holds depends on `P_out`:

* *two-sided*: a finite change also bends `x_ℓ` and `J_ℓ`; the drift falls with the square of the learning rate, also
  when only this one network moves (a linear head that moves alone has no such term).
* *one-sided* (`P_out = I`): `x_ℓ(i) ΔK_ℓ + Δb_ℓ = 0` on the remembered rows, layer after layer, hence every activation
  of theirs and their outputs stay, to all orders, if every layer with parameters is protected so (or frozen) and no
  direction of the inputs was left out by the threshold.

(The layers of one network in the sense of Gradient Projection Memory, arXiv 2103.09762, which is one-sided; output
directions as in dual-sided projection, arXiv 2503.14963, through the chain rule.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from cmcl_jax.memory import FeatureMemory, empty_memory, stacked_moment, update_memory
from cmcl_jax.null_space import HIGHEST, NullSpaceProjector, projector

Scores: TypeAlias = Callable[[Any], Array] | Array | None
_Path: TypeAlias = tuple[str, ...]


class LayerRows(NamedTuple):
    """What went through one dense layer in a forward pass.

    Attributes:
        inputs: `(r, d_in)`, all leading axes of the layer's input flattened; a layer that is called several times has
          the rows of all calls.
        directions: `(k, r, d_out)`, the gradient of each of `k` scores at the layer's output; `k = 0` without scores.
    """

    inputs: Float[Array, "r d_in"]
    directions: Float[Array, "k r d_out"]


class LayerMemory(NamedTuple):
    """What one dense layer must not move.

    Attributes:
        inputs: moments of its inputs, width `d_in`.
        outputs: moments of the directions at its output in which old scores move, width `d_out`; of no rows if they
          were captured without scores.
    """

    inputs: FeatureMemory
    outputs: FeatureMemory


def capture_layers(
    module: nn.Module, variables: Mapping[str, Any], *inputs: Any, scores: Scores = None, **apply_options: Any
) -> PyTree:
    """Inputs of every dense layer in a forward pass, and the directions at their outputs in which scores move.

    Args:
        module: a Linen module; its `nn.Dense` and `nn.DenseGeneral` (without batch dims) are captured. They must not
          be inside `nn.scan`, `nn.vmap` or `nn.remat`, whose layers JAX traces apart.
        variables: of the module, with `"params"`.
        *inputs: of the module. The first axis numbers rows that do not see each other.
        scores: what old scores are made of. An array `(k, d_z)` of cotangents: row `i` has the scores `z(i) · c_k`, as
          with `k` partner outputs, or the rows of `moment_rows` for any number of them. A function from the module's
          output to scores: the last axis of two or more numbers the scores of a row, of one it numbers the rows. The
          scores of a row depend on that row alone. `None`: no directions, for one-sided protection.
        **apply_options: passed to `module.apply`, as `deterministic=True`, `rngs` or `method`.

    Returns:
        The tree of `variables["params"]` with `LayerRows` in place of each captured layer's `{"kernel", "bias"}` and
        `None` for all other leaves, which nothing here protects.

    Raises:
        ValueError: if there is no dense layer, or for a cotangent array that does not fit the output.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> mlp = nn.Sequential([nn.Dense(5), nn.gelu, nn.Dense(2)])
        >>> x = jnp.ones((7, 3))
        >>> rows = capture_layers(mlp, mlp.init(jax.random.key(0), x), x, scores=jnp.eye(2))
        >>> {name: (layer.inputs.shape, layer.directions.shape) for name, layer in rows.items()}
        {'layers_0': ((7, 3), (2, 7, 5)), 'layers_2': ((7, 5), (2, 7, 2))}
    """

    layer_inputs, totals, directions_of = _forward(module, variables, inputs, scores, apply_options)
    directions = jax.vmap(directions_of)(jnp.eye(totals.size, dtype=totals.dtype))
    found = {path: LayerRows(rows, directions[path]) for path, rows in layer_inputs.items()}
    return _keyed_like(variables["params"], found)


def moment_rows(moment: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """As many rows as the moment is wide whose mean outer product is that moment: cotangents in place of all partners.

    With `C = E_j[z_j z_j^T] = U diag(s) U^T` the rows are `√(d s_k) u_k`. Carried back through any Jacobian they have
    the second moment of all partners, `mean_k (J^T c_k)(J^T c_k)^T = J^T C J = E_j[(J^T z_j)(J^T z_j)^T]`, and the
    same span, at the price of `d` backward passes however many partners there were.

    Example:
        >>> import jax.numpy as jnp
        >>> rows = moment_rows(jnp.diag(jnp.array([2.0, 0.0])))
        >>> rows.T @ rows / 2
        Array([[2., 0.],
               [0., 0.]], dtype=float32)
    """
    u, s, _ = jnp.linalg.svd(moment, hermitian=True)
    return (u * jnp.sqrt(s * moment.shape[0])).T


def empty_layer_memories(rows: PyTree) -> PyTree:
    """The memories of no rows at all, for the layers of `capture_layers` (of its values, or of their shapes)."""

    def empty(layer: LayerRows) -> LayerMemory:
        dtype = jnp.promote_types(layer.inputs.dtype, jnp.float32)
        return LayerMemory(*(empty_memory(side.shape[-1], dtype) for side in layer))

    return _map_layers(empty, rows)


def update_layer_memories(memories: PyTree, rows: PyTree, valid: Bool[Array, ...] | None = None) -> PyTree:
    """The memories after also seeing captured rows; updating in parts equals updating at once.

    Args:
        memories: of `empty_layer_memories` or of this function.
        rows: of `capture_layers`.
        valid: which rows count. `(n,)` for the rows of the batch or `(n, t)` for the tokens in them: a layer of more
          rows takes it for each of a row's positions, one of fewer takes rows with any valid token. `None`: all.
    """

    def update(memory: LayerMemory, layer: LayerRows) -> LayerMemory:
        k, r, d_out = layer.directions.shape
        counts = _valid_rows(valid, r)
        return LayerMemory(
            _seen(memory.inputs, layer.inputs, counts),
            _seen(memory.outputs, layer.directions.reshape(-1, d_out), jnp.tile(counts, k)),
        )

    return _map_layers(update, memories, rows)


def remember_layers(
    memories: PyTree,
    module: nn.Module,
    variables: Mapping[str, Any],
    *inputs: Any,
    scores: Scores = None,
    valid: Bool[Array, ...] | None = None,
    **apply_options: Any,
) -> PyTree:
    """`update_layer_memories` of `capture_layers`, with the directions of one score at a time in memory.

    One forward pass, then a scan of as many backward passes as there are scores. Arguments and errors as there.
    """
    layer_inputs, totals, directions_of = _forward(module, variables, inputs, scores, apply_options)
    keyed = lambda rows: _keyed_like(variables["params"], rows)  # noqa: E731
    see = lambda memory, rows: _seen(memory, rows, _valid_rows(valid, rows.shape[0]))  # noqa: E731

    def see_directions(memories: PyTree, cotangent: Array) -> tuple[PyTree, None]:
        of_layer = lambda memory, rows: memory._replace(outputs=see(memory.outputs, rows))  # noqa: E731
        return _map_layers(of_layer, memories, keyed(directions_of(cotangent))), None

    see_inputs = lambda memory, rows: memory._replace(inputs=see(memory.inputs, rows))  # noqa: E731
    memories = _map_layers(see_inputs, memories, keyed(layer_inputs))
    return jax.lax.scan(see_directions, memories, jnp.eye(totals.size, dtype=totals.dtype))[0]


def layer_projectors(
    memories: PyTree,
    thresholds: tuple[float, float],
    rule: str = "relative",
    one_sided: bool = False,
    stacked: bool = False,
) -> PyTree:
    """What the layers must not move, for `replace_projectors`.

    For several seeds use a loop or `jax.lax.map`: under `jax.vmap`, one program of many layers' batched decompositions
    has been seen to hang on CPUs of two cores (JAX 0.10), and never without the batch axis.

    Args:
        memories: of `update_layer_memories`.
        thresholds: of the input side and of the output side, see `projector`.
        rule: threshold rule of `projector`, the same for all layers; a scale-free one, since layers differ in scale.
          "noise" counts every captured row and direction as independent, which those of one row are not.
        one_sided: protect all outputs (`P_out = I`). A layer that was captured without scores is always protected so.
        stacked: input projectors of the rows `[x, 1]`, `(d_in + 1, d_in + 1)`, for `stack_biases`; biases are then
          free where the rows leave them free, and not frozen as a whole by one-sided protection.

    Returns:
        The tree of the parameters with a `NullSpaceProjector` for each layer and `None` for all other leaves: they stay
        unprotected, and have to be frozen (`optax.masked`) for the promise to hold. Projectors of zeros where no row
        was seen.
    """

    def of_layer(memory: LayerMemory) -> NullSpaceProjector:
        seen, met = memory.inputs.rows, memory.outputs.rows
        moment = stacked_moment(memory.inputs) if stacked else memory.inputs.moment
        identity = jnp.eye(memory.outputs.moment.shape[0], dtype=memory.outputs.moment.dtype)
        outputs = jnp.where(seen > 0, identity, 0)
        if not one_sided:
            thresholded = projector(memory.outputs.moment, thresholds[1], rule, rows=met)
            outputs = jnp.where(met > 0, thresholded, outputs)
        return NullSpaceProjector(projector(moment, thresholds[0], rule, rows=seen), outputs)

    return _map_layers(of_layer, memories)


def _forward(
    module: nn.Module, variables: Mapping[str, Any], inputs: Any, scores: Scores, options: Mapping[str, Any]
) -> tuple[dict[_Path, Array], Float[Array, " k"], Callable[[Float[Array, " k"]], dict[_Path, Array]]]:
    """The layers' input rows, the sums of the scores, and what carries cotangents of these back to the layers."""

    def forward(perturbations: dict[_Path, list[Array]]) -> tuple[Array, tuple[Any, Any]]:
        recorder = _Recorder(perturbations)
        with nn.intercept_methods(recorder):
            output = module.apply(variables, *inputs, **options)
        return _scores_of_rows(output, scores), (recorder.inputs, recorder.outputs)

    _, (_, shapes) = jax.eval_shape(forward, {})
    if not shapes:
        raise ValueError(f"capture_layers: {type(module).__name__} calls no nn.Dense or nn.DenseGeneral to capture.")
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    totals, pullback, (layer_inputs, _) = jax.vjp(forward, zeros, has_aux=True)
    flat = lambda calls: jnp.concatenate([call.reshape(-1, call.shape[-1]) for call in calls])  # noqa: E731
    by_layer = lambda found: {path: flat(calls) for path, calls in found.items()}  # noqa: E731
    return by_layer(layer_inputs), totals, lambda cotangent: by_layer(pullback(cotangent)[0])


class _Recorder:
    """Method interceptor: notes what goes into the dense layers and adds perturbations to what comes out."""

    def __init__(self, perturbations: Mapping[_Path, list[Array]]) -> None:
        self.perturbations = perturbations
        self.inputs: dict[_Path, list[Array]] = {}
        self.outputs: dict[_Path, list[Array]] = {}

    def __call__(self, call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        layer = context.module
        if context.method_name != "__call__" or not isinstance(layer, nn.Dense | nn.DenseGeneral):
            return output
        entered, width = _as_rows(layer, *args, **kwargs)
        flat = output.reshape(*output.shape[: output.ndim - width], -1)
        self.inputs.setdefault(layer.path, []).append(entered)
        calls = self.outputs.setdefault(layer.path, [])
        calls.append(flat)
        if self.perturbations:
            flat = flat + self.perturbations[layer.path][len(calls) - 1]
        return flat.reshape(output.shape)


def _as_rows(layer: nn.Dense | nn.DenseGeneral, inputs: Array) -> tuple[Array, int]:
    """The layer's input with the axes that it contracts as one last axis, and how many axes of its output are new."""
    if isinstance(layer, nn.Dense):
        return inputs, 1
    if layer.batch_dims:
        raise ValueError(
            f"capture_layers: the DenseGeneral {'/'.join(layer.path)} has batch_dims={layer.batch_dims}; "
            "each index along them is a layer of its own. Capture only modules without batch_dims."
        )
    axes = (layer.axis,) if isinstance(layer.axis, int) else tuple(layer.axis)
    axes = tuple(sorted(axis % inputs.ndim for axis in axes))  # the order in which Flax has them in the kernel
    moved = jnp.moveaxis(inputs, axes, range(inputs.ndim - len(axes), inputs.ndim))
    features = 1 if isinstance(layer.features, int) else len(layer.features)
    return moved.reshape(*moved.shape[: inputs.ndim - len(axes)], -1), features


def _scores_of_rows(output: Any, scores: Scores) -> Float[Array, " k"]:
    """The sum over rows of each score: rows do not see each other, so its gradient at a row is of the row's score."""
    if scores is None:
        return jnp.zeros(0)
    if callable(scores):
        found = jnp.asarray(scores(output))
        return found.reshape(-1, found.shape[-1]).sum(0) if found.ndim > 1 else found.sum()[None]
    if scores.ndim != 2 or scores.shape[-1] != output.shape[-1]:
        raise ValueError(
            f"capture_layers: scores has shape {scores.shape}, but cotangents of the output {output.shape} have shape "
            f"(k, {output.shape[-1]}). Give these, or a function from the output to the scores."
        )
    return jnp.einsum("...d,kd->k", output, scores, precision=HIGHEST)


def _keyed_like(params: PyTree, found: Mapping[_Path, Any], path: _Path = ()) -> PyTree:
    if path in found:
        return found[path]
    if isinstance(params, Mapping):
        return {name: _keyed_like(child, found, (*path, name)) for name, child in params.items()}
    return None


def _map_layers(of_layer: Callable[..., Any], first: PyTree, *others: PyTree) -> PyTree:
    return jax.tree.map(of_layer, first, *others, is_leaf=lambda node: isinstance(node, LayerRows | LayerMemory))


def _seen(memory: FeatureMemory, rows: Float[Array, "r d"], counts: Bool[Array, " r"]) -> FeatureMemory:
    seen: FeatureMemory = update_memory(memory, rows.astype(memory.moment.dtype), counts)
    return seen


def _valid_rows(valid: Bool[Array, ...] | None, rows: int) -> Bool[Array, " r"]:
    if valid is None:
        return jnp.ones(rows, bool)
    flat = jnp.reshape(valid, -1)
    if rows % flat.size and flat.size % rows:
        raise ValueError(
            f"update_layer_memories: valid has shape {valid.shape}, which neither divides the {rows} rows of a layer "
            "nor is a multiple of them. Give it for the rows of the batch, or for the tokens in them."
        )
    return jnp.repeat(flat, rows // flat.size) if rows >= flat.size else flat.reshape(rows, -1).any(axis=1)
