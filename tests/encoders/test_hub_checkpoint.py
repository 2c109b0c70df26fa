"""Fetching repositories of the Hugging Face hub, from a hub on this machine."""

import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import extract_features
from feature_cache.downloading import DownloadError
from feature_cache.encoders.languagebind import LanguageBind
from feature_cache.encoders.languagebind_snapshot import CHECKPOINT, FOLDERS, TOWERS, Snapshot
from feature_cache.encoders.weights.hub_checkpoint import RECORD, HubCheckpoint, Repository
from tests.encoders.media import photo

COMMIT = "c" * 40
WEIGHTS = bytes(range(256)) * 40_000


@dataclass
class Hub:
    """What the hub has and does.

    Attributes:
        repositories: their files by name; those that end in .bin or .safetensors are large ones.
        promised: the SHA-256 that it gives for a file instead of the true one.
        cuts: after how many bytes of each of the next large files the connection drops.
        seen: every request so far.
        sent: bytes of large files that it has sent.
    """

    repositories: dict[str, dict[str, bytes]]
    promised: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    sent: int = 0
    url: str = ""


def is_large(name: str) -> bool:
    return name.endswith((".bin", ".safetensors"))


def git_name(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.seen.append(f"{self.command} {self.path}")
            path = self.path.partition("?")[0].strip("/").split("/")
            is_listing = path[:2] == ["api", "models"]
            name = "/".join(path[2:4] if is_listing else path[:2])
            files = hub.repositories.get(name)
            if files is None:
                self.send_error(404, "Repository not found")
            elif is_listing:
                listing = {"id": name, "sha": COMMIT, "siblings": [listed(*file) for file in files.items()]}
                self._answer(json.dumps(listing).encode(), {"Content-Type": "application/json"})
            elif path[2:4] == ["resolve", COMMIT] and path[4] in files:
                self._send(path[4], files[path[4]])
            else:
                self.send_error(404, "Entry not found")

        do_HEAD = do_GET

        def _send(self, name: str, content: bytes) -> None:
            tag = digest(name, content) if is_large(name) else git_name(content)
            start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            cut = hub.cuts.pop(0) if self.command == "GET" and is_large(name) and hub.cuts else len(content)
            if self.command == "GET" and is_large(name):
                hub.sent += min(cut, len(content) - start)
            self._answer(content[start:], headers, cut)

        def _answer(self, body: bytes, headers: dict[str, str], cut: int = 1 << 40) -> None:
            self.send_response(206 if "Content-Range" in headers else 200)
            for name, value in {**headers, "Content-Length": str(len(body)), "Connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:cut])
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    def digest(name: str, content: bytes) -> str:
        return hub.promised.get(name, hashlib.sha256(content).hexdigest())

    def listed(name: str, content: bytes) -> dict:
        entry = {"rfilename": name, "size": len(content), "blobId": git_name(content)}
        lfs = {"sha256": digest(name, content), "size": len(content), "pointerSize": 135}
        return {**entry, "lfs": lfs} if is_large(name) else entry

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {"config.json": b"{}", "README.md": b"read", "pytorch_model.bin": WEIGHTS, "flax_model.msgpack": b"f"}
    with serving(Hub({"owner/one": files, "owner/two": {**files, "model.safetensors": WEIGHTS[::-1]}})) as hub:
        yield hub


def checkpoint(hub: Hub, *repositories: Repository) -> HubCheckpoint:
    wanted = ("config.json", ("model.safetensors", "pytorch_model.bin"))
    return HubCheckpoint("some", "MIT", "https://example.org", None, repositories, wanted, hub.url)


def test_what_is_wanted_is_fetched_verified_and_recorded_with_its_commit(hub: Hub, tmp_path: Path) -> None:
    progress: list[tuple[int, int | None]] = []
    both = checkpoint(hub, Repository("owner/one"), Repository("owner/two", COMMIT))
    both.fetch(tmp_path, lambda done, total: progress.append((done, total)))
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/[!.]*") if ".sha256." not in path.name}
    assert found == {
        "one/config.json", "one/hub.json", "one/pytorch_model.bin",
        "two/config.json", "two/hub.json", "two/model.safetensors",
    }  # fmt: skip
    assert (tmp_path / "one/pytorch_model.bin").read_bytes() == WEIGHTS
    assert (tmp_path / "two/model.safetensors").read_bytes() == WEIGHTS[::-1]
    assert json.loads((tmp_path / "one" / RECORD).read_text()) == {
        "repository": "owner/one",
        "revision": COMMIT,
        "sha256": {
            "config.json": hashlib.sha256(b"{}").hexdigest(),
            "pytorch_model.bin": hashlib.sha256(WEIGHTS).hexdigest(),
        },
    }
    assert progress[-1] == (len(WEIGHTS) + 2, len(WEIGHTS) + 2)
    assert f"GET /api/models/owner/two/revision/{COMMIT}?blobs=True" in hub.seen


def test_what_is_there_is_verified_without_asking_the_hub_and_repaired_if_it_changed(hub: Hub, tmp_path: Path) -> None:
    one = checkpoint(hub, Repository("owner/one"))
    one.fetch(tmp_path, lambda done, total: None)
    asked = len(hub.seen)
    one.fetch(tmp_path, lambda done, total: None)
    assert len(hub.seen) == asked
    (tmp_path / "one/pytorch_model.bin").write_bytes(b"cut off")
    (tmp_path / "one/config.json").write_bytes(b"[]")
    one.fetch(tmp_path, lambda done, total: None)
    assert (tmp_path / "one/pytorch_model.bin").read_bytes() == WEIGHTS
    assert (tmp_path / "one/config.json").read_bytes() == b"{}"
    with pytest.raises(DownloadError):  # another commit is another thing
        checkpoint(dataclasses.replace(hub, url="http://127.0.0.1:9"), Repository("owner/one", "d" * 40)).fetch(
            tmp_path, lambda done, total: None
        )


def test_a_download_that_broke_off_goes_on_where_it_was(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 20)
    one = checkpoint(hub, Repository("owner/one"))
    hub.cuts = [9_000_000]
    for _ in range(3):
        try:
            one.fetch(tmp_path, lambda done, total: None)
            break
        except DownloadError as error:
            assert "Try again, which goes on" in str(error)
    assert (tmp_path / "one/pytorch_model.bin").read_bytes() == WEIGHTS
    assert hub.cuts == []
    assert len(WEIGHTS) <= hub.sent < len(WEIGHTS) + 3_000_000


def test_what_is_not_what_the_hub_promised_is_removed(hub: Hub, tmp_path: Path) -> None:
    hub.promised["pytorch_model.bin"] = "0" * 64
    with pytest.raises(DownloadError, match=r"pytorch_model\.bin arrived damaged and was removed: .* says, 0{64}"):
        checkpoint(hub, Repository("owner/one")).fetch(tmp_path, lambda done, total: None)
    assert not (tmp_path / "one/pytorch_model.bin").exists()
    assert not (tmp_path / "one" / RECORD).exists()


def test_a_hub_that_lacks_something_or_cannot_be_reached_is_said_with_the_steps_by_hand(
    hub: Hub, tmp_path: Path
) -> None:
    del hub.repositories["owner/one"]["pytorch_model.bin"]
    with pytest.raises(DownloadError, match=r"owner/one on .* has no model\.safetensors or pytorch_model\.bin, only"):
        checkpoint(hub, Repository("owner/one")).fetch(tmp_path, lambda done, total: None)
    by_hand = rf"hf download owner/three config\.json pytorch_model\.bin --local-dir {tmp_path}/three"
    with pytest.raises(DownloadError, match=rf"owner/three could not be fetched .*404.*{by_hand}"):
        checkpoint(hub, Repository("owner/three")).fetch(tmp_path, lambda done, total: None)
    unreachable = dataclasses.replace(hub, url="http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"could not be fetched.*hf download owner/one .* --revision abc "):
        checkpoint(unreachable, Repository("owner/one", "abc")).fetch(tmp_path, lambda done, total: None)


def test_languagebind_comes_from_the_hub_by_the_command_and_embeds(
    languagebind_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("config.json", "vocab.json", "merges.txt", "pytorch_model.bin", "model.safetensors")
    repositories = {
        f"LanguageBind/{folder}": {
            path.name: path.read_bytes() for path in (languagebind_weights / folder).iterdir() if path.name in names
        }
        for folder in FOLDERS
    }
    assert {repository.name for repository in CHECKPOINT.repositories} == set(repositories)
    assert {repository.folder for repository in CHECKPOINT.repositories} == set(TOWERS.values())
    monkeypatch.chdir(tmp_path)
    with serving(Hub(repositories)) as hub:
        here = dataclasses.replace(CHECKPOINT, endpoint=hub.url)
        monkeypatch.setattr(LanguageBind, "checkpoint", here)
        assert extract_features.main(["weights", "--encoder=languagebind", "--yes"]) == 0
    said = capsys.readouterr().err
    assert "licence MIT (https://huggingface.co/LanguageBind), belongs at weights/languagebind" in said
    encoder, original = (LanguageBind("cpu", weights=weights) for weights in (None, languagebind_weights))
    pixels = encoder.preprocess("vision", photo("cat"))
    np.testing.assert_array_equal(encoder.embed("vision", [pixels]), original.embed("vision", [pixels]))
    assert encoder.weights_sha256() == original.weights_sha256()
    assert Snapshot(Path("weights/languagebind/LanguageBind_Image")).dim == 24
