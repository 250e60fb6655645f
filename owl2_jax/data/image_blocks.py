"""Blocks of image files: what is left when metadata is dropped, and the first frame of an animated PNG.

Pillow reads metadata together with the pixels, so that a damaged EXIF block can
stand in the way of a good image; and of an animated PNG it shows the default
image, even one that the animation leaves out.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"
# Chunks that pixels are made of.
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"}
_BEFORE_PIXELS = {b"IHDR", b"PLTE", b"tRNS"}

_JPEG_EXIF = b"Exif\0\0"
_TIFF_ENDS = {b"II*\0": "<", b"MM\0*": ">"}
# EXIF, GPS, interoperability, XMP, IPTC and Photoshop: nothing that pixels need.
_TIFF_METADATA = {34665, 34853, 40965, 700, 33723, 34377}
_WEBP_METADATA = {b"EXIF", b"XMP ", b"ICCP"}
_WEBP_FLAGS = 0x08 | 0x04 | 0x20
# An item of an AVIF file with EXIF in it: the box, its version and flags, the item's number and protection.
_AVIF_EXIF = re.compile(rb"(infe\x02.{3}.{4})Exif", re.DOTALL)


class PngColour(NamedTuple):
    """How a PNG stores colours: bits of a sample, type of colour, content of its `tRNS` chunk."""

    depth: int
    kind: int
    transparent: bytes | None


class FirstFrame(NamedTuple):
    """The first frame of an animation, as a PNG of its own, and where it lies on the canvas."""

    data: bytes
    canvas: tuple[int, int]
    place: tuple[int, int]


def without_metadata(data: bytes, keep_exif: bool) -> bytes | None:
    """The file without the blocks that say nothing about pixels; None where there is nothing to drop.

    Args:
      keep_exif: keep an EXIF block that is in order as a block, whatever it holds.
    """
    try:
        bare = _bare(data, keep_exif)
    except (struct.error, IndexError, ValueError):
        return None
    return None if bare == data else bare


def png_colour(data: bytes) -> PngColour:
    """Raises ValueError: no PNG, or one without a header."""
    depth = kind = None
    transparent = None
    for name, body in _chunks(data):
        if name == b"IHDR":
            depth, kind = body[8:10]
        elif name == b"tRNS":
            transparent = body
        elif name == b"IDAT":
            break
    if depth is None or kind is None:
        raise ValueError("no header")
    return PngColour(depth, kind, transparent)


def hidden_first_frame(data: bytes) -> FirstFrame | None:
    """The first frame of an animated PNG whose default image is no part of the animation; else None.

    Raises:
      ValueError: the frame is not whole, or lies outside of the canvas.
    """
    if not data.startswith(PNG) or b"acTL" not in data[: data.find(b"IDAT")]:
        return None
    head: list[tuple[bytes, bytes]] = []
    frame: bytes | None = None
    pixels, animated, shown = [], False, False
    for name, body in _chunks(data):
        if name == b"acTL" and not shown:
            animated = int.from_bytes(body[:4], "big") > 0
        elif name == b"fcTL":
            if frame is not None:
                break
            if not shown:
                return None  # the default image is the first frame
            frame = body
        elif name == b"IDAT":
            shown = True
        elif name == b"fdAT" and frame is not None:
            pixels.append(body[4:])
        elif name in _BEFORE_PIXELS and not shown:
            head.append((name, body))
    if not animated or frame is None:
        return None
    return _first_frame(head, frame, pixels)


def _first_frame(head: list[tuple[bytes, bytes]], frame: bytes, pixels: list[bytes]) -> FirstFrame:
    try:
        width, height, left, top = struct.unpack(">4I", frame[4:20])
        canvas = struct.unpack(">2I", dict(head)[b"IHDR"][:8])
    except (struct.error, KeyError) as error:
        raise ValueError("the header of its first frame is cut off") from error
    if not pixels or left + width > canvas[0] or top + height > canvas[1]:
        raise ValueError(
            f"its first frame has {width} x {height} pixels at {left}, {top}, "
            f"the canvas {canvas[0]} x {canvas[1]}"
        )
    chunks = [
        (name, struct.pack(">2I", width, height) + body[8:] if name == b"IHDR" else body)
        for name, body in head
    ]
    return FirstFrame(
        _png([*chunks, (b"IDAT", b"".join(pixels)), (b"IEND", b"")]), (canvas[0], canvas[1]), (left, top)
    )


def _bare(data: bytes, keep_exif: bool) -> bytes:
    if data.startswith(PNG):
        kept = _PIXEL_CHUNKS | ({b"eXIf"} if keep_exif else set())
        return _png([(name, body) for name, body in _chunks(data, check=_PIXEL_CHUNKS) if name in kept])
    if data.startswith(b"\xff\xd8"):
        return _bare_jpeg(data, keep_exif)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _bare_webp(data, keep_exif)
    if data[:4] in _TIFF_ENDS:
        return _bare_tiff(data)
    if data[4:8] == b"ftyp" and not keep_exif:
        return _AVIF_EXIF.sub(rb"\1none", data)
    return data


def _chunks(data: bytes, check: set[bytes] | None = None) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of the chunks of a PNG. Raises ValueError: cut off, or a wrong sum in `check`."""
    at = len(PNG)
    while at < len(data):
        if at + 8 > len(data):
            raise ValueError("cut off")
        length, name = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        total = data[at + 8 + length : at + 12 + length]
        if len(total) < 4:
            raise ValueError("cut off")
        if check and name in check and zlib.crc32(name + body) != int.from_bytes(total, "big"):
            raise ValueError(f"wrong check sum of {name!r}")
        yield name, body
        if name == b"IEND":
            return
        at += 12 + length


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [PNG]
    for name, body in chunks:
        parts += [struct.pack(">I", len(body)), name, body, struct.pack(">I", zlib.crc32(name + body))]
    return b"".join(parts)


def _bare_jpeg(data: bytes, keep_exif: bool) -> bytes:
    parts, at = [data[:2]], 2
    while data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            return b"".join([*parts, data[at:]])
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        # Of the application's segments two say how colours are stored: JFIF (E0) and Adobe's (EE).
        metadata = marker == 0xFE or (0xE1 <= marker <= 0xEF and marker != 0xEE)
        exif = marker == 0xE1 and data[at + 4 : at + 10] == _JPEG_EXIF
        if not metadata or (exif and keep_exif):
            parts.append(data[at:end])
        at = end
    raise ValueError("no segment")


def _bare_webp(data: bytes, keep_exif: bool) -> bytes:
    parts, at = [], 12
    dropped = _WEBP_METADATA - ({b"EXIF"} if keep_exif else set())
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        if name == b"VP8X":
            flags = data[at + 8] & ~(_WEBP_FLAGS & (~0x08 if keep_exif else 0xFF))
            parts += [data[at : at + 8], bytes([flags]), data[at + 9 : end]]
        elif name not in dropped:
            parts.append(data[at:end])
        at = end
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _bare_tiff(data: bytes) -> bytes:
    """The file with metadata renamed to a private tag of one byte, so that no offset changes."""
    end = _TIFF_ENDS[data[:4]]
    (at,) = struct.unpack_from(end + "I", data, 4)
    (count,) = struct.unpack_from(end + "H", data, at)
    result = bytearray(data)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        (tag,) = struct.unpack_from(end + "H", data, entry)
        if tag in _TIFF_METADATA:
            struct.pack_into(end + "HHII", result, entry, 65_000, 1, 1, 0)
    return bytes(result)
