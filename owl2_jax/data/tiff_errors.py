"""What libtiff says of a damaged file: for our own messages instead of the error stream.

The library, which Pillow reads TIFF files with, prints its errors itself and goes
on; now and then Pillow then gives an image that is whole only in part. Its
handler of errors can be replaced, which is no part of Pillow, so it is done in the
library that is loaded. Where that is not found, nothing changes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import PIL

_MOST_BYTES: Final = 300  # of a message
_HANDLER: Final = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
_collecting = threading.local()


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """Yields a list that gets every error of libtiff in this thread while the block runs."""
    _take_over()
    before = getattr(_collecting, "errors", None)
    _collecting.errors = errors = []
    try:
        yield errors
    finally:
        _collecting.errors = before


@functools.cache
def _take_over() -> Any:
    """Sets the handlers, once; returns what must live as long as they do."""
    library = _library()
    if library is None:
        return None
    formatted = ctypes.CDLL(None).vsnprintf
    formatted.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p)

    @_HANDLER
    def note(module: bytes | None, text: bytes | None, values: int | None) -> None:
        errors = getattr(_collecting, "errors", None)
        if errors is not None and text:
            buffer = ctypes.create_string_buffer(_MOST_BYTES)
            formatted(buffer, _MOST_BYTES, text, values)
            errors.append(buffer.value.decode(errors="replace"))

    for name, handler in (("TIFFSetErrorHandler", note), ("TIFFSetWarningHandler", None)):
        function = getattr(library, name)
        function.restype = ctypes.c_void_p
        function.argtypes = (_HANDLER if handler else ctypes.c_void_p,)
        function(handler)
    return note


def _library() -> ctypes.CDLL | None:
    """The libtiff of this process; None where it is not found."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = line.partition("/")[2]
            if "libtiff" in path.rpartition("/")[2]:
                return ctypes.CDLL(f"/{path}")
    for found in Path(PIL.__file__).parent.glob(".dylibs/libtiff*"):
        with contextlib.suppress(OSError):
            return ctypes.CDLL(str(found))
    return None
