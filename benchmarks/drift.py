"""How far weights drift in the protected space over a whole step of the stream, by strength and by precision.

    python -m benchmarks.drift --width=1024 --updates=300

A dense layer, kernel and bias, fits a noisy random target by AdamW for so many updates, with a part of the input and of
the output space protected. The drift is

    ‖P_in (K_T − K_0) P_out‖ / ‖K_T − K_0‖        and        ‖(b_T − b_0) P_out‖ / ‖b_T − b_0‖

in float64, with projectors from a QR decomposition in float64. Three precisions: float32; gradients rounded to bfloat16
with parameters and moments in float32; and parameters, gradients and moments in bfloat16.

Three causes add up, and the table has a column for two of them. "sum of updates" adds the emitted updates up in
float64 without applying them: what the transform itself leaks. "rounding" is the drift of parameters to which the very
updates, projected once more in float64, are added in the parameters' precision: what any transform would suffer.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from cmcl_jax import NullSpaceProjector, dns_adamw, replace_projectors
from cmcl_jax.optimizers import PROJECTED

Layer = dict[str, Any]


class Precision(NamedTuple):
    """Data types of parameters (and Adam's moments) and of gradients."""

    parameters: str
    gradients: str


PRECISIONS = {
    "float32": Precision("float32", "float32"),
    "bfloat16 gradients": Precision("float32", "bfloat16"),
    "bfloat16": Precision("bfloat16", "bfloat16"),
}


class Protected(NamedTuple):
    """Orthonormal columns, in float64, of what is protected."""

    inputs: np.ndarray[Any, Any]
    outputs: np.ndarray[Any, Any]

    def part(self, layer: Layer) -> Layer:
        """What of a change lies in the protected space, in float64."""
        kernel, bias = (np.asarray(layer[name], np.float64) for name in ("kernel", "bias"))
        kernel = self.inputs @ ((self.inputs.T @ kernel @ self.outputs) @ self.outputs.T)
        return {"kernel": kernel, "bias": bias @ self.outputs @ self.outputs.T}


class Drift(NamedTuple):
    """Of kernel and bias, relative to how far they moved."""

    kernel: float
    bias: float


def protected_space(width: int, rank: int, seed: int) -> Protected:
    """Random spaces of this rank on both sides."""
    rng = np.random.default_rng(seed)
    return Protected(*(np.linalg.qr(rng.normal(size=(width, rank)))[0] for _ in range(2)))


def measure(width: int, rank: int, updates: int, project: str, precision: Precision, seed: int) -> dict[str, Drift]:
    """Drifts over one training: of the weights, of the sum of the emitted updates, and by rounding alone."""
    space = protected_space(width, rank, seed)
    rng = np.random.default_rng(seed + 1)
    scale = 1 / np.sqrt(width)
    draw = lambda: {"kernel": rng.normal(size=(width, width)) * scale, "bias": rng.normal(size=width) * scale}  # noqa: E731
    in_precision = lambda layer, dtype: {name: jnp.asarray(leaf, dtype) for name, leaf in layer.items()}  # noqa: E731
    target, start = in_precision(draw(), jnp.float32), in_precision(draw(), precision.parameters)
    tx = dns_adamw(optax.linear_schedule(1e-3, 0, updates), project=project)
    p = NullSpaceProjector(*(jnp.asarray(q @ q.T, jnp.float32) for q in space))
    state = replace_projectors(tx.init(start), p)

    @jax.jit
    def step(params: Layer, state: Any, key: jax.Array) -> tuple[Layer, Layer, Any]:
        x, noise = jax.random.normal(key, (2, 64, width))

        def loss(params: Layer) -> jax.Array:
            error = x @ (params["kernel"] - target["kernel"]) + params["bias"] - target["bias"] - noise
            return jnp.mean(error**2)

        gradients = jax.grad(loss)(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params))
        rounded = jax.tree.map(lambda leaf: leaf.astype(precision.gradients), gradients)
        emitted, state = tx.update(rounded, state, params)
        return optax.apply_updates(params, emitted), emitted, state

    apply = jax.jit(optax.apply_updates)
    params, ideal, total = start, start, {name: np.zeros(leaf.shape) for name, leaf in start.items()}
    for key in jax.random.split(jax.random.key(seed), updates):
        params, emitted, state = step(params, state, key)
        exact = {name: np.asarray(leaf, np.float64) for name, leaf in emitted.items()}
        part = space.part(exact)
        ideal = apply(ideal, {name: jnp.asarray(exact[name] - part[name], jnp.float32) for name in exact})
        total = {name: total[name] + exact[name] for name in exact}
    return {
        "weights": _drift(space, _difference(params, start)),
        "sum of updates": _drift(space, total),
        "rounding": _drift(space, _difference(ideal, start)),
    }


def _difference(after: Layer, before: Layer) -> Layer:
    return {name: np.asarray(after[name], np.float64) - np.asarray(before[name], np.float64) for name in after}


def _drift(space: Protected, moved: Layer) -> Drift:
    part = space.part(moved)
    return Drift(*(float(np.linalg.norm(part[name]) / np.linalg.norm(moved[name])) for name in ("kernel", "bias")))


def report(width: int, rank: int, updates: int, seed: int, console: Console) -> None:
    """Prints the table, row by row of precision and strength."""
    title = f"drift in the protected space after {updates} updates: width {width}, rank {rank} on both sides"
    table = Table("precision", "project", title=title)
    for column in ("weights: kernel", "bias", "sum of updates: kernel", "bias", "rounding: kernel", "bias", "s"):
        table.add_column(column, justify="right")
    for name, precision in PRECISIONS.items():
        for project in sorted(PROJECTED, key=("gradients", "updates", "exact").index):
            begin = time.perf_counter()
            found = measure(width, rank, updates, project, precision, seed)
            seconds = time.perf_counter() - begin
            cells = [f"{value:.1e}" for drift in found.values() for value in drift]
            table.add_row(name, project, *cells, f"{seconds:.0f}")
    console.print(table)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m benchmarks.drift", description=__doc__, allow_abbrev=False)
    parser.add_argument("--width", type=int, default=1024, help="inputs and outputs of the layer (default: 1024)")
    parser.add_argument("--rank", type=int, default=None, help="dimensions protected on each side (default: half)")
    parser.add_argument("--updates", type=int, default=300, help="updates of the step (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    flags = parser.parse_args()
    rank = flags.width // 2 if flags.rank is None else flags.rank
    if not 0 < rank <= flags.width or flags.updates < 1:
        parser.error("--rank must be from 1 to --width, and --updates at least 1")
    report(flags.width, rank, flags.updates, flags.seed, Console(width=130))


if __name__ == "__main__":
    main()
