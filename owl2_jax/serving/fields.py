"""Fields of a request, read from JSON and checked one by one: names, and values of plain types."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from owl2_jax.core.errors import nearest
from owl2_jax.inference.request import MAX_TOP_LOGPROBS
from owl2_jax.serving.errors import ApiError

MAX_STOPS = 4
MAX_STOP_LENGTH = 256  # characters
MANY = 2**63 - 1  # of tokens; the context ends an answer long before

READ = (
    "model", "messages", "stream", "stream_options", "stop", "temperature", "top_p", "max_tokens",
    "max_completion_tokens", "seed", "logprobs", "top_logprobs", "n", "presence_penalty",
    "frequency_penalty", "logit_bias", "response_format",
    # Not of OpenAI's; other servers call them so, too.
    "min_tokens", "top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos",
    "structured_outputs",
)  # fmt: skip
# Of no effect on an answer: names of the user, where and how fast to answer, what to keep, and
# what only models have that reason before they answer or were trained for several lengths.
UNUSED = (
    "user", "safety_identifier", "metadata", "store", "service_tier", "prediction", "parallel_tool_calls",
    "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "verbosity",
)  # fmt: skip
# Of effect, and nothing but null and the values that change nothing can be had here.
FIXED: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "moderation": (),
}
STREAM_OPTIONS = ("include_usage", "continuous_usage_stats", "include_obfuscation")


def check_names(
    call: Mapping[str, Any],
    read: Sequence[str] = READ,
    unused: Sequence[str] = UNUSED,
    fixed: Mapping[str, tuple[Any, ...]] = FIXED,
) -> None:
    """Raises `ApiError` for fields that are unknown, or ask for what is not to be had.

    Null is as if left out, in any field.
    """
    for name, value in call.items():
        if value is None or name in read or name in unused:
            continue
        if name not in fixed:
            raise unknown_field(name, (*read, *unused, *fixed))
        if value not in fixed[name]:
            allowed = " or ".join(map(repr, fixed[name])) or "null"
            raise wrong(name, value, f"nothing but {allowed} is supported")


def unknown_field(name: str, known: Iterable[str]) -> ApiError:
    """The error for a field that is none of `known`."""
    close = nearest(name, known)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return ApiError(f"unknown field {name[:60]!r}{hint}", code="unknown_parameter", param=name[:60])


def read_text(call: Mapping[str, Any], name: str) -> str | None:
    """A text of a request, or None. Raises `ApiError`."""
    value = call.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong(name, value, "expected a text")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise wrong(name, value, "expected text that has a UTF-8 form") from None
    return value


def read_bool(call: Mapping[str, Any], name: str, inside: str = "") -> bool:
    """False when it is left out; `inside` stands in front of the name in errors."""
    value = call.get(name)
    if value is not None and not isinstance(value, bool):
        raise wrong(inside + name, value, "expected true or false")
    return bool(value)


def read_number(call: Mapping[str, Any], name: str, low: float, high: float, default: float) -> float:
    """A number of a request from `low` to `high`, or the default. Raises `ApiError`."""
    value = call.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise wrong(name, value, f"expected a number from {low:g} to {high:g}")
    return float(value)


def read_whole(call: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    """A whole number of a request from `low` to `high`, or None. Raises `ApiError`."""
    value = call.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise wrong(name, value, f"expected a whole number from {low} to {high}")
    return value


def read_stop(call: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts that end an answer. Raises `ApiError`."""
    value = call.get("stop")
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, list) or len(texts) > MAX_STOPS:
        raise wrong("stop", value, f"expected a text or a list of at most {MAX_STOPS}")
    for text in texts:
        if not isinstance(text, str) or not 0 < len(text) <= MAX_STOP_LENGTH:
            raise wrong("stop", text, f"expected texts of 1 to {MAX_STOP_LENGTH} characters")
    return tuple(texts)


def read_length(call: Mapping[str, Any], least: int = 1) -> int | None:
    """Most tokens of the answer, under either of its names; more than there is room for is all there is."""
    old, new = (_read_length(call, name, least) for name in ("max_tokens", "max_completion_tokens"))
    if old is not None and new is not None and old != new:
        raise ApiError(
            f"max_tokens is {old} and max_completion_tokens {new}; they differ, give one of them",
            code="invalid_value",
            param="max_tokens",
        )
    return old if new is None else new


def _read_length(call: Mapping[str, Any], name: str, least: int) -> int | None:
    value = call.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise wrong(
            name, value, f"expected a whole number from {least}, or null for as many as there is room for"
        )
    return min(value, MANY)


def read_top_logprobs(call: Mapping[str, Any]) -> int:
    """How many likely tokens a chat request wants listed. Raises `ApiError`."""
    count = read_whole(call, "top_logprobs", 0, MAX_TOP_LOGPROBS) or 0
    if count and not read_bool(call, "logprobs"):
        raise ApiError("top_logprobs needs 'logprobs': true", code="invalid_value", param="top_logprobs")
    return count


def read_stream_options(call: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether to tell numbers of tokens at the end, and with every piece."""
    options = call.get("stream_options")
    if options is None:
        return False, False
    if not isinstance(options, dict):
        raise wrong("stream_options", options, "expected {'include_usage': true or false}")
    for name, value in options.items():
        if value is not None and name not in STREAM_OPTIONS:
            raise unknown_field(f"stream_options.{name}", [f"stream_options.{one}" for one in STREAM_OPTIONS])
    told = {name: read_bool(options, name, "stream_options.") for name in STREAM_OPTIONS}
    if not read_bool(call, "stream") and any(told.values()):
        raise ApiError("stream_options needs 'stream': true", code="invalid_value", param="stream_options")
    return told["include_usage"], told["continuous_usage_stats"]


def wrong(name: str, value: Any, expected: str) -> ApiError:
    """The error for a field of another value than expected."""
    return ApiError(f"{name} is {reprlib.repr(value)}; {expected}", code="invalid_value", param=name)
