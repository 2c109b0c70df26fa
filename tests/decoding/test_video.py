import itertools
import pickle
import subprocess
import sys
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from feature_cache.datasets.base import Item
from feature_cache.datasets.pocket.examples import examples_of
from feature_cache.datasets.pocket.fingerprints import content_of, picture_of
from feature_cache.decoding.sampling import middles
from feature_cache.decoding.video import open_video
from tests.raw_files import decode_all, moving_square, stack, tone, truncate, write_audio, write_picture, write_video

NOISE = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
KINDS = {  # suffix and options of codec and container
    "mp4": (".mp4", {}, {}),
    "mp4 whose frames depend on later ones": (".mp4", {"bf": "2"}, {}),
    "mp4 for the web": (".mp4", {}, {"movflags": "faststart"}),
    "mp4 in fragments": (".mp4", {}, {"movflags": "frag_keyframe+empty_moov"}),
    "avi": (".avi", {}, {}),
    "avi whose frames depend on later ones": (".avi", {"bf": "2"}, {}),
    "webm": (".webm", {}, {}),
    "mkv": (".mkv", {}, {}),
}


@pytest.fixture(params=KINDS)
def video(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    suffix, options, container_options = KINDS[request.param]
    return write_video(tmp_path / f"a{suffix}", NOISE, options=options, container_options=container_options)


def test_frames_are_those_of_a_plain_decoder(video: Path) -> None:
    expected = np.stack(decode_all(video))
    opened = open_video(video)
    assert len(opened) == len(expected) == len(NOISE)
    assert opened.rate == 25
    np.testing.assert_array_equal(stack(opened.pick(range(30))), expected)
    assert all(picture.mode == "RGB" for picture in opened.pick([0]))


def test_the_frames_that_are_picked_are_the_right_ones(video: Path) -> None:
    expected = decode_all(video)
    for indices in ([0], [29], [0, 0, 7, 7, 7, 29], [3, 4, 5], [], middles(30, 8)):
        picked = open_video(video).pick(indices)
        assert len(picked) == len(indices)
        for index, picture in zip(indices, picked, strict=True):
            np.testing.assert_array_equal(np.asarray(picture), expected[index])


def test_frames_look_like_what_was_filmed(tmp_path: Path) -> None:
    filmed = moving_square(20)
    for suffix in (".mp4", ".avi"):
        seen = stack(open_video(write_video(tmp_path / f"a{suffix}", filmed)).pick(range(20)))
        errors = np.abs(seen[:, None].astype(float) - filmed[None]).mean((2, 3, 4))
        assert (errors.argmin(1) == np.arange(20)).all()
        assert errors.diagonal().max() < 8


@pytest.mark.parametrize("rate", [Fraction(30_000, 1001), Fraction(15), Fraction(5, 2)])
def test_the_rate_is_the_files(tmp_path: Path, rate: Fraction) -> None:
    assert open_video(write_video(tmp_path / "a.mp4", NOISE[:10], rate)).rate == pytest.approx(float(rate), rel=1e-6)


def test_sound_does_not_disturb(tmp_path: Path) -> None:
    for suffix in (".mp4", ".avi", ".mkv"):
        path = write_video(tmp_path / f"a{suffix}", NOISE, audio=(tone(440, 44_100, 3, 2), 44_100))
        assert len(open_video(path)) == 30
        np.testing.assert_array_equal(stack(open_video(path).pick([29]))[0], decode_all(path)[29])


def test_a_video_of_one_frame_is_a_video(tmp_path: Path) -> None:
    for suffix in (".mp4", ".avi"):
        opened = open_video(write_video(tmp_path / f"a{suffix}", NOISE[:1]))
        assert len(opened) == 1
        assert len(opened.pick([0] * 8)) == 8


def test_a_video_travels_to_another_process(tmp_path: Path) -> None:
    opened = open_video(write_video(tmp_path / "a.mp4", NOISE))
    copy = pickle.loads(pickle.dumps(opened))
    assert copy == opened
    np.testing.assert_array_equal(stack(copy.pick([9])), stack(opened.pick([9])))


def test_a_video_can_be_looked_at_and_has_a_fingerprint(tmp_path: Path) -> None:
    opened = open_video(write_video(tmp_path / "a.mp4", NOISE))
    frames = stack(opened.pick(range(30)))
    np.testing.assert_array_equal(content_of(opened), frames)
    np.testing.assert_array_equal(np.asarray(picture_of(opened)), frames[0])
    items = [Item("a", "noise", media={"video": lambda: opened})]
    dataset = SimpleNamespace(modalities=("text", "video"), items=lambda split: items)
    example = examples_of(dataset, 2)[0]  # type: ignore[arg-type]
    np.testing.assert_array_equal(stack([part for _, part in example.media]), frames[[5, 15, 25]])


def test_frames_are_counted_and_not_looked_up_in_the_header(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", NOISE)
    content = bytearray(path.read_bytes())
    for chunk, offset in ((b"avih", 24), (b"strh", 40)):
        at = content.index(chunk) + offset
        assert int.from_bytes(content[at : at + 4], "little") == 30
        content[at : at + 4] = (77).to_bytes(4, "little")
    path.write_bytes(content)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 77
    assert len(open_video(path)) == 30
    assert len(open_video(path).pick([29])) == 1


def test_a_video_filmed_sideways_is_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_square(3))
    plain = decode_all(path)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    assert content[matrix : matrix + 4] == (1 << 16).to_bytes(4, "big")
    clockwise = [0, 1, 0, -1, 0, 0, 0, 0]  # (x, y) -> (−y, x)
    content[matrix : matrix + 32] = b"".join((number << 16).to_bytes(4, "big", signed=True) for number in clockwise)
    path.write_bytes(content)
    seen = open_video(path).pick([0, 2])
    assert seen[0].size == (48, 64)
    np.testing.assert_array_equal(stack(seen), [np.rot90(plain[0], -1), np.rot90(plain[2], -1)])


def test_frames_before_the_beginning_that_an_edit_list_sets_do_not_count(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", NOISE, options={"bf": "0"})
    everything = decode_all(path)
    content = bytearray(path.read_bytes())
    media_time = content.index(b"elst") + 16
    assert content[media_time : media_time + 4] == bytes(4)
    content[media_time : media_time + 4] = (5 * 512).to_bytes(4, "big")  # 512 units a frame
    path.write_bytes(content)
    opened = open_video(path)
    assert len(opened) == len(decode_all(path)) == 25
    np.testing.assert_array_equal(stack(opened.pick([0, 24])), [everything[5], everything[29]])


# What xvid does, of which UCF101's videos are.


def test_two_frames_packed_into_one_count_as_two(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "plain.avi", NOISE, options={"bf": "1"})
    coded = packets(plain)
    coded[0] = coded[0].replace(b"Lavc62.28.102\0", b"DivX503b1393p")  # the mark of a packed stream
    pairs = [part for n in range(1, 29, 2) for part in (coded[n] + coded[n + 1], frame_left_out(0))]
    packed = write_packets(tmp_path / "packed.avi", [coded[0], *pairs, *coded[29:]])
    opened = open_video(packed)
    assert len(opened) == 30
    np.testing.assert_array_equal(stack(opened.pick(range(30))), decode_all(plain))


def test_a_frame_that_is_left_out_is_the_one_before(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "plain.avi", NOISE)
    coded = packets(plain)
    with_gaps = [*coded[:10], frame_left_out(10), *coded[10:20], *[frame_left_out(20)] * 3, *coded[20:]]
    path = write_packets(tmp_path / "gaps.avi", with_gaps)
    assert len(decode_all(path)) == 30
    opened = open_video(path)
    assert len(opened) == 34
    shown = [*range(10), 9, *range(10, 20), 19, 19, 19, *range(20, 30)]
    np.testing.assert_array_equal(stack(opened.pick(range(34))), np.stack(decode_all(plain))[shown])
    np.testing.assert_array_equal(stack(opened.pick([10, 10, 33])), np.stack(decode_all(plain))[[9, 9, 29]])
    np.testing.assert_array_equal(stack(opened.pick([12])), [decode_all(plain)[11]])
    assert not open_video(plain).has_gaps


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def write_packets(path: Path, coded: Iterable[bytes]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.codec_tag = 64, 48, "yuv420p", "XVID"
        for number, content in enumerate(coded):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            packet.is_keyframe = number == 0
            container.mux(packet)
    return path


def frame_left_out(time: int) -> bytes:
    """A predicted MPEG-4 frame that is not coded (ISO/IEC 14496-2, 6.2.5): type 01, 0 seconds, time, coded = 0."""
    bits = f"0101{time:05b}100111"
    return b"\0\0\1\xb6" + int(bits[:-1] + "1" * (17 - len(bits)), 2).to_bytes(2, "big")


# What is broken.


@pytest.mark.parametrize("share", [0.95, 0.5, 0.1])
def test_a_truncated_video_is_refused(video: Path, share: float) -> None:
    with pytest.raises(ValueError, match="ends too early"):
        open_video(truncate(video, share))


def test_damage_in_the_middle_is_not_passed_over(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", NOISE, container_options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    middle = slice(len(content) // 2, len(content) * 2 // 3)
    content[middle] = b"\xff" * len(content[middle])
    path.write_bytes(content)
    opened = open_video(path)
    with pytest.raises(ValueError, match="cannot be decoded|ends too early"):
        opened.pick([0, 29])


def test_a_file_that_lost_frames_since_it_was_opened_is_refused(tmp_path: Path) -> None:
    for suffix in (".mp4", ".avi"):
        path = write_video(tmp_path / f"a{suffix}", NOISE)
        opened = open_video(path)
        write_video(path, NOISE[:20])
        with pytest.raises(ValueError, match="fewer frames than the 30"):
            opened.pick([5, 25])
        assert len(opened.pick([5, 19])) == 2


@pytest.mark.parametrize("indices", [[-1], [30], [0, 1000]])
def test_a_frame_that_is_not_there_cannot_be_picked(tmp_path: Path, indices: list[int]) -> None:
    opened = open_video(write_video(tmp_path / "a.mp4", NOISE))
    with pytest.raises(IndexError, match="frames 0 to 29"):
        opened.pick(indices)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video, but quite long a text\n" * 100)
    with pytest.raises(ValueError, match=r"text\.mp4 cannot be decoded: Invalid data"):
        open_video(tmp_path / "text.mp4")
    (tmp_path / "empty.avi").touch()
    with pytest.raises(ValueError, match="0 bytes"):
        open_video(tmp_path / "empty.avi")
    for name in ("sound.wav", "sound.m4a", "sound.mp3"):
        with pytest.raises(ValueError, match="no video track"):
            open_video(write_audio(tmp_path / name, tone(440, 44_100, 0.5), 44_100))
    with pytest.raises(FileNotFoundError):
        open_video(tmp_path / "none.mp4")


def test_the_picture_on_a_cover_is_no_video(tmp_path: Path) -> None:
    sound = write_audio(tmp_path / "a.mp3", tone(440, 44_100, 0.5), 44_100).read_bytes()
    picture = write_picture(tmp_path / "a.jpg", NOISE[0]).read_bytes()
    frame = b"\0image/jpeg\0\x03\0" + picture  # ID3v2.3's attached picture: Latin-1, type, front cover, no title
    body = b"APIC" + len(frame).to_bytes(4, "big") + b"\0\0" + frame
    size = bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0))
    (tmp_path / "cover.mp3").write_bytes(b"ID3\3\0\0" + size + body + sound)
    with av.open(str(tmp_path / "cover.mp3")) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(ValueError, match="no video track"):
        open_video(tmp_path / "cover.mp3")


def test_middles_are_evenly_spaced() -> None:
    for length, count in itertools.product(range(1, 40), range(1, 12)):
        chosen = middles(length, count)
        assert chosen == sorted(chosen)
        assert 0 <= chosen[0] <= chosen[-1] < length
        exact = [(number + 0.5) * length / count for number in range(count)]
        assert chosen == [int(place) for place in exact]


def test_decoding_needs_no_torch_and_importing_it_nothing_heavy(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", NOISE, audio=(tone(440, 44_100, 1), 44_100))
    lines = [
        "import sys",
        "from pathlib import Path",
        "from feature_cache.decoding import audio, depth, pictures, sampling, video",
        "from feature_cache.encoders.front_ends import clip_tokens, kaldi_fbank, resampling, resizing",
        "print([m for m in ('torch', 'av', 'PIL', 'soundfile', 'scipy', 'tokenizers', 'regex') if m in sys.modules])",
        f"path = Path({str(tmp_path / 'a.mp4')!r})",
        "frame = video.open_video(path).pick([29])[0]",
        "resizing.clip_pixels(resizing.bicubic_antialiased(resizing.planes(frame), 24))",
        "sound = audio.open_waveform(path)",
        "kaldi_fbank.kaldi_fbank(resampling.resample(sound.samples, sound.rate, 16_000), 16_000, 128)",
        "print([m for m in ('torch', 'jax') if m in sys.modules])",
    ]
    command = [sys.executable, "-W", "error", "-c", "\n".join(lines)]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout == "[]\n[]\n"
