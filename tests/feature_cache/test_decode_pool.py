"""Worker processes decode as this process would, whatever the media do to them."""

import os
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feature_cache.commands.machinery import default_workers
from feature_cache.datasets.base import Item
from feature_cache.encoders.pocket.pocketbind import PocketBind
from feature_cache.errors import MediaError, UserError
from feature_cache.extraction import messages, remote_decoder
from feature_cache.extraction.decode import Outcome, Request, decode_here
from feature_cache.extraction.decode_pool import DecodePool
from feature_cache.shard_record import Failure
from tests.feature_cache import hazards
from tests.feature_cache.hazards import item
from tests.feature_cache.processes import alive, children, wait_for_end
from tests.feature_cache.tiny import TinyBind

AUDIO = ("audio",)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(TinyBind(), 2, timeout=5) as pool:
        yield pool


def run(pool: DecodePool, items: Sequence[Item], modalities: tuple[str, ...] = AUDIO) -> list[Outcome]:
    return list(pool([Request("train", each, modalities) for each in items], 4))


def reason(outcome: Outcome) -> str:
    assert isinstance(outcome, Failure)
    return outcome.reason


def test_outcomes_are_those_of_this_process_in_order(pool: DecodePool) -> None:
    openers = [partial(hazards.sound, i) for i in range(20)]
    openers[3] = hazards.broken
    openers[7] = partial(hazards.large_sound, 300_000)
    openers[9] = partial(hazards.large_sound, 0)
    openers[0] = partial(hazards.slow_sound, 0, 0.2)
    requests = [Request("test", item(str(i), opener), ("text", "audio")) for i, opener in enumerate(openers)]
    here = list(decode_here(TinyBind())(requests, 0))
    there = list(pool(requests, 5))
    assert here[3] == there[3] == Failure("test", "3", "audio", "ValueError: not a sound")
    for mine, theirs in zip(here, there, strict=True):
        if not isinstance(mine, Failure):
            assert not isinstance(theirs, Failure)
            assert mine.keys() == theirs.keys()
            for modality, array in mine.items():
                np.testing.assert_array_equal(array, theirs[modality], strict=True)
                assert theirs[modality].flags.c_contiguous


def test_workers_have_one_thread_and_never_import_torch(pool: DecodePool) -> None:
    items = [item(str(i), partial(hazards.slow_sound, i, 0.05), hazards.circumstances) for i in range(8)]
    outcomes = run(pool, items, ("audio", "text"))
    said = [bytes(outcome["text"]).decode().split() for outcome in outcomes if not isinstance(outcome, Failure)]
    assert len(said) == 8
    assert len({pid for pid, *_ in said}) == 2
    assert str(os.getpid()) not in {pid for pid, *_ in said}
    assert {tuple(rest) for _, *rest in said} == {("1", "1", "False", "False")}


class Watched(PocketBind):
    """A real encoder whose texts say in what kind of process they were preprocessed, after they were."""

    def preprocess(self, modality: str, raw: object) -> np.ndarray:
        done = super().preprocess(modality, raw)  # type: ignore[arg-type]
        return np.frombuffer(hazards.circumstances().encode(), np.uint8) if modality == "text" else done


def test_real_encoder_preprocesses_in_workers_without_torch() -> None:
    from tests.feature_cache.test_decode_pool import Watched  # as workers know it

    picture = Item("a", "a cat", media={"vision": partial(Image.new, "RGB", (9, 7), "red")})
    with DecodePool(Watched("cpu"), 1) as pool:
        (outcome,) = pool([Request("train", picture, ("vision", "text"))], 0)
    assert not isinstance(outcome, Failure)
    assert outcome["vision"].dtype == np.uint8
    assert bytes(outcome["text"]).decode().split()[1:] == ["1", "1", "False", "False"]


@pytest.mark.parametrize(
    ("opener", "said"),
    [
        (partial(hazards.die, signal.SIGSEGV), "the decoder crashed (signal 11, SIGSEGV)"),
        (partial(hazards.die, signal.SIGKILL), "the decoder crashed (signal 9, SIGKILL, as when memory is short)"),
        (hazards.leave, "the decoder crashed (exit code 3)"),
    ],
)
def test_medium_that_crashes_its_decoder_fails_alone(pool: DecodePool, opener: object, said: str) -> None:
    items = [item(str(i), partial(hazards.sound, i)) for i in range(8)]
    items[2] = item("culprit", opener)
    outcomes = run(pool, items, ("text", "audio"))
    assert outcomes[2] == Failure("train", "culprit", "audio", said)
    others = [outcome for outcome in outcomes if not isinstance(outcome, Failure)]
    assert [outcome["audio"][0] for outcome in others] == [0, 1, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("opener", "said"),
    [
        (hazards.break_speechlessly, "SpeechlessError: it cannot say what"),
        (hazards.break_half_a_character, "ValueError: there is no caf\\udce9.wav"),
        (hazards.promise_too_much, "MemoryError: Unable to allocate 4.00 EiB"),
    ],
)
def test_reason_is_text_that_can_be_stored_whatever_was_raised(pool: DecodePool, opener: object, said: str) -> None:
    requests = [Request("train", item("a", opener), AUDIO)]
    for decode in (pool, decode_here(TinyBind())):
        (outcome,) = decode(requests, 0)
        assert reason(outcome).startswith(said)
        assert reason(outcome).encode().decode() == reason(outcome)


