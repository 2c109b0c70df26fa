"""DNS: project every change of a head onto the dual-sided null space of the alignments that it is part of."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import field
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from cmcl_jax.heads import Heads
from cmcl_jax.memory import subspaces_from
from cmcl_jax.methods.base import STATIC, Scalar, Training, pytree_dataclass
from cmcl_jax.methods.dns_partners import PARTNERS, Rows, Seen
from cmcl_jax.methods.vanilla import Vanilla
from cmcl_jax.null_space import Subspaces, replace_projectors
from cmcl_jax.null_space.ranks import THRESHOLD_RULES
from cmcl_jax.optimizers import BIASES, PROJECTED
from cmcl_jax.stream import Step, StepFeatures
from feature_cache.errors import UserError
from feature_cache.registry import check_name, resolve

MODES = {
    "ours": "cmcl_jax.methods.dns:DualNullSpace",
    "released": "cmcl_jax.methods.dns_released:ReleasedDualNullSpace",
}
WITH_HIDDEN_LAYERS = "cmcl_jax.methods.dns_hidden:HiddenDualNullSpace"
FAST = {
    ("ours", "exact"): "cmcl_jax.methods.dns_rotated:RotatedDualNullSpace",
    ("ours", "gradients"): "cmcl_jax.methods.dns_factored:FactoredDualNullSpace",
    ("released", "exact"): "cmcl_jax.methods.dns_rotated:RotatedReleased",
    ("released", "gradients"): "cmcl_jax.methods.dns_factored:FactoredReleased",
}
"""By mode and `config.dns.project`, what does the same to rounding with linear heads, and without d³ work an update."""

# Below 1 the noise rule would protect noise too; a threshold meant for another rule is noticed so.
THRESHOLD_RANGES = {"absolute": (0, math.inf), "noise": (1, math.inf)}


@pytree_dataclass
class ProjectedVanilla(Vanilla, abc.ABC):
    """Vanilla with `dual_null_space` in its optimizer; how the projectors come about is the subclass's.

    Attributes:
        project: "gradients", "updates" or "exact", see `dns_adamw`.
        rule: threshold rule, see `projector`.
        input_threshold, output_threshold: of the two sides; a direction above it is protected.
    """

    project: str = field(metadata=STATIC)
    rule: str = field(metadata=STATIC)
    input_threshold: Scalar
    output_threshold: Scalar

    def __post_init__(self) -> None:
        check_name(PROJECTED, "value of config.dns.project", self.project)
        check_name(THRESHOLD_RULES, "value of config.dns.rule", self.rule)
        low, high = THRESHOLD_RANGES.get(self.rule, (0, 1))
        for side in ("input_threshold", "output_threshold"):
            threshold = getattr(self, side)
            if not isinstance(threshold, int | float):  # the run axis of checked ones
                continue
            if not low <= threshold < high:
                allowed = f"at least {low}" if high == math.inf else f"at least {low} and less than {high}"
                raise UserError(f"config.dns.{side} must be {allowed} by the {self.rule} rule, but it is {threshold}.")

    def before_step(self, memory: PyTree, heads: Heads, step: Step, rows: Int[Array, ""]) -> PyTree:
        return replace_projectors(
            super().before_step(memory, heads, step, rows), self.all_projectors(memory, heads, step)
        )

    def all_projectors(self, memory: PyTree, heads: Heads, step: Step) -> dict[str, PyTree]:
        """By role, what the heads of a step must not move."""
        return {role: self.projectors(memory, heads, modality) for role, modality in step.roles.items()}

    @property
    @abc.abstractmethod
    def protects_biases(self) -> bool:
        """Whether biases are projected, too."""

    @abc.abstractmethod
    def projectors(self, memory: PyTree, heads: Heads, modality: str) -> PyTree:
        """What the head of a modality must not move: `Subspaces`, or such for each of its layers."""


@pytree_dataclass
class DualNullSpace(ProjectedVanilla):
    """The null space as the theory has it: moments of all that was met, today's partner heads, biases protected.

    So by default; `partners="stale"` and `biases="free"` give up the promise. The memory is described in
    `cmcl_jax.methods.dns_partners`.

    Attributes:
        one_sided: protect all output directions (`P_out = I`): exact to all orders, at a price in plasticity.
        biases: "leafwise", "stacked" or "free", see `dns_adamw`.
        partners: what is remembered of partners: "fresh", "pooled" or "stale".
        class_texts: the texts of a step's classes enter the memory of text: as inputs of its head, and as partner
          outputs for the others. Each class is one row among the step's rows, which keeps the moment that of a data
          set with a few captions more. Classes that nobody's caption is like are then just above or just below a
          relative threshold; weighing them like all rows together would keep them, but push old captions below it.
    """

    one_sided: bool = field(default=False, metadata=STATIC)
    biases: str = field(default="leafwise", metadata=STATIC)
    partners: str = field(default="fresh", metadata=STATIC)
    class_texts: bool = field(default=False, metadata=STATIC)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(BIASES, "value of config.dns.biases", self.biases)
        check_name(PARTNERS, "value of config.dns.partners", self.partners)
        if (self.project, self.biases) == ("exact", "stacked"):
            raise UserError(
                "config.dns.project = 'exact' does not go with config.dns.biases = 'stacked'. Use the biases leafwise, "
                "or project updates."
            )

    @property
    def memory_per_run(self) -> Any:
        return PARTNERS[self.partners].per_run

    @property
    def protects_biases(self) -> bool:
        return self.biases != "free"

    def optimizer(self) -> optax.GradientTransformation:
        return self._adamw_with_decay(self.project, self.biases)

    def init(self, heads: Heads, pairs: Sequence[tuple[str, str]]) -> PyTree:
        return PARTNERS[self.partners].init(heads, pairs)

    def projectors(self, memory: PyTree, heads: Heads, modality: str) -> PyTree:
        found: Subspaces = subspaces_from(
            *PARTNERS[self.partners].met(memory, heads, modality),
            (self.input_threshold, self.output_threshold),
            rule=self.rule,
            one_sided=self.one_sided,
            stacked=self.biases == "stacked",
        )
        return found

    def after_step(self, memory: PyTree, heads: Heads, step: Step, features: StepFeatures) -> PyTree:
        seen = {modality: [Rows(features.by_role[role], features.valid)] for role, modality in step.roles.items()}
        if features.class_texts is not None:
            seen["text"].append(Rows(features.class_texts, jnp.ones(len(features.class_texts), bool)))
        return self.remember(memory, heads, seen)

    def remember(self, memory: PyTree, heads: Heads, seen: Seen) -> PyTree:
        """The memory after also seeing the rows of a step."""
        return PARTNERS[self.partners].remember(memory, heads, seen)


def from_config(config: Any, training: Training) -> ProjectedVanilla:
    """DNS in the mode and with the settings of `config.dns`; fields that are None take the mode's default.

    Linear heads train by factors or in rotated coordinates where that is the same to rounding, see `FAST`.
    """
    given = {name: value for name, value in config.dns.items() if name != "mode" and value is not None}
    build = resolve(MODES, "value of config.dns.mode", config.dns.mode)
    if config.head.hidden:
        if config.dns.mode != "ours":
            raise UserError(
                f"config.head.hidden = {config.head.hidden} does not go with config.dns.mode = {config.dns.mode!r}, "
                "whose heads are linear. Use the mode ours, or leave config.head.hidden at ()."
            )
        build = resolve({"ours": WITH_HIDDEN_LAYERS}, "value of config.dns.mode", config.dns.mode)
    unknown = set(given) - set(build.__dataclass_fields__)
    if unknown:
        raise UserError(
            f"config.dns.{min(unknown)} has no meaning with config.dns.mode = {config.dns.mode!r}; leave it at None."
        )
    settings = {**DEFAULTS[config.dns.mode], **given}
    fast = FAST.get((config.dns.mode, settings["project"]))
    if fast and not config.head.hidden and settings.get("biases") != "stacked":
        build = resolve({"fast": fast}, "form", "fast")
    method: ProjectedVanilla = build(training, **settings)
    return method


# Of "ours", the best variant of docs/ablation.md.
DEFAULTS: dict[str, dict[str, Any]] = {
    "ours": {"project": "exact", "rule": "relative", "input_threshold": 3e-3, "output_threshold": 3e-3},
    "released": {"project": "gradients", "rule": "absolute", "input_threshold": 0.01, "output_threshold": 0.0},
}
