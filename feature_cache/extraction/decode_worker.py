"""The program of a worker process: decodes media until its parent is gone.

    python -m feature_cache.extraction.decode_worker FD

FD is a socket. First comes an encoder, which is answered by None; then (item, modality) after (item, modality), each
answered by the array, by the reason why there is none, or by an error that stops the run (`NOT_THE_MEDIUM`).
"""

import fcntl
import os
import signal
import socket
import sys
from typing import Any

from feature_cache.errors import UserError
from feature_cache.extraction.decode import NOT_THE_MEDIUM, decode_medium
from feature_cache.extraction.messages import packed, portable, receive, send


def main() -> None:
    """Ends when the socket or, in the middle of decoding, standard input does: both belong to the parent alone."""
    _end_with_parent()
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        try:
            _serve(channel)
        except (EOFError, ConnectionError):
            return


def _end_with_parent() -> None:
    """By the signal of an event at standard input: a thread that reads it would wait for decoders that hold the GIL."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


def _serve(channel: socket.socket) -> None:
    try:
        encoder = receive(channel)
    except (EOFError, ConnectionError):
        raise
    except Exception as error:
        send(channel, packed(portable(error)))
        return
    _quieten_libraries()
    send(channel, packed(None))
    while True:
        send(channel, packed(_answer(encoder, channel)))


def _quieten_libraries() -> None:
    """Keeps standard error for Python: libmpg123 and others write there what comes back as a failure's reason, too."""
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _answer(encoder: Any, channel: socket.socket) -> object:
    try:
        item, modality = receive(channel)
    except (EOFError, ConnectionError):
        raise
    except Exception as error:  # of unpickling
        return UserError(f"A worker process cannot import what opens the media ({error}). Use --workers=0.")
    try:
        return decode_medium(encoder, item, modality)
    except NOT_THE_MEDIUM as error:
        return portable(error)


if __name__ == "__main__":
    main()
