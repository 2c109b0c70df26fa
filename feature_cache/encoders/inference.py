"""How every network is run."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exact_inference() -> Iterator[None]:
    """No gradients, full float32 and the same algorithm every time, on a GPU too."""
    import torch

    with torch.inference_mode(), torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False):
        yield
