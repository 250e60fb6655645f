"""Messages of the API to the engine's: images stay where they stand, settings have OpenAI's defaults."""

from __future__ import annotations

import pytest

from owl2_jax.data.messages import IMAGE_MARK
from owl2_jax.serving.calls import read_call
from owl2_jax.serving.errors import ApiError

TAG = IMAGE_MARK


def image(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def read(messages=None, **settings):
    messages = [{"role": "user", "content": "What?"}] if messages is None else messages
    return read_call({"messages": messages, **settings}, 3)


def test_images_stay_where_they_stand():
    call = read(
        [
            {"role": "user", "content": [image("a"), text("Is"), image("b"), text("it?"), text("Well?")]},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": [text("And"), image("c")]},
        ]
    )
    assert [message["content"] for message in call.conversation.messages] == [
        f"{TAG}Is{TAG}it?\nWell?",
        "Yes.",
        f"And{TAG}",
    ]
    assert call.conversation.images == ["a", "b", "c"]


def test_system_and_developer_messages_stand_before_the_first_question():
    call = read(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [text("Be kind.")]},
            {"role": "user", "content": "What?"},
        ]
    )
    assert call.conversation.messages == [{"role": "user", "content": "Be brief.\nBe kind.\nWhat?"}]


def test_defaults_are_those_of_openai_with_a_new_seed_each_time():
    first, second = read(), read()
    assert (first.sampling.temperature, first.sampling.top_p, first.sampling.top_k) == (1.0, 1.0, 0)
    assert first.sampling.seed != second.sampling.seed
    assert (first.max_new_tokens, first.stop, first.stream, first.logprobs) == (None, (), False, False)


def test_null_is_as_if_left_out():
    names = (
        "stop",
        "max_tokens",
        "stream",
        "seed",
        "temperature",
        "tools",
        "n",
        "stream_options",
        "logprobs",
    )
    assert read(**dict.fromkeys(names)).max_new_tokens is None


def test_settings_are_taken_over():
    call = read(
        temperature=0.5, top_p=0.9, top_k=7, seed=-1, stop="x", max_completion_tokens=9, min_tokens=2,
        logprobs=True, top_logprobs=4, stream=True, stream_options={"include_usage": True}, user="someone",
    )  # fmt: skip
    assert (call.sampling.temperature, call.sampling.top_p, call.sampling.top_k) == (0.5, 0.9, 7)
    assert call.sampling.seed == 2**63 - 1
    assert (call.stop, call.max_new_tokens, call.min_new_tokens) == (("x",), 9, 2)
    assert (call.top_logprobs, call.stream, call.include_usage) == (4, True, True)


