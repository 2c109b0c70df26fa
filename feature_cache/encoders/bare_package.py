"""Modules out of an installed package whose own `__init__` wants packages that are neither installed nor needed."""

import importlib.util
import sys
from types import ModuleType

from feature_cache.errors import WeightsError


def skip_package_init(package: str, version: str) -> None:
    """Makes the submodules of `package` importable without its `__init__`, unless that was run already.

    Raises `WeightsError`, with the command that installs this version, if the package is not there.
    """
    if package in sys.modules:
        return
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise WeightsError(
            f"The package {package} is not installed; the encoder's architecture comes out of it. Run "
            f"`pip install --no-deps {package}=={version}`."
        )
    bare = ModuleType(package)
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules[package] = bare