def test_answer_that_is_too_large_for_this_process_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    read = messages._read

    def short_of_memory(channel: object, size: int) -> bytearray:
        if size == 4 * 300_000:
            raise MemoryError
        return read(channel, size)  # type: ignore[arg-type]

    monkeypatch.setattr(messages, "_read", short_of_memory)
    openers = [partial(hazards.sound, 1), partial(hazards.large_sound, 300_000), partial(hazards.sound, 2)]
    with DecodePool(TinyBind(), 1) as pool:
        first, large, last = run(pool, [item(str(i), opener) for i, opener in enumerate(openers)])
    assert "too large" in reason(large)
    assert not isinstance(first, Failure)
    assert not isinstance(last, Failure)
    assert (first["audio"][0], last["audio"][0]) == (1, 2)


def test_crash_that_does_not_happen_again_costs_nothing(pool: DecodePool, tmp_path: Path) -> None:
    (outcome,) = run(pool, [item("a", partial(hazards.die_once, tmp_path / "marker"))])
    assert not isinstance(outcome, Failure)
    assert (tmp_path / "marker").exists()


def test_medium_that_hangs_its_decoder_fails_and_the_worker_is_replaced() -> None:
    with DecodePool(TinyBind(), 1, timeout=1) as pool:
        start = time.monotonic()
        outcomes = run(pool, [item("a", hazards.hang), item("b", partial(hazards.sound, 7))])
        assert time.monotonic() - start < 8
    assert reason(outcomes[0]) == "the decoder took longer than 1 s"
    assert not isinstance(outcomes[1], Failure)


