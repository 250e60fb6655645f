"""Images of requests: data URLs are read, what is no image or too large is refused cheaply."""

from __future__ import annotations

import asyncio
import base64
import io
import struct
import time
import zlib
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from owl2_jax.data import images
from owl2_jax.inference.images import RequestImage
from owl2_jax.serving import images as module
from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.images import MAX_JPEG_SCANS, ImageReader, count_scans, read_data_url
from owl2_jax.serving.settings import Limits
from owl2_jax.testing import tiny

CASES = Path(__file__).parents[1] / "data" / "cases" / "images"


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png_of_size(width: int, height: int) -> bytes:
    """A small file that claims to be a large image, as decompression bombs do."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    rows = zlib.compress(bytes((width // 8 + 1) * min(height, 1000)), 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def progressive_jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(tiny.image(1, 64)).save(stream, "JPEG", progressive=True)
    return stream.getvalue()


@pytest.fixture
def read(model):
    reader = ImageReader(model, Limits(pixels=1_000_000), None)
    yield lambda *urls: [image.pixels() for image in asyncio.run(reader.read(urls))]
    reader.close()


def test_images_have_the_pixels_the_engine_would_make(read, model):
    mode, size = model.prompt_format.image_mode, model.config.vision.image_size
    data = tiny.image_file(1, 50)
    (pixels,) = read(data_url(data))
    np.testing.assert_array_equal(pixels, images.load(data, mode, size))
    # The engine fits what it gets once more; that must change nothing.
    np.testing.assert_array_equal(images.fit(Image.fromarray(pixels), mode, size), pixels)


def test_an_image_that_comes_again_is_not_decoded_again(model, monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", 2 * 3 * model.config.vision.image_size**2)
    decoded, load = [], images.load
    monkeypatch.setattr(images, "load", lambda data, *others: decoded.append(data) or load(data, *others))
    reader = ImageReader(model, Limits(), None)
    files = [tiny.image_file(seed, 50) for seed in range(3)]

    def read(*numbers: int) -> list[RequestImage]:
        return asyncio.run(reader.read([data_url(files[number]) for number in numbers]))

    one, other, again = read(0, 1, 0)
    assert one is again
    assert one.key != other.key
    np.testing.assert_array_equal(one.pixels(), load(files[0], one._mode, one._size))
    assert decoded == files[:2]
    read(2, 0, 1)  # the second is the one that was asked for least recently
    assert decoded == [*files, files[1]]
    monkeypatch.setattr(reader, "_decoders", None)
    assert read(1)[0].key == other.key  # no thread was asked
    monkeypatch.undo()
    with pytest.raises(ApiError, match="image 1"):
        asyncio.run(reader.read([data_url(b"no image")]))
    with pytest.raises(ApiError, match="image 2"):
        asyncio.run(reader.read([data_url(files[0]), data_url(b"no image")]))
    reader.close()


DATA = bytes(range(256)) + b"ab"  # its base64 has padding, "+" and "/"
ENCODED = base64.b64encode(DATA).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{ENCODED}",
        f"DATA:IMAGE/JPEG;name=a.jpg;BASE64,{ENCODED}",
        f"data:;base64,{ENCODED}",
        f"data:application/octet-stream;base64,{ENCODED}",
        f"data:image/png; base64,{ENCODED}",
        f"data:image/png;base64, {ENCODED}",
        f"data: image/png ; charset=utf-8 ; base64 , {ENCODED} ",
        f"data:image/png;base64,{ENCODED.rstrip('=')}",
        f"data:image/png;base64,{base64.urlsafe_b64encode(DATA).decode()}",
        f"data:image/png;base64,{base64.urlsafe_b64encode(DATA).decode().rstrip('=')}",
        f"data:image/png;base64,{ENCODED.replace('+', '%2B').replace('/', '%2F').replace('=', '%3D')}",
        f"data:image/png;base64,{quote(ENCODED, safe='')}",
        f"data:{quote(f'image/png;base64,{ENCODED}', safe='')}",
        f"data:image/png,{quote(DATA, safe='')}",
        "data:image/png;base64," + "\n".join(ENCODED[i : i + 76] for i in range(0, len(ENCODED), 76)),
    ],
)
def test_any_usual_form_of_data_url_is_read(url):
    assert read_data_url("image 1", url) == DATA


@pytest.mark.parametrize("kind", ["image/jpeg", "image/gif", "image/svg+xml", "application/octet-stream", ""])
def test_the_content_says_what_kind_of_image_it_is(read, kind):
    data = tiny.image_file(1, 50)
    np.testing.assert_array_equal(read(f" {data_url(data, kind)}\n"), read(data_url(data)))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png,abc", "then base64"),
        ("data:text/html;base64,YWJj", "expected an image"),
        ("data:image/png;base64,abcde", "not valid base64: 5 characters, .*; it may be cut off"),
        ("data:image/png;base64,ab=cd", "not valid base64: '=' at character 2"),
        ("data:image/png;base64,", "an empty file"),
        ("data:image/png;base64", "then base64"),
        ("data:", "then base64"),
        ("iVBORw0KGgoAAAANSUhEUg", "put 'data:image/png;base64,' in front"),
        (data_url((CASES / "heic.heic").read_bytes(), "image/heic"), "HEIC; save it as JPEG or PNG"),
        (data_url(b"<!doctype html><html>", "image/png"), "but a web page"),
        ("data:image/png;base64,a", "valid base64"),
        ("data:image/png;base64,ab!d", "valid base64"),
        ("data:image/png;base64,äöü=", "valid base64"),
        (data_url(b"no image at all"), "no image of a known kind"),
        (data_url(b"\x89PNG\r\n\x1a\n" + b"x" * 99), "image 1"),
        (data_url(tiny.image_file(1)[:-40]), "damaged"),
        (data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "known kind but SVG"),
        (data_url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "no image of a known kind"),
        ("file:///etc/passwd", "data: URLs only"),
        ("http://127.0.0.1/x.png", "data: URLs only"),
        ("https://example.com/x.png", "data: URLs only"),
        ("/etc/passwd", "data: URLs only"),
    ],
)
def test_what_is_no_image_is_refused(read, url, words):
    with pytest.raises(ApiError, match=words) as caught:
        read(url)
    assert caught.value.status == 400
    assert str(caught.value).startswith("image 1 ")


@pytest.mark.parametrize(("width", "height"), [(1001, 1000), (30_000, 30_000), (100_000, 100_000)])
def test_large_images_are_refused_before_they_are_decoded(read, width, height):
    url = data_url(png_of_size(width, height))
    began = time.perf_counter()
    with pytest.raises(ApiError, match=r"pixels|large"):
        read(url)
    assert time.perf_counter() - began < 1


def test_a_refusal_quotes_the_images_own_size_and_the_servers_limit(read):
    with pytest.raises(ApiError) as caught:
        read(data_url(png_of_size(30_000, 20_000)))
    assert str(caught.value) == (
        "image 1 takes 30000 x 20000 pixels, expected at most 1000000 (this server's limit of pixels); "
        "shrink it"
    )
    assert (caught.value.status, caught.value.code) == (400, "invalid_image")


def test_a_long_image_within_the_limit_is_read(read, model):
    stream = io.BytesIO()
    Image.new("RGB", (100, 9600)).save(stream, "PNG")
    assert read(data_url(stream.getvalue()))[0].shape == (model.config.vision.image_size,) * 2 + (3,)


def test_scans_of_a_jpeg_are_counted_outside_of_its_metadata():
    stream = io.BytesIO()
    Image.fromarray(tiny.image(1, 64)).save(stream, "JPEG")
    assert count_scans(stream.getvalue()) == 1
    data = progressive_jpeg()
    assert 2 < count_scans(data) < 20
    comment = b"\xff\xfe" + struct.pack(">H", 202) + b"\xff\xda" * 100
    assert count_scans(data[:2] + comment + data[2:]) == count_scans(data)


def test_jpeg_that_would_take_for_ever_is_refused(read):
    data = progressive_jpeg()
    last = data.rindex(b"\xff\xda")
    bomb = data[:-2] + data[last:-2] * MAX_JPEG_SCANS + data[-2:]
    with pytest.raises(ApiError, match="scans"):
        read(data_url(bomb, "image/jpeg"))
