"""What a file is that was given as an image and is none that is read."""

from __future__ import annotations

from typing import Final

from PIL import features

from owl2_jax.core import text_files

# How much of a file is looked at.
HEAD: Final = 4096

CONVERT: Final = "save it as JPEG or PNG"
_FRAMES = "give it as a video, or save a frame of it as JPEG or PNG"
_FETCH = "fetch it again"

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2"}
_AVIF = {b"avif", b"avis"}

# (first bytes, what the file is, what to do)
_STARTS: Final = (
    (b"%PDF-", "PDF", CONVERT),
    (b"%!PS", "PostScript", CONVERT),
    (b"\xc5\xd0\xd3\xc6", "PostScript", CONVERT),
    (b"\xff\x0a", "JPEG XL", CONVERT),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL", CONVERT),
    (b"II\xbc", "JPEG XR", CONVERT),
    (b"8BPS", "a Photoshop file", CONVERT),
    (b"gimp xcf", "a GIMP file", CONVERT),
    (b"\0\0\1\0", "an icon (ICO)", CONVERT),
    (b"DDS ", "DDS", CONVERT),
    (b"v/1\1", "OpenEXR", CONVERT),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM)", _FRAMES),
    (b"\0\0\1\xba", "a video (MPEG)", _FRAMES),
    (b"\0\0\1\xb3", "a video (MPEG)", _FRAMES),
    (b"FLV\1", "a video (FLV)", _FRAMES),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a video (WMV)", _FRAMES),
    (b"OggS", "an Ogg file", _FRAMES),
    (b"PK\3\4", "a ZIP archive", "unpack it"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"BZh", "a bzip2 archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"\x93NUMPY", "a NumPy array", CONVERT),
    (b"\x89HDF", "an HDF5 file", CONVERT),
)  # fmt: skip
# Text may hold these; bytes below 32 and 127 mean that it is none.
_CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\f\r\x1b") | {127}


def unread_kind(data: bytes) -> tuple[str, str] | None:
    """(what a file certainly is, what to do), where it is of a kind that is not read; else None."""
    if not data:
        return "an empty file", _FETCH
    for start, what, remedy in _STARTS:
        if data.startswith(start):
            return what, remedy
    if data[:4] == b"RIFF" and data[8:12] == b"AVI ":
        return "a video (AVI)", _FRAMES
    if data[4:8] == b"ftyp":
        return _iso_kind(data)
    if data[:1] == b"\x47" == data[188:189] == data[376:377]:
        return "a video (MPEG)", _FRAMES
    return _page_kind(data)


def is_text(data: bytes) -> bool:
    """Says whether a file is text; some formats of images are text too."""
    head = data[:HEAD]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    if _CONTROLS.intersection(head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3  # at the end a character may be cut
    return True


def _iso_kind(data: bytes) -> tuple[str, str] | None:
    end = min(int.from_bytes(data[:4], "big"), HEAD)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
    if brands & _AVIF:
        if features.check("avif"):
            return None
        return "AVIF, for which this build of Pillow has no decoder", f"{CONVERT}, or install Pillow 11.3"
    if brands & _HEIC:
        return "HEIC", CONVERT
    if b"jxl " in brands:
        return "JPEG XL", CONVERT
    if b"crx " in brands:
        return "a raw file of a camera", CONVERT
    if brands & {b"jp2 ", b"jpx ", b"jpm "}:
        return None
    return "a video (MP4 or QuickTime)", _FRAMES


def _page_kind(data: bytes) -> tuple[str, str] | None:
    if (text_files.what_instead(data) or "").startswith("a git-lfs"):
        return "a git-lfs pointer", "run git lfs pull"
    if text_files.is_web_page(data):
        return "a web page", "the download was refused, fetch it again"
    head = data[:HEAD].removeprefix(text_files.BOM).lstrip().lower()
    if head.startswith(b"<") and b"<svg" in head:
        return "SVG", CONVERT
    if head.startswith(b"<") and b"<html" in head:
        return "a web page", "the download was refused, fetch it again"
    return None