@pytest.mark.parametrize(
    ("opener", "kind", "said"),
    [
        (hazards.refuse, MediaError, "The disk with the tones is not there. Run `make tones`."),
        (hazards.break_package, ModuleNotFoundError, "No module named 'soundfile'"),
        (hazards.refuse_strangely, UserError, "tones is gone"),
    ],
)
def test_fault_that_no_medium_would_be_spared_comes_out_as_itself(
    pool: DecodePool, opener: object, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as error:
        run(pool, [item("a", partial(hazards.sound, 1)), item("b", opener), item("c", partial(hazards.sound, 1))])
    assert str(error.value) == said
    assert len(run(pool, [item("a", partial(hazards.sound, 1))])) == 1


def test_what_libraries_print_on_standard_error_does_not_get_into_the_users_way(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with DecodePool(TinyBind(), 1) as pool:
        (outcome,) = run(pool, [item("a", hazards.shout)])
    assert not isinstance(outcome, Failure)
    said = capfd.readouterr().err
    assert "Python's own" in said
    assert "Illegal Audio-MPEG-Header" not in said


def test_medium_whose_function_cannot_be_sent_is_named_with_what_to_do(pool: DecodePool) -> None:
    with pytest.raises(UserError, match=r"The audio of item 'odd' cannot be sent.*functools.partial.*--workers=0"):
        run(pool, [item("fine", partial(hazards.sound, 1)), item("odd", lambda: hazards.sound(1))])


def test_encoder_that_cannot_be_sent_is_named_with_what_to_do() -> None:
    encoder = TinyBind()
    encoder.device = lambda: "cpu"  # type: ignore[assignment]
    with pytest.raises(UserError, match="The encoder tinybind cannot be sent to worker processes.*--workers=0"):
        DecodePool(encoder, 1)


def test_no_more_items_wait_than_asked_for(pool: DecodePool) -> None:
    taken = 0

    def requests() -> Iterator[Request]:
        nonlocal taken
        for i in range(50):
            taken += 1
            yield Request("train", item(str(i), partial(hazards.sound, i)), AUDIO)

    for done, _ in enumerate(pool(requests(), 6), 1):
        assert taken <= done + 6
    assert taken == 50


def test_items_are_decoded_while_nobody_waits_for_them(pool: DecodePool) -> None:
    outcomes = pool([Request("train", item(str(i), partial(hazards.slow_sound, i, 0.1)), AUDIO) for i in range(9)], 8)
    next(outcomes)
    time.sleep(1.2)
    start = time.monotonic()
    assert len(list(outcomes)) == 8
    assert time.monotonic() - start < 0.1


def test_leaving_the_pool_ends_the_workers_in_the_middle_of_a_medium() -> None:
    before = children(os.getpid())
    with DecodePool(TinyBind(), 2) as pool:
        openers = [partial(hazards.sound, 1), hazards.hang, hazards.hang]
        outcomes = pool([Request("train", item(str(i), opener), AUDIO) for i, opener in enumerate(openers)], 2)
        next(outcomes)
        time.sleep(0.5)
        workers = children(os.getpid()) - before
        assert len(workers) == 2
        start = time.monotonic()
    assert time.monotonic() - start < 2
    assert not any(map(alive, workers))


def test_worker_that_no_signal_ends_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children(os.getpid())
    monkeypatch.setattr(remote_decoder, "ENDING", 0.1)
    with DecodePool(TinyBind(), 1) as pool:
        openers = [partial(hazards.sound, 1), hazards.hang]
        outcomes = pool([Request("train", item(str(i), opener), AUDIO) for i, opener in enumerate(openers)], 1)
        next(outcomes)
        time.sleep(0.3)
        workers = children(os.getpid()) - before
        assert len(workers) == 1
        monkeypatch.setattr(subprocess.Popen, "kill", lambda self: None)
        start = time.monotonic()
    assert time.monotonic() - start < 2
    assert not wait_for_end(workers)  # here the end of its standard input does it


def test_worker_processes_are_refused_where_they_are_impossible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feature_cache.extraction.decode_pool.MOST_WORKERS", 0)  # as on Windows
    monkeypatch.setattr("feature_cache.commands.machinery.MOST_WORKERS", 0)
    with pytest.raises(UserError, match="need Linux or macOS. Use --workers=0"):
        DecodePool(TinyBind(), 1)
    assert default_workers() == 0


ORPHANS = """
import sys, time
from functools import partial
from feature_cache.extraction.decode import Request
from feature_cache.extraction.decode_pool import DecodePool
from tests.feature_cache import hazards
from tests.feature_cache.tiny import TinyBind

if __name__ == "__main__":
    pool = DecodePool(TinyBind(), 2)
    sound = hazards.item("a", partial(hazards.slow_sound, 1, 0.2))
    hang = hazards.item("b", hazards.hang)
    outcomes = pool([Request("train", each, ("audio",)) for each in (sound, sound, hang, hang)], 3)
    next(outcomes), next(outcomes)
    print("ready", flush=True)
    next(outcomes)
"""


def start_orphans(environment: dict[str, str], how: str) -> tuple["subprocess.Popen[str]", set[int]]:
    """A process whose two workers hang; and the workers."""
    code = ORPHANS.replace("hazards.hang", f"hazards.{how}")
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    return process, children(process.pid)


@pytest.mark.parametrize("how", ["hang", "hang_alone"])
def test_workers_end_when_their_parent_is_killed(subprocess_environment: dict[str, str], how: str) -> None:
    process, workers = start_orphans(subprocess_environment, how)
    with process:
        assert len(workers) == 2
        process.kill()
        assert not wait_for_end(workers)


def test_ctrl_c_ends_the_workers_without_their_tracebacks(subprocess_environment: dict[str, str]) -> None:
    code = ORPHANS.replace(
        "\n    next(outcomes)\n",
        "\n    try:\n        next(outcomes)\n    except KeyboardInterrupt:\n        pool.close(); sys.exit(130)\n",
    )
    # A process group of its own, all of which gets the signal, as from a terminal.
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=subprocess_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        workers = children(process.pid)
        assert len(workers) == 2
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert said == ""
    assert not wait_for_end(workers)


def test_worker_that_cannot_start_says_what_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with DecodePool(TinyBind(), 1) as pool, pytest.raises(UserError) as error:
        run(pool, [item("a", partial(hazards.sound, 1))])
    assert re.search(r"could not start \(exit code 1.*--workers=0 does without", str(error.value))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("encoder", "A worker process cannot import the encoder: No module named 'only_here'"),
        ("medium", "A worker process cannot import what opens the media (No module named 'only_here')"),
    ],
)
def test_code_that_only_this_process_has_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, what: str, said: str
) -> None:
    module = types.ModuleType("only_here")
    exec("from tests.feature_cache.tiny import TinyBind\nclass Mine(TinyBind): pass\ndef sound(): pass", vars(module))
    monkeypatch.setitem(sys.modules, "only_here", module)
    encoder = module.Mine() if what == "encoder" else TinyBind()
    with DecodePool(encoder, 1) as pool, pytest.raises(UserError) as error:
        run(pool, [item("a", module.sound if what == "medium" else partial(hazards.sound, 1))])
    assert said in str(error.value)
    assert "--workers=0" in str(error.value)
