"""A server on 127.0.0.1 for many files, which can also pass for the Hugging Face hub."""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Site:
    """What is served.

    Attributes:
        files: by path, with a "/" in front.
        slow: for these paths the seconds to wait after every `block` bytes.
        block: bytes that are sent at once.
        requests: path and Range header of every request so far.
        sent: bytes sent, by path.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    block: int = 1 << 14
    requests: list[tuple[str, str]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    url: str = ""

    def add_repository(self, repo: str, files: dict[str, bytes], small: tuple[str, ...] = (".csv",)) -> None:
        """Files of a dataset repository; those that are not `small` have the SHA-256 of Git LFS."""
        siblings = []
        for path, content in files.items():
            self.files[f"/datasets/{repo}/resolve/{REVISION}/{path}"] = content
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": blob}
            if not path.endswith(small):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        listing = {"id": repo, "sha": REVISION, "siblings": siblings, "tags": []}
        self.files[f"/api/datasets/{repo}"] = json.dumps(listing).encode()

    def fetched(self) -> list[str]:
        """The names of the files that were asked for, listings apart."""
        return [path.rpartition("/")[2] for path, _ in self.requests if not path.startswith("/api/")]


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Runs the server; `url` of what it gives is its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0])
            asked = self.headers.get("Range", "")
            site.requests.append((path, asked))
            content = site.files.get(path)
            if content is None:
                self.send_error(404)
                return
            match = re.fullmatch(r"bytes=(\d+)-", asked)
            start = int(match[1]) if match else 0
            self.send_response(206 if match else 200)
            if match:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.end_headers()
            for at in range(start, len(content), site.block):
                self.wfile.write(content[at : at + site.block])
                site.sent[path] = site.sent.get(path, 0) + len(content[at : at + site.block])
                time.sleep(site.slow.get(path, 0))

        def handle(self) -> None:
            with suppress(ConnectionError):  # the other side was killed
                super().handle()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
