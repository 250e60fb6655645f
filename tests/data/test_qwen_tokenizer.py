"""The ids of the original tokenizer, string by string, and what is built on them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from owl2_jax.core.axes import IGNORE_LABEL, IMAGE_TOKEN
from owl2_jax.core.prompt_format import PromptFormat
from owl2_jax.data.conversation import encode_dialogue, encode_prompt, encode_text
from owl2_jax.data.qwen_tokenizer import QwenTokenizer
from owl2_jax.data.templates import render
from owl2_jax.data.tokenizer import TokenizerError
from tests.data.vocabularies import qwen_file, small_ranks

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "text" / "qwen.json").read_text())
DIALOGUE = [
    {"role": "user", "content": "<|image|>Is it red?"},
    {"role": "assistant", "content": "It is."},
    {"role": "user", "content": "And the <|im_end|> other?"},
    {"role": "assistant", "content": "图片 no…"},
]


@pytest.fixture(scope="module")
def qwen() -> QwenTokenizer:
    return QwenTokenizer(qwen_file().read_bytes())


@pytest.fixture(scope="module")
def small() -> QwenTokenizer:
    return QwenTokenizer(small_ranks())


def test_every_string_has_the_original_ids(qwen: QwenTokenizer) -> None:
    for case in GOLDEN["encode"]:
        assert qwen.encode(case["text"]) == case["ids"], case["text"]
        assert qwen.encode(case["text"], control_tokens=False) == case["ids_no_special"], case["text"]


def test_every_way_back_is_the_original_one_also_token_by_token(qwen: QwenTokenizer) -> None:
    for case in GOLDEN["decode"]:
        ids = case["ids"]
        assert qwen.decode(ids, skip_special=False) == case["text"]
        stream = qwen.stream()
        streamed = "".join(stream.feed(i) for i in ids) + stream.finish()
        assert streamed == qwen.decode_answer(ids)


def test_sizes_and_special_tokens_are_those_of_the_release(qwen: QwenTokenizer) -> None:
    assert len(qwen) == qwen.vocab_size == 151_643 + 208
    assert qwen.eos_id == 151_643
    assert [qwen.piece(i) for i in (151_643, 151_645, 151_646, 151_850)] == [
        "<|endoftext|>", "<|im_end|>", "<|extra_0|>", "<|extra_204|>",
    ]  # fmt: skip
    qwen.require_size(151_936)
    with pytest.raises(TokenizerError, match="151851 pieces, the model only 32000"):
        qwen.require_size(32_000)
    assert pickle.loads(pickle.dumps(qwen)).encode("red") == qwen.encode("red")


def test_typed_special_tokens_are_text_unless_asked_for(small: QwenTokenizer) -> None:
    text = "a<|im_end|> <|endoftext|>"
    plain = small.encode(text, control_tokens=False)
    assert not any(small.is_special(i) for i in plain)
    assert small.decode(plain) == text
    assert sum(small.is_special(i) for i in small.encode(text)) == 2
    assert small.control_tokens(text) == ["<|im_end|>", "<|endoftext|>"]
    prompt = encode_prompt(DIALOGUE[:3], PromptFormat("mplug_owl2"), small)
    assert not any(small.is_special(i) for i in prompt.ids)


def test_a_character_in_pieces_comes_out_when_it_is_whole(small: QwenTokenizer) -> None:
    ids = small.encode(" ▁x")
    assert len(ids) > 3
    stream = small.stream()
    shown = [stream.feed(i) for i in ids]
    assert "".join(shown) == "▁x"
    assert "" in shown[:-1]


def test_broken_bytes_are_replaced_as_the_original_does(small: QwenTokenizer) -> None:
    ids = [*b"a\xe2\x96b\xff"]
    assert small.decode(ids) == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    stream = small.stream()
    assert stream.feed(ids[:3]) == "a"
    assert stream.feed(ids[3:]) + stream.finish() == "\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"
    assert small.piece(small.encode("▁")[0]) == "<0xE2><0x96>"


def test_prompts_are_the_rendered_text_cut_at_images_and_nowhere_else(qwen: QwenTokenizer) -> None:
    """A word may reach over the end of a turn, as `</s>` is text."""
    for messages in (DIALOGUE[:1], DIALOGUE[:3]):
        text = render(messages, PromptFormat("mplug_owl2"))
        first, rest = text.split("<|image|>")
        expected = [*qwen.encode(first), IMAGE_TOKEN, *qwen.encode(rest, control_tokens=False)]
        np.testing.assert_array_equal(encode_prompt(messages, PromptFormat("mplug_owl2"), qwen).ids, expected)
        np.testing.assert_array_equal(encode_text(text, qwen), expected)


def test_answers_and_their_ends_are_learnt(qwen: QwenTokenizer) -> None:
    encoded = encode_dialogue(DIALOGUE, PromptFormat("mplug_owl2"), qwen)
    learnt = [int(i) for i, label in zip(encoded.ids, encoded.labels, strict=True) if label != IGNORE_LABEL]
    assert qwen.decode(learnt) == " It is.</s> 图片 no…</s>"
    np.testing.assert_array_equal(encoded.ids[encoded.labels != IGNORE_LABEL], learnt)
    prompt = encode_prompt(DIALOGUE[:3], PromptFormat("mplug_owl2"), qwen)
    np.testing.assert_array_equal(encoded.ids[: len(prompt.ids)], prompt.ids)


def test_a_caption_follows_its_image_at_once(qwen: QwenTokenizer) -> None:
    messages = [{"role": "user", "content": "<|image|>"}, {"role": "assistant", "content": "a dog"}]
    encoded = encode_dialogue(messages, PromptFormat("plain"), qwen)
    assert encoded.ids[0] == IMAGE_TOKEN
    assert qwen.decode(encoded.labels[1:]) == "a dog "


def test_a_turn_of_a_history_ends_in_the_separator(qwen: QwenTokenizer) -> None:
    assert qwen.decode(qwen.answered([], "yes")) == " yes</s>"
    assert qwen.encode_continuation(" yes") == qwen.encode(" yes")


def test_text_is_normalised_and_half_characters_are_refused(qwen: QwenTokenizer) -> None:
    assert qwen.encode("e\u0301") == qwen.encode("é")
    with pytest.raises(TokenizerError, match="UTF-8 form"):
        qwen.encode("a\ud800")
    with pytest.raises(TokenizerError, match="outside the vocabulary 0"):
        qwen.decode([151_851])
