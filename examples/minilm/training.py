"""Contrastive fine-tuning of the last layer's output kernel, plain or under DNS, on activations computed once."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from cmcl_jax import NullSpaceProjector, replace_projectors
from cmcl_jax.losses import info_nce
from cmcl_jax.optimizers import dns_adamw
from examples.minilm.data import Pairs
from examples.minilm.model import Activations, SentenceOutput


class Settings(NamedTuple):
    """Of every fine-tuning.

    Attributes:
        epochs, batch: passes over the training split, rows of an update.
        learning_rate: of Adam, without weight decay.
        temperature: divides the cosines in the loss.
    """

    epochs: int = 8
    batch: int = 64
    learning_rate: float = 1e-3
    temperature: float = 0.05


@jax.jit
def embed(sentence: PyTree, seen: Activations) -> Float[Array, "n width"]:
    """Sentence embeddings from activations; `sentence` is `params["sentence"]` of `MiniLM`."""
    module = SentenceOutput(sentence["output"]["bias"].shape[0])
    embedded: Array = module.apply({"params": sentence}, seen)
    return embedded


def fit(
    sentence: PyTree,
    pairs: Pairs,
    settings: Settings,
    seed: int,
    project: str | None = None,
    protect: NullSpaceProjector | None = None,
) -> PyTree:
    """`sentence` after training its `output` layer to match captions with partners; all else stays.

    Args:
        sentence: `params["sentence"]`.
        pairs: the training split; the rows of an epoch that do not fill a batch wait for the next one.
        settings: see `Settings`.
        seed: of the order of the rows.
        project: see `dns_adamw`; `None` is plain Adam.
        protect: what the layer must not move; `None`: nothing.

    Raises:
        ValueError: if there are fewer pairs than a batch has rows.
    """
    rows = len(pairs.groups)
    if rows < settings.batch:
        raise ValueError(f"fit: settings.batch is {settings.batch}, but there are {rows} pairs. Lower it.")
    layer = sentence["output"]
    state = _optimizer(settings.learning_rate, project).init(layer)
    if protect is not None:
        state = replace_projectors(state, protect)
    rng = np.random.default_rng(seed)
    for _ in range(settings.epochs):
        order = rng.permutation(rows)[: rows // settings.batch * settings.batch].reshape(-1, settings.batch)
        layer, state = _epoch(
            layer, state, sentence, pairs, order, settings.learning_rate, settings.temperature, project=project
        )
    return {**sentence, "output": layer}


def _optimizer(learning_rate: float | Array, project: str | None) -> optax.GradientTransformationExtraArgs:
    return dns_adamw(learning_rate, weight_decay=0.0, project=project)


@functools.partial(jax.jit, static_argnames="project")
def _epoch(
    layer: PyTree,
    state: PyTree,
    sentence: PyTree,
    pairs: Pairs,
    order: Int[Array, "updates batch"],
    learning_rate: Float[Array, ""],
    temperature: float,
    project: str | None,
) -> tuple[PyTree, PyTree]:
    optimizer = _optimizer(learning_rate, project)

    def update(carried: tuple[PyTree, PyTree], rows: Int[Array, " batch"]) -> tuple[tuple[PyTree, PyTree], None]:
        layer, state = carried
        seen, partners, _ = jax.tree.map(lambda array: array[rows], pairs)

        def loss(layer: PyTree) -> Float[Array, ""]:
            embedded = embed({**sentence, "output": layer}, seen)
            return info_nce(partners, embedded, jnp.ones(len(rows), bool), temperature)

        updates, state = optimizer.update(jax.grad(loss)(layer), state, layer)
        return (optax.apply_updates(layer, updates), state), None

    (layer, state), _ = jax.lax.scan(update, (layer, state), order)
    return layer, state
