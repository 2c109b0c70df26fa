"""Python objects through a socket between a process and a worker of its own; arrays pass without being copied."""

import pickle
import socket
import struct
from typing import Any

from feature_cache.errors import UserError

Message = list[bytes | pickle.PickleBuffer]
"""The pickle, then the contents of its arrays."""


def packed(value: object) -> Message:
    """Raises whatever pickling raises."""
    arrays: Message = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    return [pickled, *arrays]


def send(channel: socket.socket, message: Message) -> None:
    """Blocks until the other side has taken it. Raises `OSError` if there is nobody."""
    parts = [memoryview(part).cast("B") if isinstance(part, bytes) else part.raw() for part in message]
    channel.sendall(struct.pack(f"<Q{len(parts)}Q", len(parts), *map(len, parts)))
    for part in parts:
        channel.sendall(part)


def receive(channel: socket.socket) -> Any:
    """The next value. Raises `EOFError` when the other side is gone, `TimeoutError` by the socket's own timeout.

    Only for sockets whose other side is trusted: it unpickles.
    """
    (count,) = struct.unpack("<Q", _read(channel, 8))
    sizes = struct.unpack(f"<{count}Q", _read(channel, 8 * count))
    pickled, *arrays = [_read(channel, size) for size in sizes]
    return pickle.loads(pickled, buffers=arrays)


def portable(error: Exception) -> Exception:
    """The error, or if it does not survive pickling, one of the same kind with the same message that does."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # whatever its constructor makes of the arguments
        pass
    kinds = (UserError, ImportError, MemoryError, OSError)
    return next((kind for kind in kinds if isinstance(error, kind)), RuntimeError)(str(error))


def _read(channel: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while len(view):
        count = channel.recv_into(view)
        if not count:
            raise EOFError("the other side is gone")
        view = view[count:]
    return data
