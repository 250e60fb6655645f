"""Image files: built ones must give the right pixels, mutated ones an image or an error in words.

A damaged block of metadata must change nothing but the orientation.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from functools import cache, partial

import numpy as np
from PIL import Image, features

from owl2_jax.data import images
from owl2_jax.data.images import MODES, ImageError
from tests.fuzz import image_files

_REASONS = {"corrupt", "unsupported", "oversized"}
_MAX_PIXELS = 250_000
_BUILT = (
    image_files.any_png,
    image_files.any_png,
    image_files.any_animated_png,
    image_files.any_tiff,
    image_files.any_tiff,
    image_files.gif,
    image_files.bmp,
    image_files.ppm,
)


def cases(rng: np.random.Generator) -> Iterator[Callable[[], None]]:
    """Checks without an end, each of one file."""
    names = sorted(originals())
    while True:
        made = _BUILT[rng.integers(len(_BUILT))](rng)
        yield partial(check_built, made)
        yield partial(check_mutated, mutated(made.data, rng))
        yield partial(check_mutated, mutated(originals()[names[rng.integers(len(names))]], rng))
        yield partial(check_mutated, reordered(originals()[names[rng.integers(len(names))]], rng))
        kind = _WITH_EXIF[rng.integers(len(_WITH_EXIF))]
        yield partial(check_metadata, kind, mangled_exif(rng))


def check_built(made: image_files.Made) -> None:
    """A file that is in order: its pixels are those it was built from."""
    pixels = np.asarray(images.decode(made.data, "built", _MAX_PIXELS)).astype(int)
    assert pixels.shape == made.right.shape, (made.what, pixels.shape, made.right.shape)
    far = np.abs(pixels - made.right).max()
    assert far <= made.slack, (made.what, far)


def check_mutated(data: bytes) -> None:
    """Any file: an image within the limit, in every mode, or an error that names it."""
    try:
        image = images.decode(data, "mutant", _MAX_PIXELS)
        pixels = images.fit(image, sorted(MODES)[len(data) % len(MODES)], 14, "mutant", _MAX_PIXELS)
    except ImageError as error:
        if error.reason not in _REASONS or "mutant" not in str(error) or "\n" in str(error):
            raise AssertionError(f"{error.reason}: {error}") from error
        return
    assert image.mode == "RGB"
    assert 0 < image.width * image.height <= _MAX_PIXELS
    assert pixels.shape == (14, 14, 3)
    assert pixels.dtype == np.uint8


def check_metadata(kind: str, block: bytes) -> None:
    """A good image with any EXIF block: the image, any way up, and nothing else."""
    pixels = np.asarray(images.decode(with_exif(kind, block), kind))
    right = plain(kind)
    turned = [np.rot90(right, turns) for turns in range(4)]
    turned += [each[:, ::-1] for each in turned]
    assert any(each.shape == pixels.shape and (each == pixels).all() for each in turned), (kind, block)


# ---- files to mutate -------------------------------------------------------------


def noise(width: int = 24, height: int = 17) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(levels)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@cache
def originals() -> dict[str, bytes]:
    """A small file of every container and mode, with metadata."""
    image, exif = noise(), Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    files = {kind: encoded(image, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP", "TIFF")}
    files |= {kind: encoded(image, kind) for kind in ("GIF", "BMP", "PPM", "JPEG2000")}
    files |= {f"PNG {mode}": encoded(image.convert(mode), "PNG") for mode in ("P", "RGBA", "1", "LA", "L")}
    files |= {
        f"TIFF {name}": encoded(image, "TIFF", compression=name)
        for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    }
    files |= {f"TIFF {mode}": encoded(image.convert(mode), "TIFF") for mode in ("CMYK", "YCbCr", "F", "I")}
    files["TIFF LAB"] = encoded(Image.new("LAB", (9, 9), (120, 40, 200)), "TIFF")
    files["JPEG CMYK"] = encoded(image.convert("CMYK"), "JPEG")
    files["JPEG progressive"] = encoded(image, "JPEG", progressive=True)
    files["WEBP lossless"] = encoded(image.convert("RGBA"), "WEBP", lossless=True)
    for kind in ("MPO", "GIF", "PNG", "WEBP", "TIFF"):
        later = [noise().transpose(Image.Transpose.ROTATE_180)]
        files[f"{kind} animated"] = encoded(noise(), kind, save_all=True, append_images=later)
    if features.check("avif"):
        files["AVIF"] = encoded(image, "AVIF", exif=exif.tobytes(), speed=10)
    return files


_WITH_EXIF = ("PNG", "PNG late", "JPEG", "WEBP", *(("AVIF",) if features.check("avif") else ()))


@cache
def plain(kind: str) -> np.ndarray:
    return np.asarray(images.decode(_without(kind)))


@cache
def _without(kind: str) -> bytes:
    options = {"WEBP": {"lossless": True}, "AVIF": {"speed": 10}}.get(kind, {})
    return encoded(noise(), kind.split()[0], **options)


@cache
def _placeholder(kind: str) -> bytes:
    """A file with a block of 400 bytes, in the place of which another of that length can be put."""
    return encoded(noise(), kind, exif=b"Exif\0\0II*\0" + b"\xa5" * 390, speed=10)


def with_exif(kind: str, block: bytes) -> bytes:
    data = _without(kind)
    if kind.startswith("PNG"):
        # After the header, or after the pixels.
        at = 33 if kind == "PNG" else len(data) - 12
        return data[:at] + image_files.chunk(b"eXIf", block) + data[at:]
    if kind == "JPEG":
        body = b"Exif\0\0" + block
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    if kind == "WEBP":
        return _webp_with_exif(data, block)
    # AVIF: its offsets allow no other length.
    data = _placeholder(kind)
    at = data.index(b"II*\0" + b"\xa5" * 390)
    return data[:at] + block[:394].ljust(394, b"\0") + data[at + 394 :]


def _webp_with_exif(data: bytes, block: bytes) -> bytes:
    image = noise()
    head = struct.pack("<4sI4s", b"VP8X", 10, bytes([0x08, 0, 0, 0]))
    head += (image.width - 1).to_bytes(3, "little") + (image.height - 1).to_bytes(3, "little")
    tail = struct.pack("<4sI", b"EXIF", len(block)) + block + b"\0" * (len(block) % 2)
    body = b"WEBP" + head + data[12:] + tail
    return b"RIFF" + struct.pack("<I", len(body)) + body


# ---- mutations -------------------------------------------------------------------


def mangled_exif(rng: np.random.Generator) -> bytes:
    """Noise, or an EXIF block with some bytes changed or its end cut off."""
    if rng.integers(3) == 0:
        return rng.bytes(int(rng.integers(0, 60)))
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 10))
    exif[0x010F] = "maker" * int(rng.integers(0, 9))
    exif.get_ifd(0x8769)[0x9286] = b"comment"
    block = bytearray(exif.tobytes()[6:])
    for _ in range(rng.integers(0, 6)):
        block[rng.integers(len(block))] = rng.integers(256)
    return bytes(block[: rng.integers(len(block))] if rng.integers(2) else block)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Changes bytes, most of them in the header, and sometimes cuts, repeats or inserts."""
    result = bytearray(data)
    for _ in range(rng.integers(1, 8)):
        where = rng.integers(0, min(len(result), 200) if rng.random() < 0.7 else len(result))
        result[where] = rng.integers(0, 256)
    kind, where = rng.integers(0, 6), int(rng.integers(0, len(result)))
    if kind == 0:
        del result[where:]
    elif kind == 1:
        result[where:where] = result[: rng.integers(0, len(result))]
    elif kind == 2:
        result[where:where] = rng.bytes(int(rng.integers(1, 30)))
    elif kind == 3:
        del result[where : where + int(rng.integers(1, 30))]
    return bytes(result)


