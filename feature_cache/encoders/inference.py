"""How every network is run."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext


@contextmanager
def exact_inference() -> Iterator[None]:
    """No gradients, full float32 and the same algorithm every time, on a GPU too.

    Raises `MemoryError`, which the extraction explains, if the device has not enough memory.
    """
    import torch

    with torch.inference_mode(), torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False):
        try:
            yield
        except RuntimeError as error:
            # torch.OutOfMemoryError is the accelerators'; of the CPU's allocator only the message tells.
            if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
                raise MemoryError(str(error)) from error
            raise


@contextmanager
def inference(device: str, precision: str = "float32") -> Iterator[None]:
    """`exact_inference`, with the arithmetic of linear layers in float16 or bfloat16 if `precision` says so."""
    import torch

    lower = nullcontext() if precision == "float32" else torch.autocast(device, getattr(torch, precision))
    with exact_inference(), lower:
        yield
