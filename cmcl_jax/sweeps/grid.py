"""The grid of a sweep: which runs `config.sweep` stands for, and what each of them is known by."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from cmcl_jax.config import ConfigError, check_config, literal, load_config, set_field
from cmcl_jax.methods import REGISTRY
from cmcl_jax.workdir import NO_RESULT_DEPENDS_ON
from feature_cache.registry import check_name

FORMAT = 1
"""Of what a run is known by: another number, and runs that are on disk are not found again."""

NOT_SWEPT = {
    "seeds": "set config.seeds itself: every setting is trained with as many seeds",
    "first_seed": "set config.first_seed itself: every setting is trained with the same seeds",
    "dtype": "one sweep has one dtype",
    "cache_dir": "one sweep reads one folder of caches",
    **dict.fromkeys(("runs_at_once", "feature_memory_mb"), "it changes no result but by rounding"),
    **dict.fromkeys(("checkpoints_kept", "checkpoint_minutes"), "it changes no result"),
    "stream.steps": "runs of other tasks cannot stand in one table; sweep each stream into its own workdir",
}
NO_NUMBER_DEPENDS_ON = (*NO_RESULT_DEPENDS_ON, "seeds", "runs_at_once", "feature_memory_mb")


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: one method with one set of hyperparameters, one order and one seed.

    Attributes:
        config: as `run.py train` takes it, with this one seed.
        settings: the swept fields and their values, without those that the run's method does not use.
    """

    config: ConfigDict
    settings: Mapping[str, Any]

    @property
    def seed(self) -> int:
        return int(self.config.first_seed)

    @property
    def method(self) -> str:
        return str(self.config.method)

    def identity(self, checksums: Mapping[str, str]) -> str:
        """What the run is known by on disk: a digest of all that its numbers depend on.

        Args:
            checksums: of the caches that it reads.
        """
        fields = json.loads(self.config.to_json())
        others = [name for name in REGISTRY if name != self.method]
        kept = {name: value for name, value in fields.items() if name not in (*NO_NUMBER_DEPENDS_ON, *others)}
        kept["evaluation"].pop("stability")
        text = json.dumps({"format": FORMAT, "caches": dict(checksums), **kept}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def load_sweep(source: str, overrides: Iterable[str] = ()) -> ConfigDict:
    """The config of a file that has a grid in `config.sweep`, with overrides applied.

    Args:
        source: see `load_config`.
        overrides: as there; `sweep.section.field=values` sweeps a field, whether or not the file does.

    Raises:
        ConfigError, UnknownNameError: as there, or if the grid is not one.
    """
    overrides = list(overrides)
    of_grid = [override for override in overrides if override.startswith("sweep.")]
    config = load_config(source, [override for override in overrides if override not in of_grid])
    if "sweep" not in config and not of_grid:
        raise ConfigError(
            f"--config={source} has no config.sweep, so there is nothing to sweep. Give it one as in "
            "configs/sweep_pocket.py, or sweep a field with --config.sweep.training.learning_rate=1e-3,3e-3."
        )
    grid = config.sweep.to_dict() if "sweep" in config else {}
    for override in of_grid:
        field, _, value = override.removeprefix("sweep.").partition("=")
        *sections, name = field.split(".")
        section = grid
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = _values(literal(value))
    with config.unlocked():
        config.sweep = ConfigDict(grid)
    expand(config)
    return config


def _values(value: Any) -> tuple[Any, ...]:
    """On the command line `1e-3,3e-3`, `vanilla,dns` and one value alone are lists as well."""
    if isinstance(value, str) and "," in value:
        return tuple(literal(part.strip()) for part in value.split(","))
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def expand(config: ConfigDict) -> list[SweepRun]:
    """All runs of a grid, in its order, seeds last.

    A field of a method's own section, such as `dns.input_threshold`, varies in the runs of that method alone.

    Args:
        config: with the grid in `config.sweep`, a tree like the config with a tuple of values for each field.

    Raises:
        ConfigError, UnknownNameError: naming the field, if a field of the grid is none of the config (with the
          nearest), cannot be swept, or has no values, one of them twice, or one of a wrong type.
    """
    fields = swept_fields(config)
    base = config.copy_and_resolve_references()
    with base.unlocked():
        del base["sweep"]
    check_config(base)
    if base.evaluation.stability:
        raise ConfigError(
            "config.evaluation.stability = True: only single runs record how alignments move; leave it False."
        )
    methods = fields.get("method", (base.method,))
    for field, values in fields.items():
        _check(base, field, values)
    runs = []
    for method in methods:
        used = {field: values for field, values in fields.items() if not _of_other_method(field, method)}
        if "method" in used:
            used = {"method": (method,), **{field: of for field, of in used.items() if field != "method"}}
        for chosen in itertools.product(*used.values()):
            settings = dict(zip(used, chosen, strict=True))
            runs += [SweepRun(_run_config(base, settings, seed), settings) for seed in _seeds(base)]
    return runs


def swept_fields(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """The fields of a grid with their values, `{"training.learning_rate": (1e-4, 1e-3), …}`."""
    if not isinstance(config.sweep, ConfigDict):
        raise ConfigError(f"config.sweep must be a tree of fields with tuples of values, but it is {config.sweep!r}.")
    return dict(_flat(config.sweep))


def _flat(tree: ConfigDict, prefix: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
    for name, value in tree.items():
        if isinstance(value, ConfigDict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, tuple | list):
            yield prefix + name, tuple(value)
        else:
            raise ConfigError(f"config.sweep.{prefix}{name} must be a tuple of values, but it is {value!r}.")


def _check(base: ConfigDict, field: str, values: tuple[Any, ...]) -> None:
    if field in NOT_SWEPT or field.startswith("evaluation."):
        why = NOT_SWEPT.get(field, "runs that are measured differently cannot be compared")
        raise ConfigError(f"config.sweep.{field} cannot be swept: {why}.")
    if not values:
        raise ConfigError(f"config.sweep.{field} has no values; give it some, or leave it out.")
    if len(set(map(repr, values))) < len(values):
        raise ConfigError(f"config.sweep.{field} = {values!r} has a value twice; name each of them once.")
    for value in values:
        _run_config(base, {field: value}, 0)
    if field == "method":
        for method in values:
            check_name(REGISTRY, "method in config.sweep", method)


def _of_other_method(field: str, method: str) -> bool:
    section, dot, _ = field.partition(".")
    return bool(dot) and section in REGISTRY and section != method


def _run_config(base: ConfigDict, settings: Mapping[str, Any], seed: int) -> ConfigDict:
    config = base.copy_and_resolve_references()
    config.lock()
    for field, value in settings.items():
        set_field(config, field, value)
    config.seeds, config.first_seed = 1, seed
    return config


def _seeds(config: ConfigDict) -> range:
    return range(config.first_seed, config.first_seed + config.seeds)
