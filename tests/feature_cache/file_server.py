"""A server on 127.0.0.1 for one file, with the faults that real ones have."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Behaviour:
    """What the server does.

    Attributes:
        content: the file, at /file.
        ranges: whether it can send a part of the file.
        etag: what it calls this version of the file; "" = no name.
        cuts: after how many bytes of each of the next answers it drops the connection.
        answers: status codes that the next requests get instead of the file.
        announce: whether it tells how long the file is.
        heeds_if_range: whether it sends all of the file if the version asked for is another.
        seen: the Range header of every request so far, "" where there was none.
        sent: bytes of the file that it has sent.
    """

    content: bytes
    ranges: bool = True
    etag: str = '"1"'
    cuts: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    announce: bool = True
    heeds_if_range: bool = True
    seen: list[str] = field(default_factory=list)
    sent: int = 0
    url: str = ""


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[Behaviour]:
    """Runs the server; `url` of what it gives is the file's address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            behaviour.seen.append(self.headers.get("Range", ""))
            if self.path != "/file":
                self._refuse(404)
            elif behaviour.answers:
                self._refuse(behaviour.answers.pop(0))
            else:
                self._send()

        def _send(self) -> None:
            start = self._start()
            body = behaviour.content[start:]
            if start > len(behaviour.content) or (start and not body):
                return self._refuse(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(behaviour.content) - 1}/{len(behaviour.content)}"
                )
            if behaviour.etag:
                self.send_header("ETag", behaviour.etag)
            if behaviour.announce:
                self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            cut = behaviour.cuts.pop(0) if behaviour.cuts else len(body)
            self.wfile.write(body[:cut])
            behaviour.sent += len(body[:cut])
            self.close_connection = True

        def _start(self) -> int:
            found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            same = self.headers.get("If-Range", behaviour.etag) == behaviour.etag or not behaviour.heeds_if_range
            return int(found[1]) if found and behaviour.ranges and same else 0

        def _refuse(self, code: int) -> None:
            self.send_response(code)
            if code == 416:
                self.send_header("Content-Range", f"bytes */{len(behaviour.content)}")
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    behaviour.url = f"http://127.0.0.1:{server.server_port}/file"
    try:
        yield behaviour
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
