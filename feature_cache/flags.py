"""What the command lines share: unknown flags with the nearest valid ones, and names checked against a registry."""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn

from feature_cache.errors import UnknownNameError
from feature_cache.registry import check_name, nearest


def parse_strictly(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """`parser.parse_args`, but an unknown flag is named with the nearest valid ones. Pass `allow_abbrev=False`."""
    flags, unknown = parser.parse_known_args(arguments)
    if unknown:
        unknown_flags(parser, unknown, vars(flags))
    return flags


def unknown_flags(parser: argparse.ArgumentParser, unknown: Sequence[str], valid: Iterable[str]) -> NoReturn:
    """Ends the program with exit code 2 at the first of the `unknown` arguments; `valid`: flags without dashes."""
    alike = nearest(unknown[0].partition("=")[0], [f"--{name}" for name in valid])
    parser.error(f"there is no flag {unknown[0]!r}; the nearest are: {', '.join(alike)}")


def one_of(valid: Iterable[str], kind: str) -> Callable[[str], str]:
    """An argparse `type` for one name of a registry; `kind` is the word for its members, as in `check_name`."""
    valid = list(valid)

    def parse(text: str) -> str:
        try:
            check_name(valid, kind, text)
        except UnknownNameError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text

    return parse


def some_of(
    valid: Iterable[str], kind: str, groups: Mapping[str, Sequence[str]] | None = None
) -> Callable[[str], list[str]]:
    """An argparse `type` for several names with commas between, each taken once; a group's stands for its members.

    Without groups there is one, "all".

    >>> some_of(["emoji", "furniture"], "dataset")("furniture,emoji,furniture")
    ['furniture', 'emoji']
    >>> some_of(["emoji", "furniture"], "dataset")("all")
    ['emoji', 'furniture']
    """
    valid = list(valid)
    groups = {"all": valid} if groups is None else groups
    check = one_of([*valid, *groups], kind)

    def parse(text: str) -> list[str]:
        names = map(check, text.split(","))
        return list(dict.fromkeys(member for name in names for member in groups.get(name, [name])))

    return parse
