"""Fetches one large file over HTTP: resumes where an earlier try stopped, verifies, and then puts the file in place."""

import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from feature_cache.errors import UserError

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes of the whole file, None where the server does not tell."""

PART, VALIDATOR = ".part", ".part.etag"
RETRIES = 5
"""Tries in a row that bring no byte before a download is given up."""
_BLOCK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0


class DownloadError(UserError):
    """A file could not be fetched, or is not the one that was expected."""


class OtherFileError(DownloadError):
    """A file of the right size is there whose checksum is not the expected one."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server.

    Attributes:
        url: http or https.
        sha256: hexadecimal, of the content; None = unknown, then it is not checked.
        size: bytes; None = unknown, then what the server says is believed.
    """

    url: str
    sha256: str | None = None
    size: int | None = None


def download(
    url: str,
    target: Path,
    sha256: str | None = None,
    size: int | None = None,
    progress: Progress = lambda done, total: None,
    *,
    retries: int = RETRIES,
    pause: float = 1.0,
) -> None:
    """Fetches `url` to `target`, which appears whole and verified, or not at all.

    What has arrived is kept in `<target>.part`, and the next call goes on from there; of a file that changed on the
    server in between, or on a server that cannot send a part of a file, it starts over. Lost connections are tried
    again, after `pause`, 2·`pause`, 4·`pause` … seconds. A `target` that is there already is verified and kept.

    Args:
        sha256: hexadecimal, of the content; None = not checked.
        size: bytes; None = what the server says.
        progress: called with the bytes that are there and those of the whole file.
        retries: tries in a row that bring nothing before it gives up.

    Raises:
        DownloadError: the server has no such file or cannot be reached, the content has another size or checksum, the
            disk is full, or another process is fetching the same file.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url} cannot be downloaded: only http:// and https:// addresses can.")
    remote = RemoteFile(url, sha256 and sha256.lower(), size)
    if target.exists():
        _verify(remote, target, f"Delete it (`rm {target}`) to fetch it again")
        progress(target.stat().st_size, target.stat().st_size)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(_beside(target, PART)) as part:
            _Transfer(remote, target, part, progress).run(retries, pause)
    except OSError as error:
        raise DownloadError(_disk_trouble(error, url, target)) from error


class _Transfer:
    """One download into an open, locked `.part` file."""

    def __init__(self, remote: RemoteFile, target: Path, part: IO[bytes], progress: Progress) -> None:
        self._remote = remote
        self._target = target
        self._part = part
        self._progress = progress
        self._total = remote.size
        self._validator = _beside(target, VALIDATOR)

    def run(self, retries: int, pause: float) -> None:
        failures = 0
        while not self._complete():
            before = self._done
            try:
                self._receive()
            except _Lost as error:
                failures = 1 if self._done > before else failures + 1
                if failures > retries:
                    raise DownloadError(
                        f"{self._remote.url} could not be fetched: {error}, {failures} times in a row. "
                        f"{self._done} bytes of it are kept in {self._target}{PART}; the same command goes on from "
                        "there. Check the network, and the proxy if there is one (HTTPS_PROXY)."
                    ) from error
                time.sleep(error.wait or min(pause * 2 ** (failures - 1), _LONGEST_WAIT))
        self._finish()

    @property
    def _done(self) -> int:
        return self._part.seek(0, os.SEEK_END)

    def _complete(self) -> bool:
        """Whether all bytes are there. Until the server was asked, only a known size can tell."""
        return self._total is not None and self._done == self._total

    def _receive(self) -> None:
        """Appends what one answer of the server brings. Raises `_Lost` for what another try may mend."""
        if self._total is not None and self._done > self._total:
            self._start_over()
        response = self._open()
        if response is None:
            self._total = self._done
            return
        with response:
            self._prepare(response)
            while block := _reading(response):
                self._part.write(block)
                self._progress(self._done, self._total)
        self._part.flush()
        if self._total is None:
            self._total = self._done  # neither announced nor cut into chunks: it ends with the connection
        if self._done > self._total:  # of an answer that did not announce its length
            done = self._done
            self._start_over()
            self._check_total(done)
        if self._done < self._total:
            raise _Lost(f"the connection ended after {self._done} of {self._total} bytes")

    def _open(self) -> http.client.HTTPResponse | None:
        """Asks for what is missing; None if the server says that nothing is."""
        headers = {"User-Agent": "cmcl_jax", "Accept-Encoding": "identity"}
        if done := self._done:
            headers["Range"] = f"bytes={done}-"
            if self._validator.exists():
                headers["If-Range"] = self._validator.read_text(encoding="latin-1")
        try:
            request = urllib.request.Request(self._remote.url, headers=headers)
            response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
            return response
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # nothing is left, or the file has become shorter
                if error.headers.get("Content-Range") == f"bytes */{done}":
                    return None
                self._start_over()
                raise _Lost("the server says that the file is shorter than what is here") from error
            if error.code in _BUSY:
                raise _Lost(f"the server answered {error.code} {error.reason}", _wait(error)) from error
            raise DownloadError(
                f"{self._remote.url} cannot be downloaded: the server answered {error.code} {error.reason}. It may "
                "have moved: look for it on its project's page."
            ) from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise _Lost(str(getattr(error, "reason", error)) or type(error).__name__) from error

    def _prepare(self, response: http.client.HTTPResponse) -> None:
        """Brings the part in line with what the answer brings: the rest, or all of it."""
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdecimal() else None
        if response.status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            if not found or int(found[1]) != self._done or self._is_other_version(response):
                self._start_over()
                raise _Lost("the server sent another part of the file than it was asked for, or of another file")
            total = int(found[2]) if found[2] != "*" else total and self._done + total
        else:
            self._start_over()
        self._check_total(total)
        self._total = self._total if total is None else total
        self._remember(response)
        self._check_space()

    def _check_total(self, total: int | None) -> None:
        expected = self._remote.size
        if None not in (total, expected) and total != expected:
            raise DownloadError(
                f"{self._remote.url} has {total} bytes, but should have {expected}: the file on the server has "
                "changed, or something between here and there answers in its place."
            )

    def _remember(self, response: http.client.HTTPResponse) -> None:
        """Keeps what tells this version of the file from others, so that two are never mixed."""
        if mark := _mark(response):
            self._validator.write_text(mark, encoding="latin-1")
        else:
            self._validator.unlink(missing_ok=True)

    def _is_other_version(self, response: http.client.HTTPResponse) -> bool:
        """For servers that send a part of whatever file is there now, whatever If-Range says."""
        known = self._validator.read_text(encoding="latin-1") if self._validator.exists() else ""
        return bool(known and _mark(response) and known != _mark(response))

    def _check_space(self) -> None:
        if self._total is not None:
            free = shutil.disk_usage(self._target.parent).free
            if free < self._total - self._done:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _start_over(self) -> None:
        self._part.truncate(0)
        self._validator.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._part.flush()
        os.fsync(self._part.fileno())
        path = _beside(self._target, PART)
        try:
            _verify(self._remote, path, "What was fetched has been deleted; give the same command again")
        except DownloadError:
            self._start_over()  # the lock holds the file open; its bytes are worth nothing
            raise
        finally:
            self._validator.unlink(missing_ok=True)
        os.replace(path, self._target)
        self._progress(self._done, self._done)


