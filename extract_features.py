"""Raw media -> feature cache, on the command line. `python extract_features.py --help` shows examples."""

import sys
from collections.abc import Sequence

from feature_cache import commands
from feature_cache.commands import extract
from feature_cache.errors import UnknownNameError
from feature_cache.registry import resolve


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names, extraction if it names none; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0].startswith("-"):
        return extract.main(arguments)
    command, *rest = arguments
    try:
        run = resolve(commands.REGISTRY, "command", command)
    except UnknownNameError as error:
        print(f"{error} Without one, media are extracted: --help shows examples.", file=sys.stderr)
        return 2
    try:
        code: int = run(rest)
    except KeyboardInterrupt:  # of the commands that have no more to say about it
        print(f"{command}: stopped. Give the same command again.", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
