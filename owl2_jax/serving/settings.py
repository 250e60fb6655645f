"""What a server allows: sizes, numbers and times, each with its unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import check_values
from owl2_jax.core.ranges import Count, NotNegative, Positive, Whole, between
from owl2_jax.core.texts import AnyText, Name

MIB = 2**20
_Bytes = Annotated[int, between(1, 2**40)]


@dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    Attributes:
      body_bytes: of one request.
      held_bytes: of all requests that are being read.
      body_seconds: from the head of a request to the end of its body.
      head_seconds: from the connection to the end of a request's head.
      images: in one conversation; 0 for none.
      pixels: width x height of one image, checked before it is decoded.
      remote_bytes: of one image from the web.
      remote_seconds: for fetching it, redirects included.
      queue: requests that wait for a row; with 0, what finds none free is refused.
    """

    body_bytes: _Bytes = 32 * MIB
    held_bytes: _Bytes = 512 * MIB
    body_seconds: Positive = 60.0
    head_seconds: Positive = 15.0
    images: Whole = 16
    pixels: Count = 50_000_000
    remote_bytes: _Bytes = 16 * MIB
    remote_seconds: Positive = 10.0
    queue: Whole = 64

    def __post_init__(self) -> None:
        check_values(self, "limits")
        if self.held_bytes < self.body_bytes:
            raise Owl2Error(
                f"limits.held_bytes must be at least limits.body_bytes {self.body_bytes}, "
                f"found {self.held_bytes}"
            )


@dataclass(frozen=True)
class ServeConfig:
    """How a model is served.

    Attributes:
      model_name: what clients call the model; None for the checkpoint's name.
      api_key: what clients must show; None lets everyone in.
      remote_images: images may be fetched from public web addresses.
      grace_seconds: how long running answers may take after a signal to stop; 0
        ends them at once.
      limits: what a client may ask for.
    """

    model_name: Name | None = None
    api_key: AnyText | None = None
    remote_images: bool = False
    grace_seconds: NotNegative = 60.0
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        check_values(self, "serve")
        if self.api_key is not None and not self.api_key.strip():
            raise Owl2Error("the API key is empty; give one of at least one character, or none at all")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip().isprintable()):
            raise Owl2Error(
                "the API key has characters that no header of HTTP can carry; use letters, digits and "
                "signs of ASCII on one line"
            )
