from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from PIL import Image, features

from owl2_jax.data import image_kinds
from owl2_jax.data.images import ImageError, decode

CASES = Path(__file__).parent / "cases" / "images"
CONVERT = "save it as JPEG or PNG"


def box(*brands: bytes) -> bytes:
    body = brands[0] + bytes(4) + b"".join(brands[1:])
    return (len(body) + 8).to_bytes(4, "big") + b"ftyp" + body + bytes(64)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ((CASES / "heic.heic").read_bytes(), f"HEIC; {CONVERT}"),
        (box(b"mif1", b"heic"), f"HEIC; {CONVERT}"),
        (box(b"hevc", b"msf1"), f"HEIC; {CONVERT}"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", f"SVG; {CONVERT}"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a -->\n<svg/>", f"SVG; {CONVERT}"),
        (b"%PDF-1.7\n", f"PDF; {CONVERT}"),
        (b"\xff\x0a" + bytes(30), f"JPEG XL; {CONVERT}"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30), f"JPEG XL; {CONVERT}"),
        (b"<!DOCTYPE html>\n<html>", "a web page; the download was refused, fetch it again"),
        (b"\n  <html><body>404", "a web page; the download was refused, fetch it again"),
        (b"<!-- x -->\n<html>", "a web page; the download was refused, fetch it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a git-lfs pointer; run git lfs pull",
        ),
        (b"", "an empty file; fetch it again"),
        (box(b"isom", b"mp42"), "a video (MP4 or QuickTime)"),
        (box(b"qt  "), "a video (MP4 or QuickTime)"),
        (b"\x1aE\xdf\xa3" + bytes(40), "a video (Matroska or WebM)"),
        (b"RIFF\0\0\0\0AVI LIST", "a video (AVI)"),
        ((b"G" + bytes(187)) * 3, "a video (MPEG)"),
        (b"PK\3\4" + bytes(20), "a ZIP archive; unpack it"),
        (gzip.compress(b"a", mtime=0), "a gzip archive; unpack it"),
    ],
)
def test_what_is_no_image_is_refused_by_name(data, what):
    with pytest.raises(ImageError) as error:
        decode(data, "photos/1.jpg")
    assert error.value.reason == "unsupported"
    said = str(error.value)
    assert said.startswith(f"photos/1.jpg ({len(data)} bytes) is no image of a known kind but {what}")


@pytest.mark.parametrize(
    "data",
    [b'{"error": "not found"}', "écrit à la main".encode(), "text".encode("utf-16"), "é".encode() * 9000],
)
def test_text_is_named(data):
    for text in (data, data[: image_kinds.HEAD + 1], data + b"a\n\0"[: 2 + (data[0] == 0xFF)]):
        with pytest.raises(
            ImageError, match=r"photos/1\.jpg .*expected one of JPEG, PNG, .*; it is text"
        ) as error:
            decode(text, "photos/1.jpg")
        assert error.value.reason == "unsupported"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"])
def test_images_are_none_of_these(kind):
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, kind)
    assert image_kinds.unread_kind(stream.getvalue()) is None


def test_avif_is_refused_where_pillow_cannot_read_it(monkeypatch):
    data = box(b"avif", b"mif1")
    with pytest.raises(ImageError) as error:
        decode(data, "a.avif")
    assert error.value.reason == ("corrupt" if features.check("avif") else "unsupported")
    monkeypatch.setattr(image_kinds.features, "check", lambda name: False)
    with pytest.raises(
        ImageError, match=r"AVIF, for which this build of Pillow has no decoder; save it as"
    ) as error:
        decode(data, "a.avif")
    assert error.value.reason == "unsupported"


def test_an_avif_that_is_cut_off_is_damaged_and_a_whole_one_is_read():
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 100, 50)).save(stream, "AVIF")
    pixel = decode(stream.getvalue()).getpixel((16, 16))
    assert max(abs(a - b) for a, b in zip(pixel, (200, 100, 50), strict=True)) < 8
    with pytest.raises(ImageError, match="damaged") as error:
        decode(stream.getvalue()[:-20])
    assert error.value.reason == "corrupt"
