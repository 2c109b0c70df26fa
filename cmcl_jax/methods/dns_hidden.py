"""DNS for heads with hidden layers: hidden layers keep what they make of old rows, the output layer is a linear head.

With `φ(x) = [x, h(x)]` for what enters the output layer, `z = φ(x) K + b`. Hidden layers are protected one-sided, on
the inputs that each of them had: then `φ` of old rows stays, to all orders. So the output layer is a linear head on
features that stay, and what holds for linear heads holds for it: two-sided projection, and partner outputs of *today*
from moments of `φ`, although the rows are gone (docs/theory.md, section 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from cmcl_jax.heads import Head, Heads, module_of, output_layer
from cmcl_jax.layer_memory import capture_layers, empty_layer_memories, layer_projectors, update_layer_memories
from cmcl_jax.memory import projectors_from
from cmcl_jax.methods.base import pytree_dataclass
from cmcl_jax.methods.dns import DualNullSpace
from cmcl_jax.methods.dns_partners import PARTNERS, Met, Rows, Seen


@pytree_dataclass
class HiddenDualNullSpace(DualNullSpace):
    """`DualNullSpace` for heads with hidden layers.

    The memory is `{"output": …, "hidden": {modality: {"hidden_0": LayerMemory, …}}}`: what `partners` says of linear
    heads, for the output layers and their features `φ`, and the inputs of the hidden layers, pooled over all pairs.
    It depends on the run.

    Attributes:
        one_sided: of the output layer; hidden layers always are. In them the directions of old scores differ from row
          to row, and those of a few rows more than the layer is wide leave nothing free anyway
          (`python -m benchmarks.nonlinear`).
    """

    @property
    def memory_per_run(self) -> Any:
        return True

    def init(self, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
        trained = dict.fromkeys(modality for pair in pairs for modality in pair)
        return {
            "output": super().init(_output_layers(heads), pairs),
            "hidden": {m: _nothing_entered(heads[m]) for m in trained},
        }

    def projectors(self, memory: PyTree, heads: Heads, modality: str) -> PyTree:
        met = PARTNERS[self.partners].met(memory["output"], _output_layers(heads), modality)
        thresholds = (self.input_threshold, self.output_threshold)
        options = (self.rule, self.one_sided, self.biases == "stacked")
        return _projectors(met, memory["hidden"][modality], thresholds, options)

    def remember(self, memory: PyTree, heads: Heads, seen: Seen) -> PyTree:
        hidden, features = dict(memory["hidden"]), dict[str, list[Rows]]()
        for modality, parts in seen.items():
            features[modality] = []
            for rows in parts:
                entered = _entered(heads[modality], rows.features)
                features[modality].append(Rows(entered.pop("output").inputs, rows.valid))
                hidden[modality] = update_layer_memories(hidden[modality], entered, rows.valid)
        return {"output": super().remember(memory["output"], _output_layers(heads), features), "hidden": hidden}


def _output_layers(heads: Heads) -> Heads:
    return {modality: output_layer(head) for modality, head in heads.items()}


@jax.jit
def _entered(head: Head, features: Float[Array, "n d_in"]) -> PyTree:
    """The `LayerRows` of each layer, without directions."""
    return capture_layers(module_of(head), {"params": head}, features)


def _nothing_entered(head: Head) -> PyTree:
    kernel = head["hidden_0"]["kernel"]
    rows = jax.eval_shape(_entered, head, jnp.zeros((1, kernel.shape[0]), kernel.dtype))
    return empty_layer_memories({name: layer for name, layer in rows.items() if name != "output"})


@partial(jax.jit, static_argnames="options")
def _projectors(met: Met, hidden: PyTree, thresholds: tuple[float, float], options: tuple[str, bool, bool]) -> PyTree:
    """A projector for each layer of a head. Seeds take turns, for the reason that `layer_projectors` gives."""
    rule, one_sided, stacked = options

    def of_layers(met: Met, hidden: PyTree, thresholds: tuple[Any, Any]) -> PyTree:
        of_output = projectors_from(*met, thresholds, rule, one_sided, stacked)
        return {**layer_projectors(hidden, thresholds, rule, True, stacked), "output": of_output}

    return jax.custom_batching.sequential_vmap(of_layers)(met, hidden, thresholds)
