"""DNS: project every change of a head onto the dual-sided null space of the alignments that it is part of."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import optax
from jaxtyping import Array, Int, PyTree

from cmcl_jax.heads import Heads
from cmcl_jax.memory import FeatureMemory, empty_memory, projectors_from, update_memory
from cmcl_jax.methods.base import Training
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.null_space import NullSpaceProjector, replace_projectors
from cmcl_jax.optimizers import PROJECTED
from cmcl_jax.ranks import THRESHOLD_RULES
from cmcl_jax.stream import PairFeatures, Step
from feature_cache.errors import UserError
from feature_cache.registry import check_name, resolve

MODES = {
    "ours": "cmcl_jax.methods.dns:DualNullSpace",
    "released": "cmcl_jax.methods.dns_released:ReleasedDualNullSpace",
}

# Below 1 the noise rule would protect noise too; a threshold meant for another rule is noticed so.
THRESHOLD_RANGES = {"absolute": (0, math.inf), "noise": (1, math.inf)}


@dataclass(frozen=True)
class ProjectedVanilla(Vanilla, abc.ABC):
    """Vanilla with `dual_null_space` in its optimizer; how the projectors come about is the subclass's.

    Attributes:
        project: "gradients", "updates" or "exact", see `dns_adamw`.
        rule: threshold rule, see `projector`.
        input_threshold, output_threshold: of the two sides; a direction above it is protected.
    """

    project: str
    rule: str
    input_threshold: float
    output_threshold: float
    biases: ClassVar[str] = "leafwise"

    def __post_init__(self) -> None:
        check_name(PROJECTED, "value of config.dns.project", self.project)
        check_name(THRESHOLD_RULES, "value of config.dns.rule", self.rule)
        low, high = THRESHOLD_RANGES.get(self.rule, (0, 1))
        for side in ("input_threshold", "output_threshold"):
            threshold = getattr(self, side)
            if not low <= threshold < high:
                allowed = f"at least {low}" if high == math.inf else f"at least {low} and less than {high}"
                raise UserError(f"config.dns.{side} must be {allowed} by the {self.rule} rule, but it is {threshold}.")

    def optimizer(self) -> optax.GradientTransformation:
        return self._adamw_with_decay(self.project, self.biases)

    def before_step(self, memory: PyTree, heads: Heads, step: Step, rows: Int[Array, ""]) -> PyTree:
        sides = zip(("a", "b"), step.pair, strict=True)
        projectors = {side: self.projectors(memory, heads, modality) for side, modality in sides}
        return replace_projectors(super().before_step(memory, heads, step, rows), projectors)

    @abc.abstractmethod
    def projectors(self, memory: PyTree, heads: Heads, modality: str) -> NullSpaceProjector:
        """What the head of a modality must not move."""


@dataclass(frozen=True)
class DualNullSpace(ProjectedVanilla):
    """The null space as the theory has it: pooled per-pair moments, today's partner heads, biases protected.

    The memory is `{"audio-text": {"audio": FeatureMemory, "text": FeatureMemory}, …}`, one entry for each pair of the
    stream. It depends on the features alone: partner outputs are taken anew from today's heads before every step.

    Attributes:
        one_sided: protect all output directions (`P_out = I`): exact to all orders, at a price in plasticity.
    """

    one_sided: bool = False

    def init(self, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
        empty = {m: empty_memory(head["kernel"].shape[0], head["kernel"].dtype) for m, head in heads.items()}
        return {"-".join(pair): {modality: empty[modality] for modality in pair} for pair in pairs}

    def projectors(self, memory: PyTree, heads: Heads, modality: str) -> NullSpaceProjector:
        met: list[dict[str, FeatureMemory]] = [pair for pair in memory.values() if modality in pair]
        partners = [(pair[other], heads[other]) for pair in met for other in pair if other != modality]
        found: NullSpaceProjector = projectors_from(
            [pair[modality] for pair in met],
            partners,
            (self.input_threshold, self.output_threshold),
            rule=self.rule,
            one_sided=self.one_sided,
        )
        return found

    def after_step(self, memory: PyTree, heads: Heads, step: Step, features: PairFeatures) -> PyTree:
        del heads
        a, b = step.pair
        met = memory["-".join(step.pair)]
        seen = {
            a: update_memory(met[a], features.a, features.valid),
            b: update_memory(met[b], features.b, features.valid),
        }
        return {**memory, "-".join(step.pair): seen}


def from_config(config: Any, training: Training) -> ProjectedVanilla:
    """DNS in the mode and with the settings of `config.dns`; fields that are None take the mode's default."""
    given = {name: value for name, value in config.dns.items() if name != "mode" and value is not None}
    build = resolve(MODES, "value of config.dns.mode", config.dns.mode)
    unknown = set(given) - set(build.__dataclass_fields__)
    if unknown:
        raise UserError(
            f"config.dns.{min(unknown)} has no meaning with config.dns.mode = {config.dns.mode!r}; leave it at None."
        )
    method: ProjectedVanilla = build(training, **{**DEFAULTS[config.dns.mode], **given})
    return method


DEFAULTS: dict[str, dict[str, Any]] = {
    "ours": {"project": "updates", "rule": "relative", "input_threshold": 1e-3, "output_threshold": 1e-3},
    "released": {"project": "gradients", "rule": "absolute", "input_threshold": 0.01, "output_threshold": 0.0},
}