def reordered(data: bytes, rng: np.random.Generator) -> bytes:
    """Blocks of the container dropped, doubled, swapped or changed, with lengths and sums in order."""
    blocks, join = _blocks(data)
    if len(blocks) < 2:
        return mutated(data, rng)
    for _ in range(rng.integers(1, 4)):
        at, other = (int(place) for place in rng.integers(0, len(blocks), 2))
        kind = rng.integers(4)
        if kind == 0 and len(blocks) > 1:
            del blocks[at]
        elif kind == 1:
            blocks.insert(other, blocks[at])
        elif kind == 2:
            blocks[at], blocks[other] = blocks[other], blocks[at]
        else:
            name, body = blocks[at]
            blocks[at] = (name, mutated(body, rng) if body else rng.bytes(4))
        if not blocks:
            break
    return join(blocks)


Blocks = list[tuple[bytes, bytes]]


def _blocks(data: bytes) -> tuple[Blocks, Callable[[Blocks], bytes]]:
    if data.startswith(b"\x89PNG"):
        return _png_blocks(data), image_files.png
    if data.startswith(b"\xff\xd8"):
        return _jpeg_blocks(data), _join_jpeg
    if data.startswith(b"RIFF"):
        return _webp_blocks(data), _join_webp
    if data[:4] == b"II*\0":
        return _tiff_entries(data), lambda entries: _join_tiff(data, entries)
    return [], lambda _: data


def _png_blocks(data: bytes) -> Blocks:
    at, blocks = 8, []
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        blocks.append((name, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return blocks


def _jpeg_blocks(data: bytes) -> Blocks:
    at, blocks = 2, []
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        blocks.append((data[at : at + 2], data[at + 4 : end]))
        at = end
    return [*blocks, (b"", data[at:])]


def _join_jpeg(blocks: Blocks) -> bytes:
    parts = [b"\xff\xd8"]
    for marker, body in blocks:
        parts.append(marker + struct.pack(">H", (len(body) + 2) & 0xFFFF) + body if marker else body)
    return b"".join(parts)


def _webp_blocks(data: bytes) -> Blocks:
    at, blocks = 12, []
    while at < len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        blocks.append((name, data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return blocks


def _join_webp(blocks: Blocks) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for name, part in blocks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff_entries(data: bytes) -> Blocks:
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    starts = range(at + 2, at + 2 + 12 * count, 12)
    return [(data[start : start + 2], data[start + 2 : start + 12]) for start in starts]


def _join_tiff(data: bytes, entries: Blocks) -> bytes:
    """The directory again, after the file's end."""
    at = len(data)
    directory = struct.pack("<H", len(entries)) + b"".join(tag + body for tag, body in entries) + bytes(4)
    return data[:4] + struct.pack("<I", at) + data[8:] + directory
