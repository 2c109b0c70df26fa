"""Configs: ml_collections files, with overrides from the command line and errors that help."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from cmcl_jax.metrics.retrieval import CREDITS
from feature_cache.errors import UserError
from feature_cache.manifest import SPLITS
from feature_cache.registry import check_name, nearest

CHOICES = {"dtype": ("float32", "float64"), "evaluation.credit": CREDITS, "evaluation.split": SPLITS}
AT_LEAST_ONE = ("seeds", "checkpoints_kept", "runs_at_once", "stream.row_limit")


class ConfigError(UserError):
    """A config file or an override that cannot be used."""


def load_config(source: str, overrides: Iterable[str] = ()) -> ConfigDict:
    """The config of a file, with overrides applied.

    Args:
        source: path of a Python file with `get_config()`, or `path:variant` for one with `get_config(variant)`.
        overrides: `field=value` or `section.field=value`; values are Python literals or plain strings.

    Raises:
        ConfigError, UnknownNameError: if the file, the variant or a field does not exist (naming the nearest), or
          a value is not of the field's type.
    """
    path, _, variant = source.partition(":")
    config = _call(_get_config(Path(path)), path, variant)
    config.lock()
    for override in overrides:
        field, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--config.{field} needs its value in the same word: --config.{field}=…")
        set_field(config, field, literal(value))
    return config.copy_and_resolve_references()


def check_config(config: ConfigDict) -> None:
    """Checks the values that no other part of the library checks.

    Raises:
        ConfigError: naming the field, its value and what it may be.
    """
    if "sweep" in config:
        raise ConfigError("config.sweep describes many runs: train them with `python run.py sweep`, not one by one.")
    for field, allowed in CHOICES.items():
        value = operator.attrgetter(field)(config)
        if value not in allowed:
            raise ConfigError(f"config.{field} must be one of {', '.join(allowed)}, but it is {value!r}.")
    for field in AT_LEAST_ONE:
        value = operator.attrgetter(field)(config)
        if value is not None and (isinstance(value, bool) or value < 1):
            raise ConfigError(f"config.{field} must be at least 1, but it is {value!r}.")
    minutes = config.checkpoint_minutes
    if minutes is not None and not minutes >= 0:
        raise ConfigError(f"config.checkpoint_minutes must be None or at least 0, but it is {minutes!r}.")
    hidden = config.head.hidden
    if not all(isinstance(width, int) and not isinstance(width, bool) and width >= 1 for width in hidden):
        raise ConfigError(f"config.head.hidden must be a tuple of widths of at least 1, but it is {hidden!r}.")


def optional(kind: type, default: Any = None) -> Any:
    """A field that is None or of a type."""
    return config_dict.FieldReference(default, field_type=kind)


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """`field: old -> new` of all fields in which two configs, as parsed from JSON, differ.

    >>> list(differences({"seeds": 5, "dns": {"rule": "energy"}}, {"seeds": 5, "dns": {"rule": "relative"}}))
    ["dns.rule: 'energy' -> 'relative'"]
    """
    for field in sorted(old.keys() | new.keys()):
        before, after = old.get(field), new.get(field)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from differences(before, after, f"{prefix}{field}.")
        elif before != after:
            yield f"{prefix}{field}: {before!r} -> {after!r}"


def _get_config(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        others = [str(other) for folder in {path.parent, Path("configs")} for other in folder.glob("*.py")]
        raise ConfigError(
            f"--config={path}: there is no such file; the nearest are: {', '.join(nearest(str(path), others))}."
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"--config={path}: the file defines no get_config(), so it is not a config.")
    return module.get_config


def _call(get_config: Callable[..., ConfigDict], path: str, variant: str) -> ConfigDict:
    if variant and not inspect.signature(get_config).parameters:
        raise ConfigError(f"--config={path}:{variant}: {path} has no variants; write --config={path}.")
    return get_config(variant) if variant else get_config()


def set_field(config: ConfigDict, field: str, value: Any) -> None:
    """Sets a field, given as `section.field`.

    Raises:
        ConfigError, UnknownNameError: if there is no such field (naming the nearest), or the value is not of its type.
    """
    *sections, name = field.split(".")
    section = config
    for depth, part in enumerate(sections, start=1):
        _check_field(section, part, sections[: depth - 1])
        section = section[part]
    _check_field(section, name, sections)
    try:
        section[name] = value
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"--config.{field}={value!r}: the field is of type {section.get_type(name).__name__}, "
            f"but this is of type {type(value).__name__}."
        ) from error


def _check_field(section: Any, name: str, path: list[str]) -> None:
    kind = f"field in config.{'.'.join(path)}" if path else "field in config"
    check_name(section.keys() if isinstance(section, ConfigDict) else [], kind, name)


def literal(text: str) -> Any:
    """The value that a text means on the command line: a Python literal, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
