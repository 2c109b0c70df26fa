"""What a run records of the theory, step by step: how far old alignments moved, their bounds, and what is left.

Only with `config.evaluation.stability`. Everything is computed in float64 from the second moments of the caches'
training rows, for every method alike, whatever the method itself remembers: it is evaluation, and no training sees it.
Class texts are not among these rows. Projectors are made as `config.dns` says, for methods without any as well: their
bounds say what they risk. Equations: docs/theory.md.

Written are `stability.json`, with a value per seed, the means in the event "stability" of `metrics.jsonl`, and in
`stability/` the heads that each step ended with, to which later ones are compared.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from cmcl_jax.heads import Heads, apply_head
from cmcl_jax.losses import all_pairs_info_nce
from cmcl_jax.memory import FeatureMemory, output_moment, projectors_from
from cmcl_jax.methods.base import Learner
from cmcl_jax.methods.dns import DEFAULTS
from cmcl_jax.metrics.capacity import effective_rank, forecast, free_dimensions
from cmcl_jax.metrics.plasticity import first_order_decrease, higher_order_ratio
from cmcl_jax.metrics.stability import deviation_from_memory, projected_bound
from cmcl_jax.null_space import NullSpaceProjector
from cmcl_jax.stream import Step, Stream
from cmcl_jax.workdir import Workdir, read_json
from feature_cache.atomic import write_atomically
from feature_cache.errors import UserError

NAME = "stability.json"
RATES = (1.0, 0.1, 0.01)  # of a step's whole change
Moments = dict[str, FeatureMemory]  # of one step, by modality


class Protection(NamedTuple):
    """How projectors are made of moments: the settings of `config.dns`, whatever the method."""

    thresholds: tuple[float, float]
    rule: str
    one_sided: bool
    biases: str

    @classmethod
    def from_config(cls, config: ConfigDict) -> Protection:
        """Of a run's config, the mode's defaults filled in."""
        given = {name: value for name, value in config.dns.items() if value is not None}
        settings = {**DEFAULTS[config.dns.mode], **given}
        biases = settings.get("biases", "free" if config.dns.mode == "released" else "leafwise")
        thresholds = (settings["input_threshold"], settings["output_threshold"])
        return cls(thresholds, settings["rule"], settings.get("one_sided", False), biases)


def record_for(folder: Workdir, stream: Stream, learner: Learner, config: ConfigDict) -> StabilityRecord | None:
    """The record of a run; None if it is not asked for, or if tasks have no step of their own, as in joint training.

    Raises:
        UserError: if it is asked for and heads have hidden layers: what is recorded is computed from linear ones.
    """
    if not (config.evaluation.stability and learner.stepwise):
        return None
    if config.head.hidden:
        raise UserError(
            f"config.evaluation.stability = True needs linear heads, but config.head.hidden is {config.head.hidden}. "
            "Leave one of the two at its default."
        )
    return StabilityRecord(folder, stream, config)


class StabilityRecord:
    """Fills `stability.json` step by step; one that exists is continued."""

    def __init__(self, folder: Workdir, stream: Stream, config: ConfigDict) -> None:
        self.path, self.stream, self.training = folder.path, stream, config.training
        self.protection = Protection.from_config(config)
        self.moments: dict[int, Moments] = {}

    def after_step(self, step: Step, before: Heads, after: Heads) -> dict[str, Any]:
        """Records a step; returns its event.

        Args:
            step: the one that was just trained.
            before, after: all heads at its start and at its end, with a leading seed axis.
        """
        entries = [entry for entry in self._entries() if entry["step"] < step.number]
        self._keep_heads(step, after)
        with jax.enable_x64(True):
            old, new = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), heads) for heads in (before, after))
            entry = {"step": step.number, "name": step.name, **self._plasticity(step, old, new)}
            entry["tasks"] = self._tasks(step, old, new, entries)
            entry["capacity"] = self._capacity(step, new, entries)
        content = {"protection": self.protection._asdict(), "rates": RATES, "steps": [*entries, entry]}
        write_atomically(self.path / NAME, json.dumps(content, indent=1).encode())
        return {"event": "stability", **_means(entry)}

    def _entries(self) -> list[dict[str, Any]]:
        return list(read_json(self.path, NAME)["steps"]) if (self.path / NAME).exists() else []

    def _tasks(self, step: Step, before: Heads, after: Heads, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What became of every pair that was learned earlier, relative to its scores back then."""
        earlier = [(task, old) for old in self.stream.steps[: step.number - 1] for task in old.tasks]
        protect = self._projectors(step.number - 1, before)
        found = {}
        for task, old in earlier:
            roles = dict(zip("ab", task.pair, strict=True))
            pick = lambda tree: {role: tree[m] for role, m in roles.items()}  # noqa: B023, E731
            memories, learned = pick(self._moments(old)), pick(self._heads_after(old))
            whole = _deviations(memories, learned, pick(after))
            bound = _bounds(memories, pick(before), pick(after), pick(protect), self.protection.biases == "stacked")
            name = f"{old.number} {task.name}"
            so_far = entries[-1]["tasks"].get(name, {"bound": 0.0})["bound"]
            found[name] = {
                "learned_in": old.number,
                "deviation": whole.relative.tolist(),
                "terms": _relative(whole.terms.bound, whole.scale).tolist(),
                "bound": (np.asarray(so_far) + _relative(bound.bound, whole.scale)).tolist(),
            }
        return found

    def _capacity(self, step: Step, heads: Heads, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What is left of the heads that were trained so far."""
        found = {}
        for modality, projectors in self._projectors(step.number, heads).items():
            if projectors.inputs is None:
                continue
            ranks = [np.linalg.matrix_rank(np.asarray(side), tol=0.5, hermitian=True) for side in projectors]
            memories = [self._moments(old)[modality] for old in self._steps_with(modality, step.number)]
            biases = self.protection.biases
            count = jax.vmap(functools.partial(free_dimensions, biases=biases), in_axes=(PROJECTOR_AXES,))
            d_in, d_out = heads[modality]["kernel"].shape[1:]
            entry: dict[str, Any] = {
                "parameters": d_in * d_out + d_out,
                "free": count(projectors).tolist(),
                "rank_in": int(ranks[0]),
                "rank_out": np.broadcast_to(ranks[1], len(heads[modality]["bias"])).tolist(),
                "effective_rank": _effective_rank(_pooled(memories).moment),
            }
            trained = {old.number for old in self._steps_with(modality, step.number)}
            past = [old["capacity"][modality] for old in entries if old["step"] in trained]
            history = [*past, entry] if step.number in trained else past
            width = d_in + (biases == "stacked")
            left = forecast(
                np.array([then["rank_in"] for then in history]),
                np.array([np.mean(then["rank_out"]) for then in history]),
                width,
                d_out,
                biases=biases,
            )
            entry["steps_left"] = [None if np.isinf(steps) else steps for steps in left]
            found[modality] = entry
        return found

    def _plasticity(self, step: Step, before: Heads, after: Heads) -> dict[str, Any]:
        """First-order effect of the step's whole change on its loss at its start, and what is beyond (eq. 19, 22)."""
        rows = self._sample(step)
        start, end = ({role: heads[m] for role, m in step.roles.items()} for heads in (before, after))
        temperature, direction = self.training.temperature, self.training.direction
        decrease, ratios = _learning(start, end, rows, jnp.asarray(RATES), temperature, direction)
        return {"first_order_decrease": decrease.tolist(), "higher_order_ratio": ratios.tolist()}

    def _sample(self, step: Step) -> dict[str, Float[np.ndarray, "n _d"]]:
        """One batch of the step's rows, evenly spaced."""
        count = self.stream.rows(step)
        chosen = np.linspace(0, count - 1, min(self.training.batch_size, count)).astype(int)
        stored = self.stream.caches[step.dataset]
        return {role: np.asarray(stored.rows("train", m)[chosen], np.float64) for role, m in step.roles.items()}

    def _rows(self, step: Step, modality: str) -> Float[np.ndarray, "n d"]:
        rows = self.stream.caches[step.dataset].features("train", modality)[: self.stream.rows(step)]
        return np.asarray(rows, np.float64)

    def _moments(self, step: Step) -> Moments:
        if step.number not in self.moments:
            self.moments[step.number] = {m: _memory(self._rows(step, m)) for m in step.modalities}
        return self.moments[step.number]

    def _steps_with(self, modality: str, until: int) -> list[Step]:
        return [step for step in self.stream.steps[:until] if modality in step.modalities]

    def _projectors(self, until: int, heads: Heads) -> dict[str, NullSpaceProjector]:
        """What each head must not move after so many steps, with today's partners; a seed axis on the output side."""
        found = {}
        for modality in heads:
            met = [
                (self._moments(step)[modality], self._moments(step)[other], other)
                for step in self._steps_with(modality, until)
                for other in step.modalities
                if other != modality
            ]
            found[modality] = _projectors_of(met, heads, self.protection) if met else NullSpaceProjector(None, None)
        return found

    def _keep_heads(self, step: Step, heads: Heads) -> None:
        leaves = {f"{m}.{name}": np.asarray(leaf) for m in step.modalities for name, leaf in heads[m].items()}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **leaves)
        (self.path / "stability").mkdir(exist_ok=True)
        write_atomically(self.path / "stability" / f"heads-{step.number}.npz", buffer.getvalue())

    def _heads_after(self, step: Step) -> Heads:
        with np.load(self.path / "stability" / f"heads-{step.number}.npz", allow_pickle=False) as leaves:
            return {
                m: {name: jnp.asarray(leaves[f"{m}.{name}"], jnp.float64) for name in ("kernel", "bias")}
                for m in step.modalities
            }


