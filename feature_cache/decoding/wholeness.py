"""Tells whether a media file ends before its container says so; decoders tend to be content with what is there.

Formats: RIFF (wav, avi; docs.microsoft.com/windows/win32/directshow/avi-riff-file-reference), ISO base media (mp4, m4a,
mov; ISO/IEC 14496-12), EBML (mkv, webm; RFC 8794) and Ogg (RFC 3533). Others, and pipes' unknown sizes, pass.
"""

import os
from typing import BinaryIO

_UNKNOWN_RIFF = 0x7FFF_0000  # a program that writes into a pipe leaves about the greatest size that fits there
_ISO_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_OGG_PAGE, _LONGEST_OGG_PAGE = 27, 65_307


def check_whole(file: BinaryIO) -> None:
    """Raises `ValueError` if the file is empty, or ends before its container does. Moves the file's position."""
    there = file.seek(0, os.SEEK_END)
    if not there:
        raise ValueError("The file is empty: it has 0 bytes.")
    promised = _promised(file, there)
    if promised > there:
        raise ValueError(f"The file ends too early: its container promises {promised} bytes, {there} are there.")


def _promised(file: BinaryIO, there: int) -> int:
    """Where the container ends; 0 if that is unknown."""
    start = _read(file, 0, 12)
    if start[:4] == b"RIFF":
        return _riff(file, there)
    if start[4:8] in _ISO_BOXES:
        return _iso(file, there)
    if start[:4] == _EBML:
        return _ebml(file)
    if start[:4] == b"OggS":
        return _ogg(file, there)
    return 0


def _riff(file: BinaryIO, there: int) -> int:
    """The end of a wav's samples or an avi's frames; what follows may be missing. Totals are wrong more often."""
    at = 12
    while at < there:
        header = _read(file, at, 12)
        size = int.from_bytes(header[4:8], "little")
        end = at + 8 + size
        if header[:4] == b"data" or header[8:] == b"movi":
            return 0 if size >= _UNKNOWN_RIFF else end
        at = end + size % 2
    return there + 1


def _iso(file: BinaryIO, there: int) -> int:
    """The end of the last box; a box of size 0 reaches to the end of the file."""
    at = 0
    while at < there:
        header = _read(file, at, 16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:
            return there if size == 0 else at + 8
        at += size
    return at


def _ebml(file: BinaryIO) -> int:
    """The end of the segment, which follows the header and is all the rest."""
    _, header_end = _element(file, 4)
    if _read(file, header_end, 4) != _SEGMENT:
        return 0
    known, end = _element(file, header_end + 4)
    return end if known else 0


def _element(file: BinaryIO, at: int) -> tuple[bool, int]:
    """Whether an element's size, which begins here, is known, and where the element ends."""
    number = _read(file, at, 8)
    if len(number) < 8 or not number[0]:
        return False, 0
    length = 9 - number[0].bit_length()
    size = int.from_bytes(number[:length], "big") & ((1 << 7 * length) - 1)
    return size != (1 << 7 * length) - 1, at + length + size


def _ogg(file: BinaryIO, there: int) -> int:
    """The end of the last page."""
    tail_start = max(there - _LONGEST_OGG_PAGE, 0)
    tail = _read(file, tail_start, _LONGEST_OGG_PAGE)
    page = tail.rfind(b"OggS")
    if page < 0:
        return 0
    segments = tail[page + _OGG_PAGE :][: tail[page + 26]] if len(tail) >= page + _OGG_PAGE else b""
    header_end = tail_start + page + _OGG_PAGE
    return header_end + 1 if not segments else header_end + len(segments) + sum(segments)


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)
