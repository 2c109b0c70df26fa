"""`extract_features.py weights` against a server on this machine."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import extract_features
from feature_cache import encoders
from feature_cache.encoders.weights.checkpoints import FileCheckpoint, ManualCheckpoint
from feature_cache.encoders.weights.hub_checkpoint import HubCheckpoint, Repository
from feature_cache.errors import WeightsError
from tests.feature_cache.file_server import Behaviour, serving

CONTENT = b"0123456789" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Fetched:
    name = "fetched"
    checkpoint: Any = None


class ByHand:
    name = "byhand"
    checkpoint = ManualCheckpoint("b.pt", "MIT", "https://example.org/b", None, ("Open it.", "Save it as {place}."))


class Packaged:
    name = "packaged"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Behaviour]:
    monkeypatch.chdir(tmp_path)
    for kind in (Fetched, ByHand, Packaged):
        monkeypatch.setitem(encoders.REGISTRY, kind.name, f"{__name__}:{kind.__name__}")
    with serving(Behaviour(CONTENT)) as server:
        checkpoint = FileCheckpoint("a.pth", "CC-BY-NC-SA-4.0", "https://example.org", 1000, server.url, SHA256)
        monkeypatch.setattr(Fetched, "checkpoint", checkpoint)
        yield server


def run(*arguments: str) -> int:
    return extract_features.main(["weights", *arguments])


def test_weights_are_fetched_to_the_default_place_with_their_licence_shown(
    server: Behaviour, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--encoder=fetched", "--yes") == 0
    assert Path("weights/fetched/a.pth").read_bytes() == CONTENT
    said = capsys.readouterr().err
    assert "licence CC-BY-NC-SA-4.0 (https://example.org), belongs at weights/fetched/a.pth" in said
    assert f"the weights are in weights/fetched/a.pth: 1000 bytes, SHA-256 {SHA256}" in said


def test_weights_that_are_there_are_verified_and_not_fetched(server: Behaviour) -> None:
    assert [run("--encoder=fetched", "--yes"), run("--encoder=fetched")] == [0, 0]
    assert len(server.seen) == 1


@pytest.mark.parametrize("where", ["models", "models/other.pth", "models/"])
def test_a_file_or_a_folder_may_be_named(server: Behaviour, where: str) -> None:
    assert run("--encoder=fetched", f"--weights={where}", "--yes") == 0
    assert Path("models/other.pth" if "other" in where else "models/a.pth").read_bytes() == CONTENT


def test_nothing_is_fetched_unless_somebody_agrees(
    server: Behaviour, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert run("--encoder=fetched") == 1
    assert "nothing was fetched; --yes agrees" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, code in (("", 1), ("n", 1), ("Yes", 0)):
        monkeypatch.setattr("builtins.input", lambda prompt, answer=answer: answer)
        assert run("--encoder=fetched") == code
    assert len(server.seen) == 1


def test_an_empty_folder_for_several_repositories_is_no_consent(
    server: Behaviour, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    several = HubCheckpoint("two towers", "MIT", "https://example.org", 1, (Repository("a/b"),), ("c",), server.url)
    monkeypatch.setattr(Fetched, "checkpoint", several)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    (tmp_path / "models").mkdir()
    assert run("--encoder=fetched", "--weights=models") == 1
    assert "licence MIT" in (said := capsys.readouterr().err)
    assert "nothing was fetched; --yes agrees" in said
    assert not server.seen


def test_a_wrong_checksum_ends_with_code_1(server: Behaviour, capsys: pytest.CaptureFixture[str]) -> None:
    server.content = CONTENT[::-1]
    assert run("--encoder=fetched", "--yes") == 1
    said = capsys.readouterr().err
    assert f"expected {SHA256}" in said
    assert "Traceback" not in said
    assert not list(Path("weights/fetched").iterdir())
    assert "If https://example.org has another file by now, fetch it by hand and name it with --weights" in said


def test_what_a_person_must_fetch_is_explained(server: Behaviour, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--encoder=byhand") == 1, "there is no licence to accept where nothing is fetched"
    said = capsys.readouterr().err
    assert "1. Open it.\n  2. Save it as weights/byhand/b.pt." in said
    Path("weights/byhand").mkdir(parents=True)
    Path("weights/byhand/b.pt").write_bytes(CONTENT)
    assert run("--encoder=byhand") == 0
    assert SHA256 in capsys.readouterr().err


def test_weights_inside_packages_need_no_fetching(server: Behaviour, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--encoder=packaged") == 0
    assert "make extract-deps" in capsys.readouterr().err


def test_missing_weights_are_named_with_the_command(tmp_path: Path) -> None:
    command = r"python extract_features\.py weights --encoder=byhand --weights="
    with pytest.raises(WeightsError, match=rf"{tmp_path}/b\.pt does not exist.*`{command}{tmp_path}`"):
        ByHand.checkpoint.locate("byhand", tmp_path)
    (tmp_path / "b.pt").write_bytes(b"x")
    assert ByHand.checkpoint.locate("byhand", tmp_path) == tmp_path / "b.pt"


def test_an_unknown_encoder_and_a_missing_one_make_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in ((["--encoder=pocketbin"], "There is no encoder 'pocketbin'"), ([], "--encoder is missing")):
        with pytest.raises(SystemExit) as stopped:
            run(*arguments)
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err


def test_help_is_quick_and_imports_no_torch() -> None:
    lines = (
        "import sys, extract_features\n"
        "try: extract_features.main(['weights', '--help'])\n"
        "finally: print(sys.modules.keys() & {'torch', 'jax', 'scipy'})"
    )
    root = Path(extract_features.__file__).parent
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, cwd=root)
    assert done.stdout.endswith("set()\n")
    assert "--encoder" in done.stdout
