"""Parsed JSON -> frozen dataclasses, strictly: every field present, none unknown, every value of its declared type."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class SchemaError(ValueError):
    """The value does not fit its type; the message starts with where in the document it is."""


def decode(kind: Any, value: Any, where: str = "") -> Any:
    """Turns parsed JSON into `kind`: a dataclass, tuple[X, ...], dict[str, X], X | None, str, int, float or bool.

    >>> decode(tuple[int, ...], [1, 2])
    (1, 2)
    >>> decode(dict[str, float], {"scale": "big"})
    Traceback (most recent call last):
    feature_cache.schema.SchemaError: field 'scale' should be a float, but is the str 'big'

    Raises `SchemaError`.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(typing.cast("type[Any]", kind), value, where)
    if origin is tuple:
        return tuple(decode(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(_check(list, value, where)))
    if origin is dict:
        return {k: decode(arguments[1], v, _join(where, k)) for k, v in _check(dict, value, where).items()}
    if origin is types.UnionType:
        return None if value is None else decode(arguments[0], value, where)
    if kind is float and type(value) is int:
        return float(value)
    return _check(kind, value, where)


def _decode_dataclass(kind: type[T], value: Any, where: str) -> T:
    mapping: Mapping[str, Any] = _check(dict, value, where)
    annotations = typing.get_type_hints(kind)
    hints = {field.name: annotations[field.name] for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in hints:
        if name not in mapping:
            raise SchemaError(f"field {_join(where, name)!r} is missing")
    for name in mapping:
        if name not in hints:
            raise SchemaError(f"field {_join(where, name)!r} is unknown")
    fields = {name: decode(hint, mapping[name], _join(where, name)) for name, hint in hints.items()}
    try:
        return kind(**fields)
    except SchemaError as error:
        raise SchemaError(f"{where}: {error}" if where else str(error)) from None


def _check(kind: type, value: Any, where: str) -> Any:
    if type(value) is not kind:  # not isinstance: a bool is no int here
        shown = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "..."
        subject = f"field {where!r}" if where else "the document"
        raise SchemaError(f"{subject} should be a {kind.__name__}, but is the {type(value).__name__} {shown}")
    return value


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
