"""Whether a medium is of its modality's type."""

from typing import TypeVar

_Medium = TypeVar("_Medium")


def expect(raw: object, kind: type[_Medium]) -> _Medium:
    """The medium itself. Raises `TypeError` unless it is of this type.

    >>> expect("a cat", str)
    'a cat'
    """
    if not isinstance(raw, kind):
        raise TypeError(f"Expected a medium of type {kind.__qualname__}, but got a {type(raw).__qualname__}: {raw!r}.")
    return raw
