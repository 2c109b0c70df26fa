"""Processes that share a folder neither mix nor repeat their work."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_cache import atomic, lock
from feature_cache.atomic import remove_temporaries, write_atomically
from feature_cache.lock import LockedError, Share, gate, running

HOLDER = """
import sys, time
from collections.abc import Iterator
from pathlib import Path
from feature_cache.lock import Share, running

with running(Path(sys.argv[1]), Share(int(sys.argv[2]), int(sys.argv[3]))):
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path, subprocess_environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds share 1 of 3."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path), "1", "3"]
    process = subprocess.Popen(command, env=subprocess_environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("share", [Share(1, 3), Share(), Share(0, 2), Share(1, 2), Share(1, 30)])
def test_same_share_and_other_divisions_are_refused_with_who_has_the_cache(
    tmp_path: Path, holder: "subprocess.Popen[str]", share: Share
) -> None:
    with pytest.raises(LockedError) as error, running(tmp_path, share):
        pass
    said = str(error.value)
    assert f"The cache {tmp_path} is being made by process {holder.pid} on {os.uname().nodename} since 20" in said
    assert "(extraction-1-of-3.lock)" in said


def test_other_shares_of_the_division_run_beside_it(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    with running(tmp_path, Share(0, 3)), running(tmp_path, Share(2, 3)):
        assert {path.name for path in tmp_path.glob("*.lock")} == {f"extraction-{i}-of-3.lock" for i in range(3)}
    assert [path.name for path in tmp_path.iterdir()] == ["extraction-1-of-3.lock"]


def test_killed_process_holds_nothing(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    holder.wait()
    assert (tmp_path / "extraction-1-of-3.lock").exists()
    with running(tmp_path, Share()):
        assert [path.name for path in tmp_path.iterdir()] == ["extraction-0-of-1.lock"]
    assert not list(tmp_path.iterdir())


def test_lock_ends_with_an_error_inside(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), running(tmp_path, Share()):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_gate_admits_one_at_a_time_although_its_file_comes_and_goes(tmp_path: Path) -> None:
    inside, most, entered = 0, 0, 0

    def enter() -> None:
        nonlocal inside, most, entered
        for _ in range(50):
            with gate(tmp_path):
                inside += 1
                most = max(most, inside)
                entered += 1
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, entered, inside) == (1, 200, 0)
    assert not list(tmp_path.iterdir())


def test_temporary_of_a_living_writer_is_left_alone_and_that_of_a_dead_one_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dead.1234.tmp").write_bytes(b"half")
    fsync = os.fsync

    def meanwhile(descriptor: int) -> None:
        assert len(list(tmp_path.glob("*.tmp"))) == 2
        remove_temporaries(tmp_path)
        assert [path.name[:5] for path in tmp_path.glob("*.tmp")] == ["alive"]
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", meanwhile)
    write_atomically(tmp_path / "alive", b"data")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("alive", b"data")]


def test_temporary_removed_by_a_machine_that_does_not_see_our_locks_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, removed = os.fsync, []

    def remove_once(descriptor: int) -> None:
        fsync(descriptor)
        if not removed:
            removed.extend(tmp_path.glob("*.tmp"))
            removed[0].unlink()

    monkeypatch.setattr("os.fsync", remove_once)
    write_atomically(tmp_path / "file", b"data")
    assert len(removed) == 1
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"data")]


def test_without_flock_nothing_is_locked_and_everything_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    with running(tmp_path, Share()):
        atomic.write_atomically(tmp_path / "file", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_number_is_in_exactly_one_share(count: int) -> None:
    for number in range(20):
        assert [number in Share(index, count) for index in range(count)].count(True) == 1
