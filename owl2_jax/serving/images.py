"""Images of a request: data URLs and, where allowed, web addresses, to the model's pixels."""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import images
from owl2_jax.inference.images import RequestImage
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.remote import Fetcher
from owl2_jax.serving.settings import Limits

# A progressive JPEG is decoded once per scan; writers make about ten. Without a limit a
# small file could keep a core busy for hours.
MAX_JPEG_SCANS = 100
_DECODERS = 2  # at a time: a decoded image is large
_FETCHERS = 4
_SHORT_URL = 2**16  # characters that are looked up sooner than a thread would begin to
KEPT_BYTES: Final = 32 * 2**20  # of pixels, for images that come again, as in the turns of a conversation

_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]")
# How JPEG, PNG, GIF and WebP begin in base64, which is sent without a head now and then.
_BARE_BASE64 = re.compile(r"/9j/|iVBORw0KGgo|R0lGOD|UklGR")
_URL_SAFE = str.maketrans("-_", "+/")


class ImageReader:
    """Reads images in threads of its own.

    Args:
      model: for its image mode and size.
      limits: of the server.
      fetcher: for images from the web; None when they are not allowed.
    """

    def __init__(self, model: LoadedModel, limits: Limits, fetcher: Fetcher | None):
        self._mode, self._size = model.prompt_format.image_mode, model.config.vision.image_size
        self._limits = limits
        self._fetcher = fetcher
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode-image")
        self._fetchers = ThreadPoolExecutor(_FETCHERS, "fetch-image")
        self._kept: OrderedDict[bytes, RequestImage] = OrderedDict()  # by what was sent; oldest first
        self._most_kept = max(KEPT_BYTES // (3 * self._size**2), 1)
        self._lock = threading.Lock()

    async def read(self, urls: Sequence[str]) -> list[RequestImage]:
        """The image of each URL, at the model's size; one sent before is not decoded again.

        Raises:
          ApiError: an address that is not allowed or cannot be had, or no
            image, or one that is too large; names the image by its number.
        """
        return [await self._read(f"image {number}", url) for number, url in enumerate(urls, 1)]

    async def _read(self, name: str, url: str) -> RequestImage:
        loop = asyncio.get_running_loop()
        url = url.strip()
        if url[:5].lower() == "data:":
            known = self._known(_key(url)) if len(url) <= _SHORT_URL else None
            if known is not None:
                return known
            return await loop.run_in_executor(self._decoders, self._from_data_url, name, url)
        data = await self._fetch(name, url)
        return await loop.run_in_executor(self._decoders, self._decode, name, data)

    async def _fetch(self, name: str, url: str) -> bytes:
        if self._fetcher is None:
            bare = "; put 'data:image/png;base64,' in front" if _BARE_BASE64.match(url) else ""
            raise ApiError(
                f"{name} is at {url[:60]!r}; this server takes images as data: URLs only{bare}",
                code="invalid_image_url",
            )
        work = asyncio.get_running_loop().run_in_executor(self._fetchers, self._fetcher.fetch, name, url)
        try:
            # The fetcher watches the time itself, except while it waits for a thread or a name server.
            return await asyncio.wait_for(work, 2 * self._limits.remote_seconds)
        except TimeoutError:
            raise ApiError(f"{name} could not be fetched in time", code="invalid_image_url") from None

    def _from_data_url(self, name: str, url: str) -> RequestImage:
        return self._once(_key(url), lambda: self._load(name, read_data_url(name, url)))

    def _decode(self, name: str, data: bytes) -> RequestImage:
        return self._once(_key(data), lambda: self._load(name, data))

    def _known(self, key: bytes) -> RequestImage | None:
        """What was made before of what was sent."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def _once(self, key: bytes, load: Callable[[], RequestImage]) -> RequestImage:
        """What `load` makes of what was sent, or made of it before."""
        found = self._known(key)
        if found is not None:
            return found
        found = load()
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > self._most_kept:
                self._kept.popitem(last=False)
        return found

    def _load(self, name: str, data: bytes) -> RequestImage:
        if data[:2] == b"\xff\xd8" and count_scans(data) > MAX_JPEG_SCANS:
            raise ApiError(f"{name} is a JPEG of more than {MAX_JPEG_SCANS} scans", code="invalid_image")
        try:
            pixels = images.load(
                data, self._mode, self._size, name, self._limits.pixels, "this server's limit of pixels"
            )
        except Owl2Error as error:
            message = str(error).replace(f"the image {name}", name)
            raise ApiError(message, code="invalid_image") from error
        return RequestImage(pixels, self._mode, self._size)

    def close(self) -> None:
        """Ends the threads once they are idle."""
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._fetchers.shutdown(wait=False, cancel_futures=True)


def _key(sent: str | bytes) -> bytes:
    data = sent.encode(errors="surrogatepass") if isinstance(sent, str) else sent
    return hashlib.blake2b(data, digest_size=16).digest()


def read_data_url(name: str, url: str) -> bytes:
    """The content of a `data:image/...;base64,...` URL.

    What writers vary is read: upper case, blanks, parameters, base64 in lines,
    in the alphabet for URLs, without padding or percent-encoded, and content
    that is percent-encoded in place of base64. What kind of image it is says the
    content; a type other than `image/...` is refused.

    Raises:
      ApiError: no such URL, another type, or damaged base64.
    """
    if "," not in url:
        url = unquote(url)
    head, comma, text = url.partition(",")
    kind, *parameters = (part.strip().lower() for part in head[len("data:") :].split(";"))
    encoded = "base64" in parameters
    if not comma or not (encoded or "%" in text):
        raise ApiError(
            f"{name} is {url[:40]!r}...; expected 'data:image/png;base64,' or the like and then base64",
            code="invalid_image_url",
        )
    if kind and not kind.startswith(("image/", "application/octet-stream")):
        raise ApiError(f"{name} has the type {kind[:40]!r}; expected an image", code="invalid_image_url")
    return _from_base64(name, text) if encoded else unquote_to_bytes(text)


def _from_base64(name: str, text: str) -> bytes:
    text = unquote(text) if "%" in text else text
    text = "".join(text.split()).rstrip("=").translate(_URL_SAFE)  # some writers break it into lines
    strange = _NOT_BASE64.search(text)
    if strange is not None:
        raise ApiError(
            f"{name} is not valid base64: {strange.group()!r} at character {strange.start()}",
            code="invalid_image_url",
        )
    if len(text) % 4 == 1:
        raise ApiError(
            f"{name} is not valid base64: {len(text)} characters, which is no whole number of bytes; "
            "it may be cut off",
            code="invalid_image_url",
        )
    return binascii.a2b_base64(text + "=" * (-len(text) % 4))


def count_scans(data: bytes) -> int:
    """Scans of a JPEG file: markers FF DA outside of the segments with a length, such as metadata."""
    scans, at = 0, 2
    while (marker := _MARKER.search(data, at)) is not None:
        at = marker.end()
        scans += marker.group() == b"\xff\xda"
        at += int.from_bytes(data[at : at + 2], "big") if len(data) >= at + 2 else 2
    return scans


# Markers that begin a segment with a length; the others stand alone, or are data.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xda-\xfe]")
