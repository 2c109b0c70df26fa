"""Which runs share a program: those whose methods differ in nothing but numbers, on the same stream."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from cmcl_jax.methods import method_from_config
from cmcl_jax.methods.base import Method
from cmcl_jax.sweeps.grid import SweepRun
from cmcl_jax.sweeps.resident import ResidentStream, Streams
from feature_cache.errors import UserError


@dataclass(frozen=True)
class Member:
    """A run with what it is known by and its method, whose leaves are numbers."""

    id: str
    run: SweepRun
    method: Method


@dataclass(frozen=True)
class Group:
    """Runs that train side by side: one stream in one order, one structure of the method.

    Attributes:
        program: number of the program; groups that differ only in the order of the steps share it.
        stream: with its features on the devices.
        members: in the grid's order.
    """

    program: int
    stream: ResidentStream
    members: tuple[Member, ...]


def groups(runs: Sequence[SweepRun], streams: Streams) -> list[Group]:
    """The runs by program and stream, in order of first appearance.

    Raises:
        UserError: if a run's settings do not go together or its caches are not there; says which run's.
    """
    found: dict[Any, list[Member]] = {}
    for run in runs:
        try:
            stream = streams.of(run.config)
            member = Member(run.identity(stream.checksums), run, method_from_config(run.config))
        except UserError as error:
            error.args = (f"{error} (In the run with {describe(run.settings)}.)",)
            raise
        found.setdefault(_key(member), []).append(member)
    programs: dict[Any, int] = {}
    return [
        Group(
            programs.setdefault((structure, fields), len(programs)), streams.of(members[0].run.config), tuple(members)
        )
        for (structure, fields, _), members in found.items()
    ]


def _key(member: Member) -> tuple[Any, str, Any]:
    """The static part of the method, what else decides shapes and data, and the order of the steps."""
    fields = json.loads(member.run.config.to_json())
    order = fields["stream"].pop("order_seed")
    shared = {name: fields[name] for name in ("encoder", "cache_dir", "dtype", "stream", "head", "evaluation")}
    return jax.tree.structure(member.method), json.dumps([member.run.method, shared], sort_keys=True), order


def stacked(methods: Sequence[Method], dtype: Any) -> Method:
    """One method whose hyperparameters have a leading run axis."""
    together: PyTree = jax.tree.map(lambda *numbers: jnp.asarray(numbers, dtype), *methods)
    return together  # type: ignore[no-any-return]


def describe(settings: Mapping[str, Any]) -> str:
    """Settings as one reads them: `method = dns, dns.input_threshold = 0.003`."""
    return ", ".join(f"{field} = {value}" for field, value in settings.items()) or "the config as it is"
