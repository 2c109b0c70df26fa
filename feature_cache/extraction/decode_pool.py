"""Worker processes that decode media ahead of the encoder, in order, and that a decoder may crash or hang.

A thread of this process looks after each worker, so it is always known which medium a worker died of.
"""

import os
import pickle
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType

from feature_cache.encoders.base import Encoder
from feature_cache.errors import UserError
from feature_cache.extraction.decode import Outcome, Request, decode_item
from feature_cache.extraction.messages import packed
from feature_cache.extraction.remote_decoder import RemoteDecoder

DECODE_TIMEOUT = 300.0
"""Seconds that one medium may take."""
MOST_WORKERS = 16 if os.name == "posix" else 0
"""More are started only if somebody asks for them. None on Windows, where a socket cannot be handed down."""


class DecodePool:
    """A `Decoder` of several worker processes, each with a copy of the encoder, a single thread, and without torch.

    Make it before the encoder's first `embed` (the copy is made now), and use it as a context manager: leaving it ends
    the workers. They start when they are needed, and serve one dataset after another.

    Args:
        encoder: whose `preprocess` is called.
        workers: how many processes, at least 1.
        timeout: seconds after which a medium counts as one that cannot be decoded.

    Raises `UserError` if the encoder or an item cannot be sent to another process, and on Windows.
    """

    def __init__(self, encoder: Encoder, workers: int, timeout: float = DECODE_TIMEOUT) -> None:
        if not MOST_WORKERS:
            raise UserError("Worker processes for decoding need Linux or macOS. Use --workers=0.")
        try:
            message = packed(encoder)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"The encoder {encoder.name} cannot be sent to worker processes ({error}). Use --workers=0."
            ) from None
        self._decoders = [RemoteDecoder(message, timeout) for _ in range(workers)]
        self._idle: SimpleQueue[RemoteDecoder] = SimpleQueue()
        for decoder in self._decoders:
            self._idle.put(decoder)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def __call__(self, requests: Iterable[Request], ahead: int) -> Iterator[Outcome]:
        ahead = max(ahead, len(self._decoders))  # fewer would leave a worker idle
        pending: deque[Future[Outcome]] = deque()
        try:
            for request in requests:
                pending.append(self._threads.submit(self._decode, request))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _decode(self, request: Request) -> Outcome:
        decoder = self._idle.get()
        try:
            return decode_item(request, decoder.decode)
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """Ends the workers at once, in the middle of a medium too."""
        for decoder in self._decoders:
            decoder.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for decoder in self._decoders:
            decoder.close()

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
