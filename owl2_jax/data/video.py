"""Videos as evenly spaced frames, each an image of its own.

A video of n frames is cut into n equal stretches of time, and the frame shown
in the middle of each is taken. PyAV reads the file; it comes with the extra
"video".
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from PIL import Image

from owl2_jax.core.buckets import StoreError
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.large_objects import opened
from owl2_jax.core.paths import in_bucket
from owl2_jax.data import image_kinds
from owl2_jax.data.images import MAX_PIXELS, ImageError, unreadable

if TYPE_CHECKING:
    import av
    from av.container import InputContainer


class Frame(NamedTuple):
    """Stands where an image's bytes or path would: one of `count` frames of a video."""

    path: str
    number: int
    count: int

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.path}, frame {self.number + 1} of {self.count}"


def require_reader() -> ModuleType:
    """PyAV. Raises `Owl2Error` that says how to install it."""
    try:
        import av
    except ImportError as error:
        raise Owl2Error('videos need PyAV; install it with: pip install "owl2_jax[video]"') from error
    return av


def decode_frame(frame: Frame, max_pixels: int = MAX_PIXELS, limit: str = "") -> Image.Image:
    """One frame as 8-bit RGB. The frames of the last video are kept, as they are asked for in turn.

    Args:
      limit: what errors call `max_pixels`.

    Raises:
      ImageError: missing, no video, damaged, or too large.
    """
    return _kept_frames(frame.path, frame.count, max_pixels, limit)[frame.number]


@functools.lru_cache(maxsize=2)
def _kept_frames(path: str, count: int, max_pixels: int, limit: str) -> tuple[Image.Image, ...]:
    return tuple(frames(path, count, max_pixels, limit))


def frames(
    path: str | os.PathLike, count: int, max_pixels: int = MAX_PIXELS, limit: str = ""
) -> list[Image.Image]:
    """`count` evenly spaced frames of a video, upright, as 8-bit RGB.

    A video of fewer frames gives some of them several times.

    Args:
      limit: what errors call `max_pixels`.

    Raises:
      ImageError: missing, no video, damaged, or too large.
      StoreError: its bucket's store does not answer, or knows no credentials: no fault of the video.
      Owl2Error: PyAV is not installed.
    """
    av = require_reader()
    head = _head(path)
    try:
        with _file(path) as file, av.open(file) as container:
            if not container.streams.video:
                raise ImageError(f"{path} has no video stream; expected a video file", "unsupported")
            stream = container.streams.video[0]
            _check_size(path, stream.codec_context, max_pixels, limit)
            stream.thread_type = "NONE"  # many videos are read at once; threads of their own only add up
            return [_image(path, frame, max_pixels, limit) for frame in _chosen(container, stream, count)]
    except (ImageError, StoreError):
        raise
    except Exception as error:  # the bindings raise many types on damaged files
        _raise_other_kind(path, head, error)
        reason = str(error).strip() or type(error).__name__
        raise ImageError(f"the video {path} is damaged: {reason}; replace the file", "corrupt") from error


@contextlib.contextmanager
def _file(path: str | os.PathLike) -> Iterator[str | BinaryIO]:
    """What PyAV opens: the name of a file, or an object of a bucket, of which it reads what it needs."""
    if not in_bucket(path):
        yield os.fspath(path)
        return
    with opened(path) as file:
        yield file


def _head(path: str | os.PathLike) -> bytes:
    """The file's first bytes. Raises `ImageError`: missing, or not readable; `StoreError` as `frames`."""
    try:
        with opened(path) as file:
            return file.read(image_kinds.HEAD)
    except FileNotFoundError as error:
        raise ImageError(f"cannot read the video {path}: no such file; check the path", "missing") from error
    except (OSError, ValueError) as error:
        raise unreadable("video", os.fspath(path), error) from error
    except StoreError:
        raise
    except Owl2Error as error:  # of a bucket
        gone = isinstance(error.__cause__, FileNotFoundError)
        raise ImageError(f"cannot read the video {error}", "missing" if gone else "unreadable") from error


def _raise_other_kind(path: str | os.PathLike, head: bytes, error: Exception) -> None:
    """Raises `ImageError` where a file that could not be read is no video at all."""
    kind = image_kinds.unread_kind(head)
    if kind is not None and "video" not in kind[0]:
        remedy = "give a video file" if kind[1] == image_kinds.CONVERT else kind[1]
        raise ImageError(f"{path} is no video but {kind[0]}; {remedy}", "unsupported") from error


def _check_size(
    path: str | os.PathLike, seen: av.VideoCodecContext | av.VideoFrame | None, max_pixels: int, limit: str
) -> None:
    """`seen` is a decoder or a frame; a file may have frames larger than it says at its start."""
    if seen is None:
        raise ValueError("no decoder for its stream")
    if seen.width * seen.height > max_pixels:
        limit = f" ({limit})" if limit else ""
        raise ImageError(
            f"the video {path} has {seen.width} x {seen.height} pixels, expected at most {max_pixels}"
            f"{limit}; shrink it",
            "oversized",
        )


def _chosen(container: InputContainer, stream: av.VideoStream, count: int) -> Iterator[av.VideoFrame]:
    """The decoded frame in the middle of each stretch."""
    length = stream.duration
    if length is None and container.duration is not None:
        length = int(container.duration / 1_000_000 / stream.time_base)
    if length is None:  # a raw stream, which says nothing about its length
        every = list(container.decode(stream))
        yield from (every[(2 * i + 1) * len(every) // (2 * count)] for i in range(count))
        return
    start = stream.start_time or 0
    for number in range(count):
        yield _shown_at(container, stream, start + (2 * number + 1) * length // (2 * count))


def _shown_at(container: InputContainer, stream: av.VideoStream, time: int) -> av.VideoFrame | None:
    """The frame shown at a time, in the stream's units: the last that has begun by then."""
    container.seek(time, stream=stream, backward=True)
    shown = None
    for frame in container.decode(stream):
        if shown is not None and frame.pts is not None and frame.pts > time:
            break
        shown = frame
    if shown is None:
        raise ValueError(f"no frame at {float(time * stream.time_base):.2f} s")
    return shown


def _image(path: str | os.PathLike, frame: av.VideoFrame, max_pixels: int, limit: str) -> Image.Image:
    """A frame upright, as 8-bit RGB."""
    _check_size(path, frame, max_pixels, limit)
    image = frame.to_image().convert("RGB")
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