PROJECTOR_AXES: Any = NullSpaceProjector(None, cast(Any, 0))  # inputs do not depend on the seed
_deviations = jax.jit(jax.vmap(deviation_from_memory, in_axes=(None, 0, 0)))


@functools.partial(jax.jit, static_argnames="stacked")
def _bounds(memories: Any, before: Any, after: Any, projectors: Any, stacked: bool) -> Any:
    free = NullSpaceProjector(None, None)  # of a head that has not met anything: no arrays, no axis
    axes = {role: free if p.outputs is None else PROJECTOR_AXES for role, p in projectors.items()}
    bound = functools.partial(projected_bound, stacked=stacked)
    return jax.vmap(bound, in_axes=(None, 0, 0, axes))(memories, before, after, projectors)


@functools.partial(jax.jit, static_argnames=("temperature", "direction"))
def _learning(
    start: Any, end: Any, rows: Any, rates: Array, temperature: float, direction: str
) -> tuple[Float[Array, " seeds"], Float[Array, "seeds rates"]]:
    def loss(heads: Heads) -> Float[Array, ""]:
        z = {role: apply_head(head, rows[role]) for role, head in heads.items()}
        return all_pairs_info_nce(z, jnp.ones(len(z["a"]), bool), temperature, direction)

    def one_seed(before: Heads, after: Heads) -> tuple[Array, Array]:
        change = jax.tree.map(jnp.subtract, after, before)
        return first_order_decrease(jax.grad(loss)(before), change), higher_order_ratio(loss, before, change, rates)

    found: tuple[Array, Array] = jax.vmap(one_seed)(start, end)
    return found


