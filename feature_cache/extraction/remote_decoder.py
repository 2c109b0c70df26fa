"""One worker process that decodes media, and is replaced when it crashes or hangs."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace

from feature_cache.datasets.base import Item
from feature_cache.errors import UserError
from feature_cache.extraction.decode import Array
from feature_cache.extraction.messages import Message, packed, receive, send

ONE_THREAD = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB", "RAYON")
}  # read when the libraries are loaded
STARTING = 300.0
"""Seconds that a worker may take to start: on a cold network disk imports are slow."""
ENDING = 10.0
"""Seconds that a killed one is waited for."""


class RemoteDecoder:
    """Its `decode` is a `DecodeMedium`, for one thread at a time; `close` may be called by another.

    Args:
        encoder: packed for sending.
        timeout: seconds that a medium may take.
    """

    def __init__(self, encoder: Message, timeout: float) -> None:
        self._encoder = encoder
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._closed = False
        self._changing = threading.Lock()

    def decode(self, item: Item, modality: str) -> Array | str:
        """Raises what is `NOT_THE_MEDIUM`."""
        message = _request(item, modality)
        # Twice, the second time by a new process: a crash may be another's fault, as when memory is short.
        for _ in range(2):
            try:
                return self._ask(message)
            except TimeoutError:
                self._end()
                return f"the decoder took longer than {self._timeout:g} s"
            except MemoryError:  # in the middle of an answer, so that nothing after it could be understood
                self._end()
                return "MemoryError: what the decoder made of it is too large for this process"
            except (EOFError, ConnectionError):
                code = self._end()
        return f"the decoder crashed ({_cause(code)})"

    def kill(self) -> None:
        """Ends the process in the middle of whatever it does, and lets no other start; for any thread."""
        with self._changing:
            self._closed = True
            if self._process is not None and self._channel is not None:
                self._process.kill()
                with suppress(OSError):
                    self._channel.shutdown(socket.SHUT_RDWR)  # for a thread whose worker not even SIGKILL ends

    def close(self) -> None:
        """Ends the process and frees what is left of it; while no thread is in `decode`."""
        self.kill()
        self._end()

    def _ask(self, message: Message) -> Array | str:
        channel = self._channel or self._start()
        channel.settimeout(self._timeout)
        send(channel, message)
        answer: Array | str | Exception = receive(channel)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _start(self) -> socket.socket:
        channel = self._spawn()
        channel.settimeout(STARTING)
        try:
            send(channel, self._encoder)
            refusal = receive(channel)
        except (EOFError, OSError) as error:
            code = self._end()
            raise UserError(
                f"A worker process for decoding could not start ({_cause(code)}; {error or type(error).__name__}). Is "
                f"`{sys.executable} -m feature_cache.extraction.decode_worker` possible here? --workers=0 does without."
            ) from None
        if refusal is not None:
            self._end()
            raise UserError(f"A worker process cannot import the encoder: {refusal}. --workers=0 does without.")
        return channel

    def _spawn(self) -> socket.socket:
        with self._changing:
            if self._closed:
                raise UserError("The workers have been stopped.")
            ours, theirs = socket.socketpair()
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "feature_cache.extraction.decode_worker", str(theirs.fileno())],
                    env={**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(sys.path)},
                    stdin=subprocess.PIPE,  # nothing is written to it: its end tells the worker that we are gone
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # Ctrl-C is for us alone, who then end the workers
                )
            self._channel, self._process = ours, process
            return ours

    def _end(self) -> int:
        """Ends the process and returns its exit code as `subprocess` has it: what it died of if it was dead already."""
        with self._changing:
            channel, process = self._channel, self._process
            self._channel = self._process = None
        if channel is None or process is None or process.stdin is None:
            return 0
        process.kill()
        process.stdin.close()
        channel.close()
        try:
            return process.wait(ENDING)
        except subprocess.TimeoutExpired:  # it waits for a disk that does not answer, which no signal can end
            return -signal.SIGKILL


def _request(item: Item, modality: str) -> Message:
    """No more of the item than what opens this medium."""
    media = {modality: item.media[modality]} if modality in item.media else {}
    try:
        return packed((replace(item, media=media), modality))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"The {modality} of item {item.id!r} cannot be sent to a worker process ({error}): what opens a medium "
            "should be a function of a module, or a functools.partial of one. --workers=0 does without workers."
        ) from None


def _cause(code: int) -> str:
    """
    >>> _cause(-11), _cause(-9), _cause(3)
    ('signal 11, SIGSEGV', 'signal 9, SIGKILL, as when memory is short', 'exit code 3')
    """
    if code >= 0:
        return f"exit code {code}"
    known = {number.value: f", {number.name}" for number in signal.Signals}
    return f"signal {-code}{known.get(-code, '')}{', as when memory is short' * (code == -signal.SIGKILL)}"
