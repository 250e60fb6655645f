"""Fields that say how an answer is chosen, where it ends and what it must look like."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.request import MAX_STOP_TOKENS
from owl2_jax.sampling.params import MAX_BIAS, Sampling, is_token_id
from owl2_jax.serving.errors import ApiError
from owl2_jax.serving.fields import read_number, read_whole, wrong
from owl2_jax.structured import form
from owl2_jax.structured.form import Structured


def read_sampling(call: Mapping[str, Any]) -> Sampling:
    """How tokens are chosen; OpenAI's defaults, and a new seed where none is given."""
    seed = read_whole(call, "seed", -(2**63), 2**63 - 1)
    return Sampling(
        temperature=read_number(call, "temperature", 0.0, 2.0, 1.0),
        # 0 would keep nothing; what comes close to it keeps the likeliest token.
        top_p=max(read_number(call, "top_p", 0.0, 1.0, 1.0), 1e-6),
        top_k=max(read_whole(call, "top_k", -1, 2**31 - 1) or 0, 0),  # -1: all, as other servers write it
        min_p=read_number(call, "min_p", 0.0, 1.0, 0.0),
        repetition_penalty=read_number(call, "repetition_penalty", 0.1, 10.0, 1.0),
        presence_penalty=read_number(call, "presence_penalty", -2.0, 2.0, 0.0),
        frequency_penalty=read_number(call, "frequency_penalty", -2.0, 2.0, 0.0),
        logit_bias=read_bias(call),
        seed=secrets.randbits(63) if seed is None else seed % 2**63,
    )


def read_bias(call: Mapping[str, Any]) -> dict[str, float]:
    """What is added to the logits of tokens, by their ids in digits."""
    value = call.get("logit_bias")
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_BIAS:
        raise wrong("logit_bias", value, f"expected an object of at most {MAX_BIAS} token ids and numbers")
    for name in value:
        if not is_token_id(name):
            raise wrong("logit_bias", name, "expected token ids in digits, as '29871'")
    # Null is no number here: it would say nothing.
    return {name: _bias(name, number) for name, number in value.items()}


def _bias(name: str, number: Any) -> float:
    if number is None:
        raise wrong(f"logit_bias.{name}", number, "expected a number from -100 to 100")
    return read_number({f"logit_bias.{name}": number}, f"logit_bias.{name}", -100.0, 100.0, 0.0)


def read_stop_tokens(call: Mapping[str, Any]) -> tuple[int, ...]:
    """The token ids that end an answer. Raises `ApiError`."""
    value = call.get("stop_token_ids")
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_STOP_TOKENS:
        raise wrong("stop_token_ids", value, f"expected a list of at most {MAX_STOP_TOKENS} token ids")
    for token in value:
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise wrong("stop_token_ids", token, "expected token ids, which are whole numbers from 0")
    return tuple(value)


def read_structured(call: Mapping[str, Any]) -> Structured | None:
    """What the answer must look like, of `response_format` or of `structured_outputs`."""
    given, other = call.get("response_format"), call.get("structured_outputs")
    with about("structured_outputs" if other is not None else "response_format"):
        return form.from_fields(given, other)


def check_together(call: Mapping[str, Any], form: Structured | None) -> None:
    """Raises `ApiError` for fields that would each have to give way to the other."""
    if form is not None:
        field = form.name.partition(".")[0]
        for name in ("ignore_eos", "min_tokens"):
            if call.get(name):
                raise _exclude(name, field, ": an answer of a given form ends where the form does")


def _exclude(name: str, other: str, reason: str = "") -> ApiError:
    message = f"{name} and {other} exclude each other{reason}; leave one of them out"
    return ApiError(message, code="invalid_value", param=name)


@contextlib.contextmanager
def about(param: str) -> Iterator[None]:
    """Around work on a field: what is wrong with it is told of it, as a 400."""
    try:
        yield
    except ApiError as error:
        error.param = error.param or param
        raise
    except Owl2Error as error:
        raise ApiError(str(error), code="invalid_value", param=param) from error
