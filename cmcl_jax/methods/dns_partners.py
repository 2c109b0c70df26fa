"""What DNS remembers of partners: per pair, pooled per modality, or their outputs as they were when met.

A strategy is three pure functions of one seed around a memory of fixed shapes. Rows come by modality, and a step of
more than two modalities is all of its pairs at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from cmcl_jax.heads import Head, Heads, apply_head
from cmcl_jax.memory import FeatureMemory, empty_memory, update_memory


class Rows(NamedTuple):
    """Features that enter a memory.

    Attributes:
        features: `(n, d)`.
        valid: False on padding.
    """

    features: Float[Array, "n d"]
    valid: Bool[Array, " n"]


Seen = Mapping[str, Sequence[Rows]]  # by modality of one step; first those that are aligned, then any others


class Met(NamedTuple):
    """What `projectors_from` needs to know of one modality.

    Attributes:
        inputs: memories of its own features.
        partners: memories of its partners' features with today's heads, or of their outputs with None.
    """

    inputs: list[FeatureMemory]
    partners: list[tuple[FeatureMemory, Head | None]]


class Partners(Protocol):
    """How partners are remembered.

    Attributes:
        per_run: whether the memory differs between runs, a pytree prefix of it.
    """

    per_run: ClassVar[Any]

    def init(self, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
        """The memory before the first step of a stream with these pairs of modalities."""
        ...

    def met(self, memory: PyTree, heads: Heads, modality: str) -> Met:
        """What a modality and its partners were trained on, given today's heads."""
        ...

    def remember(self, memory: PyTree, heads: Heads, seen: Seen) -> PyTree:
        """The memory after a step on these rows, given the heads that the step ended with; in parts as at once."""
        ...


class Fresh:
    """One memory per pair and modality; partner outputs are those of today's heads on what the partner saw in the pair.

    The memory is `{"text-audio": {"text": FeatureMemory, "audio": FeatureMemory}, …}`, keyed by the pair in storage
    order. It depends on the features alone.

    A modality that trains on the same rows in several pairs has them counted once in each: they weigh as often in the
    moment of its inputs, and the counter that the rule "noise" reads has them as often (see `projectors_from`).
    """

    per_run: ClassVar[Any] = False

    def init(self, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
        empty = _empty_inputs(heads)
        return {"-".join(pair): {modality: empty[modality] for modality in pair} for pair in pairs}

    def met(self, memory: PyTree, heads: Heads, modality: str) -> Met:
        met: list[dict[str, FeatureMemory]] = [pair for pair in memory.values() if modality in pair]
        partners = [(pair[other], heads[other]) for pair in met for other in pair if other != modality]
        return Met([pair[modality] for pair in met], list(partners))

    def remember(self, memory: PyTree, heads: Heads, seen: Seen) -> PyTree:
        del heads
        met = {"-".join(pair): pair for pair in itertools.combinations(seen, 2)}
        return {**memory, **{key: {m: _update(memory[key][m], seen[m]) for m in pair} for key, pair in met.items()}}


class Pooled:
    """One memory per modality over all its steps; partner outputs are those of today's heads on *all* of that.

    The memory is `{"features": {modality: FeatureMemory}, "met": {"text-audio": ()}}`, the second counting the rows of
    each pair: who has met whom. It depends on the features alone. A partner that was met brings everything that it
    has seen, with whomever, and weighs by the number of those rows. What is protected contains what `Fresh` protects,
    as long as no direction falls below the threshold. In steps of pairs the inputs are the same; a step of more
    modalities counts its rows once here, and once for each of its pairs there.
    """

    per_run: ClassVar[Any] = False

    def init(self, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
        empty, trained = _empty_inputs(heads), {modality for pair in pairs for modality in pair}
        return {
            "features": {modality: memory for modality, memory in empty.items() if modality in trained},
            "met": {"-".join(pair): jnp.zeros((), jnp.int32) for pair in pairs},
        }

    def met(self, memory: PyTree, heads: Heads, modality: str) -> Met:
        features: dict[str, FeatureMemory] = memory["features"]
        partners: list[tuple[FeatureMemory, Head | None]] = []
        for key, met in memory["met"].items():
            if modality in (pair := key.split("-")):
                (other,) = set(pair) - {modality}
                rows = jnp.where(met > 0, features[other].rows, 0)
                partners.append((features[other]._replace(rows=rows), heads[other]))
        return Met([features[modality]], partners)

    def remember(self, memory: PyTree, heads: Heads, seen: Seen) -> PyTree:
        del heads
        features, met = memory["features"], memory["met"]
        of_pairs = {"-".join(pair): seen[pair[0]][0] for pair in itertools.combinations(seen, 2)}
        return {
            "features": {**features, **{m: _update(features[m], rows) for m, rows in seen.items()}},
            "met": {**met, **{key: met[key] + _count(rows) for key, rows in of_pairs.items()}},
        }


class Stale:
    """One memory of inputs and one of partner outputs per modality, the outputs as they were when met.

    As published, but with biases, and with a counter for each modality. The memory is `{"inputs": {modality:
    FeatureMemory}, "partner_outputs": {modality: FeatureMemory}}`; the second depends on the heads, and so on the seed.
    Of several partners, those of larger outputs weigh more: one moment cannot be taken apart again. It breaks the
    promise as soon as a partner trains with somebody else: it is here to be compared with.
    """

    per_run: ClassVar[Any] = {"inputs": False, "partner_outputs": True}

    def init(self, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
        trained = dict.fromkeys(modality for pair in pairs for modality in pair)
        outputs = {m: empty_memory(head["kernel"].shape[1], head["kernel"].dtype) for m, head in heads.items()}
        inputs = _empty_inputs(heads)
        return {"inputs": {m: inputs[m] for m in trained}, "partner_outputs": {m: outputs[m] for m in trained}}

    def met(self, memory: PyTree, heads: Heads, modality: str) -> Met:
        del heads
        return Met([memory["inputs"][modality]], [(memory["partner_outputs"][modality], None)])

    def remember(self, memory: PyTree, heads: Heads, seen: Seen) -> PyTree:
        outputs = {
            m: [Rows(apply_head(heads[m], features), valid) for features, valid in rows] for m, rows in seen.items()
        }
        of_partners = {m: [rows for other in seen if other != m for rows in outputs[other]] for m in seen}
        old_inputs, old_outputs = memory["inputs"], memory["partner_outputs"]
        return {
            "inputs": {**old_inputs, **{m: _update(old_inputs[m], rows) for m, rows in seen.items()}},
            "partner_outputs": {**old_outputs, **{m: _update(old_outputs[m], rows) for m, rows in of_partners.items()}},
        }


PARTNERS: dict[str, Partners] = {"fresh": Fresh(), "pooled": Pooled(), "stale": Stale()}


def _empty_inputs(heads: Heads) -> dict[str, FeatureMemory]:
    return {m: empty_memory(head["kernel"].shape[0], head["kernel"].dtype) for m, head in heads.items()}


def _count(rows: Rows) -> Int[Array, ""]:
    return jnp.sum(rows.valid, dtype=jnp.int32)


def _update(memory: FeatureMemory, parts: Sequence[Rows]) -> FeatureMemory:
    for rows in parts:
        memory = update_memory(memory, rows.features, rows.valid)
    return memory
