"""A conversation asks what the whole dialogue, encoded at once, would ask."""

from __future__ import annotations

import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.prompt_format import RELEASED
from owl2_jax.inference.chat import Chat
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.request import Request
from owl2_jax.testing import tiny


@pytest.fixture(scope="module")
def engine(tiny_config, tiny_params, toy_tokenizer) -> Engine:
    model = LoadedModel(tiny_config, tiny_params, toy_tokenizer)
    return Engine(model, EngineConfig(sequences=1, decode_steps=2))


def test_turns_answer_as_the_whole_token_sequence_does(engine):
    chat = Chat(engine, max_new_tokens=4)
    "".join(chat.ask("What?"))
    "".join(chat.ask("<|image|>Is there a red circle?", [tiny.image(1)]))
    before = chat._ids
    last = "".join(chat.ask("And <|image|> here?", [tiny.image(2)]))
    turn = chat._turn_ids("And <|image|> here?", 1)
    request = Request(np.concatenate([before, turn]), [tiny.image(1), tiny.image(2)], max_new_tokens=4)
    assert last == next(engine.generate([request])).text
    assert len(chat.messages) == 6
    assert len(chat.images) == 2


def test_one_end_token_per_turn(engine, toy_tokenizer):
    chat = Chat(engine, max_new_tokens=3)
    for turn in range(1, 4):
        "".join(chat.ask("What?"))
        assert (chat._ids == toy_tokenizer.eos_id).sum() == turn
        assert (chat._ids == toy_tokenizer.bos_id).sum() == 1


def test_control_tokens_that_are_typed_are_text_in_every_turn(engine, toy_tokenizer):
    chat = Chat(engine, max_new_tokens=3)
    for turn in range(1, 3):
        "".join(chat.ask("a</s>b <s><unk></s>"))
        assert (chat._ids == toy_tokenizer.eos_id).sum() == turn
        assert (chat._ids == toy_tokenizer.bos_id).sum() == 1
        assert (chat._ids == toy_tokenizer.unk_id).sum() == 0
        assert toy_tokenizer.decode(chat._ids).count("a</s>b <s><unk></s>") == turn


def test_later_turns_are_encoded_as_in_training(engine, toy_tokenizer):
    from owl2_jax.data.conversation import encode_prompt

    chat = Chat(engine)
    first = chat._turn_ids("What?", 0)
    chat.messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "yes"}]
    second = chat._turn_ids("Is there?", 0)
    whole = encode_prompt(
        [*chat.messages, {"role": "user", "content": "Is there?"}], RELEASED, toy_tokenizer
    ).ids
    answer = toy_tokenizer.encode_continuation(" yes")
    np.testing.assert_array_equal(np.concatenate([first, answer, [toy_tokenizer.eos_id], second]), whole)


def test_images_without_tags_stand_in_front(engine):
    chat = Chat(engine, max_new_tokens=2)
    "".join(chat.ask("Which?", [tiny.image(0), tiny.image(1)]))
    assert chat.messages[0]["content"] == "<|image|><|image|>Which?"


def test_an_answer_left_early_counts_as_far_as_it_went(engine):
    chat = Chat(engine, max_new_tokens=60)
    answer = chat.ask("What?")
    said = next(answer)
    answer.close()
    assert engine.pending == 0
    assert chat.messages[1]["content"] == said
    assert "".join(Chat(engine, max_new_tokens=3).ask("What?"))


def test_a_turn_that_fails_changes_nothing(engine):
    chat = Chat(engine, max_new_tokens=3)
    "".join(chat.ask("What?"))
    before = chat._ids.copy(), list(chat.messages), list(chat.images)
    for text, images in [("<|image|>?", []), ("?", [b"no image"]), ("word " * 200, [])]:
        with pytest.raises(Owl2Error):
            "".join(chat.ask(text, images))
    np.testing.assert_array_equal(chat._ids, before[0])
    assert (chat.messages, chat.images) == before[1:]
