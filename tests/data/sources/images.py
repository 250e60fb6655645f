"""Small image files for the tests of sources."""

from __future__ import annotations

import io

from PIL import Image


def image(shade: int, kind: str = "PNG") -> bytes:
    """An image file of 4 x 4 equal pixels."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(buffer, kind)
    return buffer.getvalue()