def _projectors_of(
    met: Sequence[tuple[FeatureMemory, FeatureMemory, str]], heads: Heads, protection: Protection
) -> NullSpaceProjector:
    """Projectors of one head; all that it met is pooled first, so that one executable serves any number of steps."""
    rows = sum((theirs.rows for _, theirs, _ in met), jnp.zeros(()))
    partners = sum(_output_moments(theirs, heads[other]) * (theirs.rows / rows) for _, theirs, other in met)
    found: NullSpaceProjector = _pooled_projectors(_pooled([own for own, _, _ in met]), partners, rows, protection)
    return found


_output_moments = jax.jit(jax.vmap(output_moment, in_axes=(None, 0)))


@functools.partial(jax.jit, static_argnames="protection")
def _pooled_projectors(own: FeatureMemory, partners: Any, rows: Any, protection: Protection) -> NullSpaceProjector:
    def one_seed(outputs: Float[Array, "d_out d_out"]) -> NullSpaceProjector:
        found: NullSpaceProjector = projectors_from(
            [own],
            [(FeatureMemory(outputs, jnp.zeros(outputs.shape[0]), rows), None)],
            protection.thresholds,
            protection.rule,
            protection.one_sided,
            protection.biases == "stacked",
        )
        return found

    found: NullSpaceProjector = jax.vmap(one_seed, out_axes=PROJECTOR_AXES)(partners)
    return found


def _pooled(memories: Sequence[FeatureMemory]) -> FeatureMemory:
    rows = sum((memory.rows for memory in memories), jnp.zeros(()))
    moment, mean = (
        sum((getattr(memory, name) * (memory.rows / rows) for memory in memories), jnp.zeros(()))
        for name in ("moment", "mean")
    )
    return FeatureMemory(moment, mean, rows)


def _memory(rows: Float[np.ndarray, "n d"]) -> FeatureMemory:
    moment, mean = rows.T @ rows / len(rows), rows.mean(axis=0)
    return FeatureMemory(jnp.asarray(moment), jnp.asarray(mean), jnp.asarray(float(len(rows))))


def _effective_rank(moment: Float[Array, "d d"]) -> float:
    """Of the features behind a second moment."""
    s = np.linalg.eigvalsh(np.asarray(moment))
    return float(effective_rank(jnp.sqrt(jnp.maximum(s, 0))))


def _relative(value: Any, scale: Any) -> Float[np.ndarray, " seeds"]:
    values: np.ndarray = np.asarray(value, float)
    relative: np.ndarray = values / np.maximum(np.asarray(scale, float), np.finfo(float).tiny)
    return relative


def _means(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with means over seeds, for the log."""
    return {name: _means(value) if isinstance(value, Mapping) else _mean(name, value) for name, value in entry.items()}


def _mean(name: str, value: Any) -> Any:
    return np.mean(value, axis=0).tolist() if isinstance(value, list) and name != "steps_left" else value
