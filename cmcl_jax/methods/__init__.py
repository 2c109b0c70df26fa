"""Continual-learning methods by name; each is one file. See `cmcl_jax.methods.base` for what a method is."""

from __future__ import annotations

from typing import Any

from cmcl_jax.methods.base import Method, Training
from feature_cache.registry import resolve

REGISTRY = {
    "vanilla": "cmcl_jax.methods.vanilla:from_config",
    "dns": "cmcl_jax.methods.dns:from_config",
    "joint": "cmcl_jax.methods.joint:from_config",
}


def method_from_config(config: Any) -> Method:
    """The method that `config.method` names, with its own settings from `config.<method>`.

    Raises:
        UnknownNameError: naming the nearest methods, if there is none of that name.
    """
    method: Method = resolve(REGISTRY, "method", config.method)(config, Training.from_config(config.training))
    return method


__all__ = ["REGISTRY", "Method", "Training", "method_from_config"]
