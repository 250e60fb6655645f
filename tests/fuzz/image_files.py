"""Image files written from samples by plain code, with the RGB levels they stand for.

Nothing here uses Pillow, so that what it reads can be compared with what the
formats say.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
_PNG_SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class Made(NamedTuple):
    """A file, the uint8[h, w, 3] it stands for, and how many levels a decoder may round away."""

    data: bytes
    right: np.ndarray
    slack: int
    what: str


def on_white(levels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8[h, w, 3] of uint8[h, w, 3] and uint8[h, w], laid on a white page."""
    share = alpha[..., None] / 255
    return np.rint(levels * share + 255 * (1 - share)).astype(np.uint8)


def as_8_bits(samples: np.ndarray, depth: int) -> np.ndarray:
    """The upper eight of 16 bits; fewer than eight are spread over 0 to 255."""
    return (samples >> 8 if depth == 16 else samples * 255 // ((1 << depth) - 1)).astype(np.uint8)


# ---- PNG -----------------------------------------------------------------------


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def packed(samples: np.ndarray, depth: int) -> bytes:
    """Rows of uint[h, w * samples] at a depth, each with filter 0 in front."""
    if depth == 16:
        rows = samples.astype(">u2").view(np.uint8).reshape(len(samples), -1)
    elif depth == 8:
        rows = samples.astype(np.uint8)
    else:
        bits = (samples[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(len(samples), -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in rows)


def png_pixels(samples: np.ndarray, depth: int, interlaced: bool) -> bytes:
    """The content of IDAT for uint[h, w, s]."""
    height, width, count = samples.shape
    if not interlaced:
        return zlib.compress(packed(samples.reshape(height, width * count), depth))
    parts = []
    for left, top, across, down in _ADAM7:
        part = samples[top::down, left::across]
        if part.size:
            parts.append(packed(part.reshape(len(part), -1), depth))
    return zlib.compress(b"".join(parts))


def png_header(width: int, height: int, depth: int, kind: int, interlaced: bool = False) -> bytes:
    return struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)


def any_png(rng: np.random.Generator) -> Made:
    """A PNG of any type of colour and depth, with or without `tRNS` and interlacing."""
    kind = int(rng.choice([GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA]))
    depths = {GREY: (1, 2, 4, 8, 16), PALETTE: (1, 2, 4, 8)}.get(kind, (8, 16))
    depth, interlaced, clear = int(rng.choice(depths)), bool(rng.integers(2)), bool(rng.integers(2))
    height, width = (int(edge) for edge in rng.integers(1, 20, 2))
    samples = rng.integers(0, 1 << depth, (height, width, _PNG_SAMPLES[kind]))
    chunks = [(b"IHDR", png_header(width, height, depth, kind, interlaced))]
    right, slack = as_8_bits(samples, depth), 0
    if kind in (GREY_ALPHA, RGB_ALPHA):
        right, slack = on_white(np.broadcast_to(right[..., :-1], (height, width, 3)), right[..., -1]), 1
    elif kind == PALETTE:
        palette = rng.integers(0, 256, (1 << depth, 3)).astype(np.uint8)
        chunks.append((b"PLTE", palette.tobytes()))
        right = palette[samples[..., 0]]
        if clear:
            alphas = np.full(1 << depth, 255, np.uint8)
            some = int(rng.integers(1, len(alphas) + 1))
            alphas[:some] = rng.integers(0, 256, some) if rng.integers(2) else rng.choice([0, 255], some)
            chunks.append((b"tRNS", alphas[:some].tobytes()))
            right, slack = on_white(right, alphas[samples[..., 0]]), 1
    else:
        right = np.broadcast_to(right, (height, width, 3)).copy()
        if clear:
            key = samples[rng.integers(height), rng.integers(width)]
            if depth == 16 and rng.integers(2):  # a neighbour with the same upper bits is another colour
                samples[0, 0] = key ^ 1
                right[0, 0] = as_8_bits(samples[0, 0], 16)
            noise = 0 if depth == 16 else int(rng.integers(0, 256 if depth == 8 else 16)) << depth
            chunks.append((b"tRNS", ((key | noise) & 0xFFFF).astype(">u2").tobytes()))
            right[(samples == key).all(-1)] = 255
    chunks += [(b"IDAT", png_pixels(samples, depth, interlaced)), (b"IEND", b"")]
    return Made(png(chunks), right, slack, f"PNG kind {kind} depth {depth} tRNS {clear} Adam7 {interlaced}")


def any_animated_png(rng: np.random.Generator) -> Made:
    """An animated PNG with a default image that is the first frame, or is hidden."""
    canvas = rng.integers(2, 16, 2)
    hidden = bool(rng.integers(2))
    size = rng.integers(1, canvas + 1) if hidden else canvas
    place = rng.integers(0, canvas - size + 1)
    (height, width), (top, left) = canvas.tolist(), place.tolist()
    kind = int(rng.choice([RGB, RGB_ALPHA]))
    shape = (height, width, _PNG_SAMPLES[kind])
    default, other = (rng.integers(0, 256, shape) for _ in range(2))
    first = rng.integers(0, 256, (*size.tolist(), _PNG_SAMPLES[kind]))

    def control(number: int, frame: np.ndarray, at: tuple[int, int]) -> tuple[bytes, bytes]:
        body = struct.pack(">5I2H2B", number, frame.shape[1], frame.shape[0], at[1], at[0], 1, 10, 0, 0)
        return b"fcTL", body

    def later(number: int, frame: np.ndarray) -> tuple[bytes, bytes]:
        return b"fdAT", struct.pack(">I", number) + png_pixels(frame, 8, False)

    shown = first if hidden else default
    head = [(b"IHDR", png_header(width, height, 8, kind)), (b"acTL", struct.pack(">2I", 2, 0))]
    pixels = (b"IDAT", png_pixels(default, 8, False))
    if hidden:
        frames = [pixels, control(0, first, (top, left)), later(1, first)]
    else:
        frames = [control(0, default, (0, 0)), pixels]
    last = len(frames) - 1
    frames += [control(last, other, (0, 0)), later(last + 1, other), (b"IEND", b"")]
    right = np.full((height, width, 3), 255, np.uint8)
    levels = shown[..., :3].astype(np.uint8)
    laid = on_white(levels, shown[..., 3].astype(np.uint8)) if kind == RGB_ALPHA else levels
    right[top : top + laid.shape[0], left : left + laid.shape[1]] = laid
    return Made(png([*head, *frames]), right, 1, f"animated PNG, hidden {hidden}, kind {kind}")


# ---- TIFF ----------------------------------------------------------------------


def tiff(pixels: bytes, tags: dict[int, tuple[str, Sequence[int]]], big: bool = False) -> bytes:
    """A TIFF of one strip, from {tag: (type of `struct`, values)}."""
    end, sizes = ">" if big else "<", {"B": 1, "H": 2, "I": 4}
    kinds = {"B": 1, "H": 3, "I": 4}
    tags = {**tags, 273: ("I", [8]), 279: ("I", [len(pixels)])}
    at = 8 + len(pixels) + len(pixels) % 2
    after, entries = b"", []
    start = at + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        kind, values = tags[tag]
        body = struct.pack(f"{end}{len(values)}{kind}", *values)
        entries.append(struct.pack(f"{end}HHI", tag, kinds[kind], len(values)))
        if len(values) * sizes[kind] <= 4:
            entries.append(body.ljust(4, b"\0"))
        else:
            entries.append(struct.pack(f"{end}I", start + len(after)))
            after += body + b"\0" * (len(body) % 2)
    head = (b"MM\0*" if big else b"II*\0") + struct.pack(f"{end}I", at)
    return (
        head + pixels.ljust(at - 8, b"\0") + struct.pack(f"{end}H", len(tags)) + b"".join(entries)
        + bytes(4) + after
    )  # fmt: skip


def tiff_tags(width: int, height: int, depths: Sequence[int], photometric: int) -> dict:
    return {
        256: ("I", [width]), 257: ("I", [height]), 258: ("H", depths), 259: ("H", [1]),
        262: ("H", [photometric]), 277: ("H", [len(depths)]), 278: ("I", [height]),
    }  # fmt: skip


def any_tiff(rng: np.random.Generator) -> Made:
    """An uncompressed TIFF: grey of 1 to 32 bits with either end white, RGB of 8 or 16, CMYK, palette."""
    height, width = (int(edge) for edge in rng.integers(1, 20, 2))
    big, kind = bool(rng.integers(2)), str(rng.choice(["grey", "integer", "rgb", "cmyk", "palette"]))
    order = ">" if big else "<"
    if kind == "grey":
        depth, photometric = int(rng.choice([1, 2, 4, 8, 16])), int(rng.integers(2))
        if big and depth == 16:
            photometric = 1  # the other is not read in this byte order
        samples = rng.integers(0, 1 << depth, (height, width))
        tags = tiff_tags(width, height, [depth], photometric)
        pixels = _plain(samples, depth, order)
        right = as_8_bits(samples if photometric else (1 << depth) - 1 - samples, depth)
        what = f"grey {depth} photometric {photometric}"
    elif kind == "integer":
        wide, signed = bool(rng.integers(2)), bool(rng.integers(2)) or big
        samples = rng.integers(0, 65_536 if wide else 256, (height, width))
        samples[0, 0] = 60_000 if wide else 200
        tags = {**tiff_tags(width, height, [32], 1), 339: ("H", [2 if signed else 1])}
        pixels = samples.astype(order + "u4").tobytes()
        right = (samples >> 8 if wide else samples).astype(np.uint8)
        what = f"integers, wide {wide}"
    elif kind == "rgb":
        depth = int(rng.choice([8, 16]))
        samples = rng.integers(0, 1 << depth, (height, width, 3))
        tags, pixels = tiff_tags(width, height, [depth] * 3, 2), _plain(samples, depth, order)
        right, what = as_8_bits(samples, depth), f"RGB {depth}"
    elif kind == "cmyk":
        samples = rng.integers(0, 256, (height, width, 4))
        tags, pixels = tiff_tags(width, height, [8] * 4, 5), _plain(samples, 8, order)
        right = np.rint((255 - samples[..., :3]) * (255 - samples[..., 3:]) / 255).astype(np.uint8)
        return Made(tiff(pixels, tags, big), right, 1, "TIFF CMYK")
    else:
        palette = rng.integers(0, 256, (256, 3))
        samples = rng.integers(0, 256, (height, width))
        tags = {**tiff_tags(width, height, [8], 3), 320: ("H", (palette.T.ravel() * 257).tolist())}
        pixels, right, what = _plain(samples, 8, order), palette[samples].astype(np.uint8), "palette"
    right = np.broadcast_to(right[..., None] if right.ndim == 2 else right, (height, width, 3))
    return Made(tiff(pixels, tags, big), right, 0, f"TIFF {what} big {big}")


def _plain(samples: np.ndarray, depth: int, order: str) -> bytes:
    if depth == 16:
        return samples.astype(order + "u2").tobytes()
    rows = samples.reshape(len(samples), -1)
    framed = packed(rows, depth)
    length = len(framed) // len(rows)
    return b"".join(framed[at + 1 : at + length] for at in range(0, len(framed), length))


# ---- GIF, BMP, PPM ---------------------------------------------------------------


def gif(rng: np.random.Generator) -> Made:
    """A GIF whose first frame may be smaller than its canvas and may have a transparent colour."""
    canvas = rng.integers(1, 20, 2)
    size = rng.integers(1, canvas + 1)
    top, left = (int(edge) for edge in rng.integers(0, canvas - size + 1))
    (height, width), (rows, columns) = canvas.tolist(), size.tolist()
    palette = rng.integers(0, 256, (256, 3)).astype(np.uint8)
    if rng.integers(2):
        palette[:] = np.arange(256)[:, None]
    samples = rng.integers(0, 256, (rows, columns))
    clear = int(samples[0, 0]) if rng.integers(2) else None
    control = b"" if clear is None else b"\x21\xf9\x04\x01\0\0" + bytes([clear]) + b"\0"
    shown = palette[samples]
    if clear is not None:
        shown[samples == clear] = 255
    right = np.full((height, width, 3), 255, np.uint8)
    right[top : top + rows, left : left + columns] = shown
    codes = _gif_codes(samples.ravel().tolist())
    blocks = b"".join(
        bytes([len(codes[i : i + 255])]) + codes[i : i + 255] for i in range(0, len(codes), 255)
    )
    data = b"GIF89a" + struct.pack("<2H3B", width, height, 0xF7, int(rng.integers(256)), 0)
    data += palette.tobytes() + control + b"," + struct.pack("<4HB", left, top, columns, rows, 0)
    return Made(data + b"\x08" + blocks + b"\0;", right, 0, f"GIF clear {clear is not None}")


def _gif_codes(values: list[int]) -> bytes:
    """LZW of 9 bits that never fills its table: it is cleared before codes grow."""
    clear, end = 256, 257
    codes = []
    for at, value in enumerate(values):
        codes += [clear, value] if at % 200 == 0 else [value]
    total = sum(code << (9 * place) for place, code in enumerate([*codes, end]))
    return total.to_bytes((9 * (len(codes) + 1) + 7) // 8, "little")


def bmp(rng: np.random.Generator) -> Made:
    height, width = (int(edge) for edge in rng.integers(1, 20, 2))
    right = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    padding = bytes(-3 * width % 4)
    pixels = b"".join(row[:, ::-1].tobytes() + padding for row in right[::-1])
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(pixels), 2835, 2835, 0, 0)
    return Made(b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + head + pixels, right, 0, "BMP")


def ppm(rng: np.random.Generator) -> Made:
    height, width = (int(edge) for edge in rng.integers(1, 20, 2))
    kind, wide = str(rng.choice(["P5", "P6"])), bool(rng.integers(2))
    samples = rng.integers(0, 65_536 if wide else 256, (height, width, 1 if kind == "P5" else 3))
    most = 65_535 if wide else 255
    data = f"{kind}\n{width} {height}\n{most}\n".encode() + samples.astype(">u2" if wide else "u1").tobytes()
    levels = as_8_bits(samples, 16 if wide else 8)
    # Pillow rounds 16 bits of RGB, where the upper eight are cut elsewhere.
    return Made(
        data, np.broadcast_to(levels, (height, width, 3)), int(wide and kind == "P6"), f"{kind} {most}"
    )
