"""What goes into the engine and what comes out."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.fields import check_value
from owl2_jax.core.ranges import Count, Whole, between
from owl2_jax.sampling.params import GREEDY, Sampling, check_token_ids
from owl2_jax.structured.form import Structured
from owl2_jax.structured.matcher import Matcher

MAX_TOP_LOGPROBS = 20
MAX_STOP_TOKENS = 15  # with `</s>`, as many as the sampler has places for
TopLogprobs = Annotated[int, between(0, MAX_TOP_LOGPROBS)]

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class Request:
    """A prompt to go on with.

    Attributes:
      prompt: messages with role and content, read as `data.turns` says, the
        user's last, or a finished text that is tokenized as it stands; an image
        tag in a text marks where an image stands. Or token ids int32[n] with
        -200 where an image stands.
      images: one per tag, in order: a path, the bytes of a file, uint8[H, W, 3], or a
        `RequestImage` that several requests share.
      sampling: how tokens are chosen.
      max_new_tokens: most tokens of the answer, `</s>` counted; None for as many
        as the model has room for.
      min_new_tokens: tokens before the answer may end, or a stop text begin.
      stop: texts that end the answer; they are not part of it. They cut an answer of a given form, too.
      stop_token_ids: tokens that end the answer as `</s>` does; they are not part of its text.
      ignore_eos: `</s>` does not end the answer.
      structured: what the answer must look like.
      matcher: at the beginning of that form, when it was compiled before; it is copied, not moved.
      top_logprobs: for every token, how many likeliest tokens to list with it.
      prompt_logprobs: of how many last tokens of the prompt the log-probabilities are told; with
        them `max_new_tokens` may be 0.
      stream_logprobs: tell the log-probabilities with each event, not in the result alone.
      image_mode: "pad", "resize" or "none"; None for the checkpoint's own.
      continues: the answer goes on with the text of the prompt, and a space in front of its
        first word is part of it.
      control_tokens: `<s>`, `</s>` and `<unk>` in the prompt become their ids, as
        in the released evaluation; never for text of strangers.

    Raises:
      Owl2Error: a number out of its range, an empty stop text, or settings that exclude each other.
    """

    prompt: str | Sequence[Mapping[str, str]] | np.ndarray
    images: Sequence[Any] = ()
    sampling: Sampling = GREEDY
    max_new_tokens: Whole | None = None
    min_new_tokens: Whole = 0
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    structured: Structured | None = None
    matcher: Matcher | None = field(default=None, repr=False, compare=False)
    top_logprobs: TopLogprobs = 0
    prompt_logprobs: Whole = 0
    stream_logprobs: bool = False
    image_mode: str | None = None
    continues: bool = False
    control_tokens: bool = False

    def __post_init__(self) -> None:
        check_value(Whole, self.prompt_logprobs, "prompt_logprobs")
        if self.max_new_tokens is not None:
            least = Whole if self.prompt_logprobs else Count
            check_value(least, self.max_new_tokens, "max_new_tokens")
        for name in ("control_tokens", "ignore_eos"):
            if not isinstance(getattr(self, name), bool):
                raise Owl2Error(f"{name} is {getattr(self, name)!r}; expected true or false")
        check_value(Whole, self.min_new_tokens, "min_new_tokens")
        check_value(TopLogprobs, self.top_logprobs, "top_logprobs")
        if not isinstance(self.stop, (list, tuple)) or not all(
            isinstance(text, str) and text for text in self.stop
        ):
            raise Owl2Error(f"stop is {self.stop!r}; expected a list of texts that are not empty")
        self._check_ends()

    def _check_ends(self) -> None:
        ids = self.stop_token_ids
        if not isinstance(ids, (list, tuple)) or len(ids) > MAX_STOP_TOKENS:
            raise Owl2Error(
                f"stop_token_ids is {reprlib.repr(ids)}; "
                f"expected a list of at most {MAX_STOP_TOKENS} token ids"
            )
        for token in ids:
            check_value(Whole, token, "stop_token_ids")
        if self.structured and (self.ignore_eos or self.min_new_tokens):
            other = "ignore_eos" if self.ignore_eos else "min_new_tokens"
            raise Owl2Error(
                f"{other} and {self.structured.name} exclude each other: an answer of a given form ends "
                "where the form does; leave one of them out"
            )

    def end_ids(self, eos_id: int) -> tuple[int, ...]:
        """The tokens that end the answer, `eos_id` being `</s>`."""
        return tuple(dict.fromkeys([*([] if self.ignore_eos else [eos_id]), *self.stop_token_ids]))

    def check_tokens(self, vocab_size: int) -> None:
        """Raises `Owl2Error` for ids in the settings that the tokenizer does not have."""
        self.sampling.check_tokens(vocab_size)
        check_token_ids("stop_token_ids", self.stop_token_ids, vocab_size)

    def choices(self, count: int) -> list[Request]:
        """The same request `count` times, each with a random stream of its own."""
        return [replace(self, sampling=self.sampling.of_choice(number)) for number in range(count)]


@dataclass
class Result:
    """An answer.

    Attributes:
      text: without the stop text or `</s>`.
      token_ids: what was generated, a closing `</s>` or stop token included.
      logprobs: natural logarithm of each token's probability under the model,
        before temperature, penalty and truncation.
      top_logprobs: per token, (token id, log-probability) of the likeliest
        tokens, best first; as many as the request asked for.
      finish_reason: "stop" for `</s>`, a stop token or a stop text, "length", "cancelled", or "error".
      error: why the answer could not go on, when that is the reason.
      prompt_tokens: positions of the prompt, those of images included.
      prompt_logprobs: of the tokens of the prompt that the request asked for.
      seconds: from submission to the end, waiting included.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    prompt_tokens: int = 0
    prompt_logprobs: TokenLogprobs | None = None
    seconds: float = field(default=0.0, compare=False)
    error: str | None = None


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
      prompt_tokens, prompt_logprobs: as in `Result`; the latter in the first event alone.
      new_tokens: tokens chosen so far.
    """

    request_id: int
    text: str
    result: Result | None = None
    logprobs: TokenLogprobs | None = None
    prompt_tokens: int = 0
    new_tokens: int = 0
    prompt_logprobs: TokenLogprobs | None = None
