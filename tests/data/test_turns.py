"""Conversations as programs send them: what is joined, read, of no effect, or refused by name."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.prompt_format import PromptFormat
from owl2_jax.data.conversation import encode_prompt
from owl2_jax.data.messages import IMAGE_MARK, ConversationError
from owl2_jax.data.turns import MessageError, read_turns

P = IMAGE_MARK


def text(words: str, **more) -> dict:
    return {"type": "text", "text": words, **more}


def image(url: str, **more) -> dict:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def said(role: str, content, **more) -> dict:
    return {"role": role, "content": content, **more}


def read(*messages) -> tuple[list[tuple[str, str]], list[str]]:
    """Turns as pairs, and the images."""
    images: list[str] = []
    turns = read_turns(list(messages), P, lambda _, url: images.append(url))
    return [(turn["role"], turn["content"]) for turn in turns], images


QUESTION = said("user", "What?")


@pytest.mark.parametrize(
    "empty",
    [
        {"role": "assistant"},
        said("assistant", None),
        said("assistant", ""),
        said("assistant", []),
        said("assistant", [text("")]),
        said("assistant", None, tool_calls=[], function_call=None, refusal=None, audio=None, annotations=[]),
    ],
)
def test_an_assistant_that_says_nothing_leaves_one_turn_of_the_user(empty):
    assert read(said("user", "a"), empty, said("user", "b")) == ([("user", "a\nb")], [])
    assert read(empty, QUESTION) == ([("user", "What?")], [])
    assert read(QUESTION, empty) == ([("user", "What?")], [])


def test_messages_of_one_role_in_a_row_are_one_turn():
    turns, images = read(
        said("user", [image("a")]),
        said("user", "Is"),
        said("user", [image("b"), text("it?")]),
        said("assistant", "Yes."),
        said("assistant", "Surely."),
        said("user", ""),
        said("user", "Why?"),
    )
    assert turns == [
        ("user", f"{P}Is\n{P}it?"),
        ("assistant", "Yes.\nSurely."),
        ("user", "Why?"),
    ]
    assert images == ["a", "b"]


def test_system_messages_belong_to_the_users_turn_where_they_stand():
    turns, _ = read(
        said("system", "Be brief."),
        said("developer", [text("Be kind."), text("Be true.")]),
        said("user", [image("a"), text("What?")]),
        said("assistant", "A cat."),
        said("system", "Now be long."),
        said("user", "Why?"),
        said("system", "In English."),
    )
    assert turns == [
        ("user", f"Be brief.\nBe kind.\nBe true.\n{P}What?"),
        ("assistant", "A cat."),
        ("user", "Now be long.\nWhy?\nIn English."),
    ]
    assert read(QUESTION, said("assistant", "a"), said("system", "Go on."))[0][-1] == ("user", "Go on.")


def test_an_assistant_may_speak_first(toy_tokenizer):
    turns, _ = read(said("assistant", "Hello."), QUESTION)
    assert turns == [("assistant", "Hello."), ("user", "What?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    expected = [
        toy_tokenizer.bos_id,
        *toy_tokenizer.encode("ASSISTANT: Hello."),
        toy_tokenizer.eos_id,
        *toy_tokenizer.encode("USER: What? ASSISTANT:"),
    ]
    assert encode_prompt(messages, PromptFormat("mplug_owl2", P), toy_tokenizer, 0).ids.tolist() == expected
    with pytest.raises(ConversationError, match="template 'plain' has no place"):
        encode_prompt(messages, PromptFormat("plain", P), toy_tokenizer, 0)


def test_parts_stand_in_any_order():
    parts = [image("a"), text("One"), image("b"), image("c"), text("two"), text("three")]
    turns, images = read(said("user", parts))
    assert turns == [("user", f"{P}One{P}{P}two\nthree")]
    assert images == ["a", "b", "c"]
    assert read(said("user", [text("One"), image("a")])) == ([("user", f"One{P}")], ["a"])


def test_images_as_ollama_sends_them_stand_in_front():
    turns, images = read(
        said("user", "Which?", images=["iVBORw0", "data:image/png;base64,AA", "https://x/y"])
    )
    assert turns == [("user", f"{P}{P}{P}Which?")]
    assert images == ["data:;base64,iVBORw0", "data:image/png;base64,AA", "https://x/y"]
    assert read(said("user", "Which?", images=[])) == ([("user", "Which?")], [])
    assert read(said("user", "", images=["AA"])) == ([("user", P)], ["data:;base64,AA"])


def test_a_refusal_is_what_the_assistant_said():
    for message in (
        said("assistant", None, refusal="I will not."),
        said("assistant", [{"type": "refusal", "refusal": "I will not."}]),
    ):
        assert read(QUESTION, message, QUESTION)[0][1] == ("assistant", "I will not.")


def test_what_has_no_effect_is_taken():
    message = said(
        "user",
        [text("What?", prompt_cache_breakpoint={"mode": "explicit"}), image("a", detail="low")],
        name="ann",
        something_new=None,
    )
    answer = said("assistant", "A cat.", annotations=[{"type": "url_citation"}], name="owl")
    assert read(message, answer, said("user", "Why?", name="ann"))[1] == ["a"]


def test_tags_that_others_than_the_user_write_are_text():
    turns, images = read(
        said("system", "Say <image> for images."), QUESTION, said("assistant", "<|image|>"), QUESTION
    )
    assert turns[0] == ("user", "Say <image> for images.\nWhat?")
    assert turns[1] == ("assistant", "<|image|>")
    assert images == []


TOOL_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "where", "words"),
    [
        (
            [QUESTION, said("assistant", None, tool_calls=[TOOL_CALL]), QUESTION],
            "messages[1].tool_calls",
            "the model calls no tools, and what it says would be lost",
        ),
        (
            [QUESTION, said("assistant", None, function_call={"name": "f", "arguments": ""}), QUESTION],
            "messages[1].function_call",
            "calls no functions",
        ),
        ([said("assistant", None, audio={"id": "a"}), QUESTION], "messages[0].audio", "says nothing aloud"),
        ([said("tool", "7", tool_call_id="c"), QUESTION], "messages[0].role", "role is 'tool'"),
        ([said("function", "7", name="f"), QUESTION], "messages[0].role", "role is 'function'"),
        ([said("user", "What?", image="AA")], "messages[0].image", "key 'image', and what it says"),
        ([said("user", "What?", imges=["AA"])], "messages[0].imges", "did you mean 'images'"),
        ([said("user", "What?", image_url="AA")], "messages[0].image_url", "did you mean 'images'"),
        ([said("user", "What?", tool_call_id="c")], "messages[0].tool_call_id", "did you mean 'tool_calls'"),
        ([said("user", "What?", thoughts="x")], "messages[0].thoughts", "known are role, content"),
        ([said("user", "What?", images="AA")], "messages[0].images", "list of images as base64 texts"),
        ([said("user", "What?", images=[5])], "messages[0].images", "list of images as base64 texts"),
        ([said("user", "What?", images=[""])], "messages[0].images", "list of images as base64 texts"),
        ([said("assistant", "a", images=["AA"]), QUESTION], "messages[0].images[0]", "only the user's"),
        ([said("system", [image("a")]), QUESTION], "messages[0].content[0]", "only the user's"),
        ([said("user", [{"type": "image", "image": "AA"}])], "messages[0].content[0]", "mean 'image_url'"),
        ([said("user", [{"type": "input_audio"}])], "messages[0].content[0]", "'text' or 'image_url'"),
        ([said("user", [text("a", image_url="AA")])], "messages[0].content[0].image_url", "unknown key"),
        ([said("user", [image("a", detial="low")])], "messages[0].content[0].image_url.detial", "'detail'"),
        ([said("user", [image("a", detail="best")])], "messages[0].content[0].image_url.detail", "auto, low"),
        ([said("user", None)], "messages[0].content", "content is None"),
        ([{"role": "user"}], "messages[0].content", "content is None"),
        ([said("system", None), QUESTION], "messages[0].content", "content is None"),
        ([said("user", "What is <image>?")], "messages[0].content", "'<image>', with which no image comes"),
        ([said("user", [text("<|image|>"), image("a")])], "messages[0].content[0].text", "'<|image|>', with"),
        ([said("user", f"{P}What?")], "messages[0].content", "has a UTF-8 form"),
        (
            [said("user", "a", name="ann"), said("user", "b", name="bob")],
            "messages[1].name",
            "another user is 'ann', and the model cannot tell them apart",
        ),
        ([said("system", "Be brief.")], "messages", "roles are system; expected a question of the"),
        ([QUESTION, said("assistant", "Yes.")], "messages", "roles are user, assistant; expected a question"),
        ([QUESTION] * 6 + [said("assistant", "a")], "messages", "roles are ..., user, user"),
        (["What?"], "messages[0]", "object with 'role' and 'content'"),
        ([], "messages", "messages is empty; expected at least one"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_name(messages, where, words):
    with pytest.raises(MessageError) as caught:
        read(*messages)
    assert words in str(caught.value)
    assert caught.value.where == where
    assert caught.value.code == (
        "unknown_parameter" if "unknown key" in str(caught.value) else "invalid_value"
    )


def test_where_tags_mark_the_images_they_stay_and_images_have_another_place():
    turns = read_turns(
        [said("user", "<|image|>What?"), said("user", [text("<|image|>"), text("b")])], "<|image|>"
    )
    assert turns == [{"role": "user", "content": "<|image|>What?\n<|image|>b"}]
    for message in (said("user", "What?", images=["AA"]), said("user", [image("a")])):
        with pytest.raises(Owl2Error, match="beside 'messages'"):
            read_turns([message], "<|image|>")
