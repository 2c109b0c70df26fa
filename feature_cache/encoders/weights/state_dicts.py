"""Parameters of networks from files: read without running code, and loaded strictly."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from feature_cache.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import nn

_EXAMPLES = 3


def read_state_dict(path: Path, remedy: str) -> "dict[str, torch.Tensor]":
    """The tensors of a checkpoint by name, on the CPU; .safetensors, or what `torch.save` writes.

    They are mapped from the file where its format allows, so that processes share them and nothing is read in vain.
    `remedy` is the sentence that ends the message of every error.

    Raises:
        WeightsError: the file is missing, damaged, of another kind, or holds something besides tensors.
    """
    if not path.is_file() or not path.stat().st_size:
        raise WeightsError(f"{path} is {'empty' if path.is_file() else 'not a file'}. {remedy}")
    state = _read_safetensors(path, remedy) if path.suffix == ".safetensors" else _read_pickle(path, remedy)
    return _tensors(state, path, remedy)


def _read_safetensors(path: Path, remedy: str) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged, or not a safetensors file: {error}. {remedy}") from error


def _read_pickle(path: Path, remedy: str) -> object:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, of files that then turn out not to be checkpoints
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # torch says at length how to switch its protection off, which nobody should be led to do.
        unsafe = "Unsupported" in str(error) and "GLOBAL" in str(error)
        what = "asks to run code, which is not done" if unsafe else "is damaged (cut off?), or not a checkpoint"
        raise WeightsError(f"{path} {what}. {remedy}") from error
    except MemoryError:
        raise
    except Exception as error:  # damage makes the reader raise whatever it likes
        first = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
        raise WeightsError(f"{path} is damaged (cut off?), or not a checkpoint: {first}. {remedy}") from error


def _tensors(state: object, path: Path, remedy: str) -> "dict[str, torch.Tensor]":
    import torch

    if isinstance(state, Mapping):
        strange = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
        if not strange:
            return dict(state)
        what = f"its entry {strange[0]!r} is a {type(state[strange[0]]).__name__}"
    else:
        what = f"it is a {type(state).__name__}"
    raise WeightsError(f"{path} should hold tensors by name and nothing else, but {what}. {remedy}")


def load_strictly(network: "nn.Module", state: "Mapping[str, torch.Tensor]", path: Path, remedy: str) -> None:
    """Gives a network, which may be on torch's device "meta", exactly these parameters and buffers, in float32.

    `path` is where they are from, for messages; `remedy` as in `read_state_dict`.

    Raises:
        WeightsError: a name or a shape is not the network's; the message names some and counts the rest.
    """
    wanted = network.state_dict()
    shapes = {name: (list(state[name].shape), list(wanted[name].shape)) for name in wanted.keys() & state.keys()}
    trouble = [
        _some("missing", [name for name in wanted if name not in state]),
        _some("not expected", [name for name in state if name not in wanted]),
        _some("of another shape", [f"{n} is {a}, not {b}" for n, (a, b) in sorted(shapes.items()) if a != b]),
    ]
    if any(trouble):
        raise WeightsError(
            f"{path} does not fit {type(network).__name__}, which has {len(wanted)} parameters and buffers: "
            f"{'; '.join(filter(None, trouble))}. {remedy}"
        )
    floats = {name: state[name].float() if state[name].is_floating_point() else state[name] for name in wanted}
    network.load_state_dict(floats, strict=True, assign=True)


def _some(what: str, names: list[str]) -> str:
    """How many there are, and the first few by name."""
    more = ", …" if len(names) > _EXAMPLES else ""
    return f"{len(names)} {what} ({', '.join(names[:_EXAMPLES])}{more})" if names else ""
