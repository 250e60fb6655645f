"""What goes into the engine and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import check_value
from owl2_jax.core.ranges import Count, Whole, between
from owl2_jax.inference.sampling import Sampling

MAX_TOP_LOGPROBS = 20
TopLogprobs = Annotated[int, between(0, MAX_TOP_LOGPROBS)]

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Request:
    """A prompt to go on with.

    Attributes:
      prompt: messages with role and content, read as `data.turns` says, the
        user's last, or a finished text that is tokenized as it stands; an image
        tag in a text marks where an image stands. Or token ids int32[n] with
        -200 where an image stands.
      images: one per tag, in order: a path, the bytes of a file, or uint8[H, W, 3].
      sampling: how tokens are chosen.
      max_new_tokens: most tokens of the answer, `</s>` counted; None for as many
        as the model has room for.
      min_new_tokens: tokens before `</s>` may come.
      stop: texts that end the answer; they are not part of it.
      top_logprobs: for every token, how many likeliest tokens to list with it.
      stream_logprobs: tell the log-probabilities with each event, not in the result alone.
      image_mode: "pad", "resize" or "none"; None for the checkpoint's own.
      control_tokens: `<s>`, `</s>` and `<unk>` in the prompt become their ids, as
        in the released evaluation; never for text of strangers.

    Raises:
      Owl2Error: a number out of its range, or an empty stop text.
    """

    prompt: str | Sequence[Mapping[str, str]] | np.ndarray
    images: Sequence[Any] = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_new_tokens: Count | None = None
    min_new_tokens: Whole = 0
    stop: Sequence[str] = ()
    top_logprobs: TopLogprobs = 0
    stream_logprobs: bool = False
    image_mode: str | None = None
    control_tokens: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None:
            check_value(Count, self.max_new_tokens, "max_new_tokens")
        if not isinstance(self.control_tokens, bool):
            raise Owl2Error(f"control_tokens is {self.control_tokens!r}; expected true or false")
        check_value(Whole, self.min_new_tokens, "min_new_tokens")
        check_value(TopLogprobs, self.top_logprobs, "top_logprobs")
        if not isinstance(self.stop, (list, tuple)) or not all(
            isinstance(text, str) and text for text in self.stop
        ):
            raise Owl2Error(f"stop is {self.stop!r}; expected a list of texts that are not empty")


@dataclass
class Result:
    """An answer.

    Attributes:
      text: without the stop text or `</s>`.
      token_ids: what was generated, a closing `</s>` included.
      logprobs: natural logarithm of each token's probability under the model,
        before temperature, penalty and truncation.
      top_logprobs: per token, (token id, log-probability) of the likeliest
        tokens, best first; as many as the request asked for.
      finish_reason: "stop" for `</s>` or a stop text, "length", or "cancelled".
      prompt_tokens: positions of the prompt, those of images included.
      seconds: from submission to the end, waiting for a slot included.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    prompt_tokens: int = 0
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class TokenLogprobs:
    """Some tokens of an answer, in the order of `Result`, with what is said of them there."""

    token_ids: list[int]
    logprobs: list[float]
    top_logprobs: list[list[tuple[int, float]]]


@dataclass(frozen=True)
class Event:
    """Progress of one request.

    Attributes:
      request_id: what `Engine.submit` returned.
      text: what the answer grew by; characters are whole.
      result: the finished answer, in the last event of a request.
      logprobs: of the tokens chosen since the event before, when the request
        wants them; what a stop text is made of is among them.
      prompt_tokens: as in `Result`.
      new_tokens: tokens chosen so far.
    """

    request_id: int
    text: str
    result: Result | None = None
    logprobs: TokenLogprobs | None = None
    prompt_tokens: int = 0
    new_tokens: int = 0