def one(content, role="user") -> list:
    return [{"role": role, "content": content}]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "list of 1"),
        ("What?", "list of 1"),
        (["What?"], r"messages\[0\] is 'What\?'"),
        ([{"content": "What?"}], "role is None"),
        (one("What?", "tool"), "role is 'tool'"),
        (one("What?", ["user"]), "role is"),
        ([{"role": "user"}], "content is None"),
        (one(7), "content is 7"),
        (one([]), "content is"),
        (one([{"type": "audio"}]), "'text' or 'image_url'"),
        (one([{"type": "text"}]), r"\[0\].text is None"),
        (one([{"type": "image_url"}]), "object with 'url'"),
        (one([{"type": "image_url", "image_url": {"url": 3}}]), "object with 'url'"),
        (one(f"{TAG}What?"), "has a UTF-8 form"),
        (one("<|image|>What?"), r"holds the image tag '<\|image\|>'"),
        (one("<image>What?"), "holds the image tag"),
        (one("Yes.", "assistant"), "roles are assistant"),
        (one("Be brief.", "system"), "roles are system"),
        (one("a") + one("b", "assistant"), "roles are user, assistant"),
        (one("a") + one([image("x")], "assistant") + one("c"), "only the user"),
        (one([image("x")] * 4), "4 images; expected at most 3"),
    ],
)
def test_bad_messages_are_named(messages, words):
    with pytest.raises(ApiError, match=words) as caught:
        read(messages)
    assert caught.value.status == 400
    assert caught.value.param.startswith("messages")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temprature", 1, "did you mean 'temperature'"),
        ("temperature", 2.1, "from 0 to 2"),
        ("temperature", "hot", "from 0 to 2"),
        ("temperature", True, "from 0 to 2"),
        ("top_p", -0.1, "from 0 to 1"),
        ("max_tokens", 0, "from 1, or null for as many as there is room for"),
        ("max_tokens", -1, "from 1, or null"),
        ("max_completion_tokens", 0, "from 1"),
        ("max_completion_tokens", True, "whole number"),
        ("top_k", -2, "from -1"),
        ("audio", {"voice": "alloy", "format": "mp3"}, "nothing but null"),
        ("web_search_options", {}, "nothing but null"),
        ("moderation", {"model": "omni-moderation-latest"}, "nothing but null"),
        ("modalities", ["text", "audio"], "nothing but"),
        ("tool_choice", "required", "nothing but"),
        ("functions", [{"name": "f"}], "nothing but"),
        ("max_tokens", 1.5, "whole number"),
        ("n", 9, "from 1 to 8"),
        ("n", 0, "from 1 to 8"),
        ("seed", 2**63, "whole number"),
        ("stop", ["a"] * 5, "at most 4"),
        ("stop", [""], "1 to 256"),
        ("stop", 3, "list of at most 4"),
        ("stream", "yes", "true or false"),
        ("logprobs", 5, "true or false"),
        ("top_logprobs", 3, "needs 'logprobs'"),
        ("stream_options", {"include_usage": True}, "needs 'stream'"),
        ("stream_options", 3, "include_usage"),
        ("stream_options", {"include_usage": 1}, "stream_options.include_usage is 1"),
        ("stream_options", {"includ_usage": True}, "did you mean 'stream_options.include_usage'"),
        ("tools", [{"type": "function"}], "nothing but"),
        ("model", 5, "expected a text"),
    ],
)
def test_bad_settings_are_named(name, value, words):
    with pytest.raises(ApiError, match=words) as caught:
        read(**{name: value})
    assert caught.value.param.startswith(name)
    assert caught.value.status == 400


def test_two_lengths_that_differ_are_refused():
    assert read(max_tokens=3, max_completion_tokens=3).max_new_tokens == 3
    with pytest.raises(ApiError, match="is 3 and max_completion_tokens 4; they differ"):
        read(max_tokens=3, max_completion_tokens=4)


def test_lengths_of_any_size_are_read():
    assert read(max_tokens=10**30).max_new_tokens == 2**63 - 1
    assert read(max_completion_tokens=10**6).max_new_tokens == 10**6


def test_fields_without_effect_are_taken():
    call = read(
        reasoning_effort="high", verbosity="low", prediction={"type": "content", "content": "a"}, store=True,
        prompt_cache_retention="24h", prompt_cache_key="k", safety_identifier="s", service_tier="flex",
        metadata={"a": "b"}, parallel_tool_calls=False, modalities=["text"], tools=[], tool_choice="none",
        functions=[], function_call="auto", response_format={"type": "text"}, logit_bias={}, top_k=-1,
        presence_penalty=0.0, audio=None, web_search_options=None, something_new=None,
    )  # fmt: skip
    assert call.conversation == read().conversation
    assert call.sampling.top_k == 0


def test_numbers_of_tokens_may_be_asked_for_with_every_piece():
    call = read(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert (call.include_usage, call.usage_in_pieces) == (True, True)
    for options in ({"continuous_usage_stats": False}, {"continuous_usage_stats": None}, {}):
        call = read(stream=True, stream_options=options)
        assert (call.include_usage, call.usage_in_pieces) == (False, False)
    assert read(stream_options={"include_usage": False}).stream is False
