"""Registries are explicit dicts `{name: "module:attribute"}`; an entry is imported when it is asked for."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any

from feature_cache.errors import UnknownNameError


def nearest(name: str, valid: Iterable[str], count: int = 3) -> list[str]:
    """The valid names most like `name`, best first; all of them, sorted, when none is alike.

    >>> nearest("emojis", ["emoji", "furniture", "instruments"])
    ['emoji']
    >>> nearest("x", ["emoji", "furniture"])
    ['emoji', 'furniture']
    """
    names = sorted(valid)
    folded = {candidate.lower(): candidate for candidate in names}
    alike = difflib.get_close_matches(name.lower(), folded, n=count, cutoff=0.5)
    return [folded[match] for match in alike] or names


def check_name(valid: Iterable[str], kind: str, name: str) -> None:
    """Raises `UnknownNameError`, with the nearest valid names, unless `name` is among `valid`.

    >>> check_name(["emoji", "furniture"], "dataset", "furnitur")
    Traceback (most recent call last):
    feature_cache.errors.UnknownNameError: There is no dataset 'furnitur'; did you mean furniture? Valid names: \
emoji, furniture.
    """
    names, name = sorted(valid), str(name)
    if name not in names:
        guess = nearest(name, names)
        hint = "" if guess == names else f"; did you mean {' or '.join(guess)}?"
        ending = " " if hint else ". "
        raise UnknownNameError(f"There is no {kind} {name!r}{hint}{ending}Valid names: {', '.join(names) or 'none'}.")


def resolve(registry: Mapping[str, str], kind: str, name: str) -> Any:
    """Imports what `registry[name]` points to.

    `kind` is the word for the registry's members in messages: "encoder", "dataset", "method".

    >>> resolve({"path": "pathlib:Path"}, "type", "path").__name__
    'Path'

    Raises `UnknownNameError` for a name that the registry does not have.
    """
    check_name(registry, kind, name)
    module, _, attribute = registry[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