def first_cause(error: Exception) -> BaseException:
    """What the system said below the layers of a client, "Name or service not known"; the error itself if nothing."""
    cause: BaseException = error
    while below := cause.__cause__ or cause.__context__:
        cause = below
    return cause if isinstance(cause, OSError) and cause.errno else error


class _Lost(Exception):
    """Another try may succeed, after `wait` seconds if the server says so."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def _reading(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_BLOCK)
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Lost(f"the connection broke ({type(error).__name__})") from error


def _mark(response: http.client.HTTPResponse) -> str:
    etag: str = response.headers.get("ETag", "")
    modified: str = response.headers.get("Last-Modified", "")
    return etag if etag.startswith('"') else modified  # W/"…" promises no bytes


def _wait(error: urllib.error.HTTPError) -> float:
    seconds = error.headers.get("Retry-After", "")
    return min(float(seconds), _LONGEST_WAIT) if seconds.isdecimal() else 0.0


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


@contextmanager
def _exclusive(path: Path) -> Iterator[IO[bytes]]:
    """The file, open for appending, for this process alone; an empty one is removed in the end."""
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(
                f"{path} is being written by another process that fetches the same file. Wait for it, or stop it."
            ) from None
        except OSError as error:  # file systems without locks; there it is up to the user
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        try:
            yield file
        finally:
            with contextlib.suppress(OSError):
                file.flush()
            if path.exists() and path.stat().st_size == 0 and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                path.unlink()


def _verify(remote: RemoteFile, path: Path, remedy: str) -> None:
    """Raises `DownloadError` unless the file has the size and the checksum that are known."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        raise DownloadError(f"{path} has {size} bytes, but {remote.url} has {remote.size}. {remedy}.")
    if remote.sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != remote.sha256:
        raise OtherFileError(
            f"{path} is not what {remote.url} should be: its SHA-256 is {found}, expected {remote.sha256}. {remedy}."
        )


def _disk_trouble(error: OSError, url: str, target: Path) -> str:
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(target.parent).free / 1e9
            return (
                f"There is not enough space for {target} in {target.parent.absolute()}: {free:.1f} GB are free. What "
                f"came is kept in {target}{PART}: make space and give the same command again."
            )
    path = error.filename or target
    return f"{url} cannot be saved as {target}: {path}: {error.strerror or error}. Choose another folder."
