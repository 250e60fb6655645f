"""mPLUG-Owl2.1 with its own tokenizer goes everywhere that mPLUG-Owl2 does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import owl2_jax
from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.convert.load import load_hf
from owl2_jax.convert.to_torch import convert_to_torch
from owl2_jax.inference.attention_maps import look_inside
from owl2_jax.inference.beam import beam_search
from owl2_jax.inference.chat import Chat
from owl2_jax.inference.detokenizer import Answer
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.inputs import prompt_ids
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.quantize import quantize_model
from owl2_jax.inference.request import Request
from owl2_jax.inference.scoring import score_options
from owl2_jax.testing import tiny
from tests.data.vocabularies import small_ranks
from tests.serving.running import serve

CONFIG = tiny.tiny_config(**tiny.OWL2_1, **{"decoder.vocab_size": 520})
QUESTION = [{"role": "user", "content": "<|image|>the <|im_end|> red?"}]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("owl2_1") / "model"
    settings = model_json(CONFIG.to_dict(), tokenizer="qwen.tiktoken")
    write_model_directory(path, settings, tiny.tiny_params(CONFIG), small_ranks())
    return path


@pytest.fixture(scope="module")
def model(directory: Path) -> LoadedModel:
    return owl2_jax.load(directory)


@pytest.fixture(scope="module")
def engine(model: LoadedModel) -> Engine:
    return Engine(model, EngineConfig(sequences=2))


def ask(new_tokens: int = 6) -> Request:
    return Request(QUESTION, [tiny.image(1)], max_new_tokens=new_tokens)


def test_the_tokenizer_comes_along_to_the_released_format_and_back(
    directory: Path, model: LoadedModel, tmp_path: Path
) -> None:
    convert_to_torch(directory, tmp_path / "hf")
    loaded = load_hf(tmp_path / "hf")
    assert (loaded.config, loaded.tokenizer) == (model.config, small_ranks())
    assert loaded.model["tokenizer"] == "qwen.tiktoken"


def test_typed_special_tokens_reach_the_model_as_text(model: LoadedModel, engine: Engine) -> None:
    typed = next(engine.generate([ask()]))
    special = {i for i in range(520) if i < model.tokenizer.vocab_size and model.tokenizer.is_special(i)}
    assert not special & set(prompt_ids(ask(), model).tolist())
    assert typed.text == model.tokenizer.decode_answer(typed.token_ids)


def test_an_answer_ends_at_the_separator_which_is_text(model: LoadedModel) -> None:
    class Chosen:
        tokens = np.array(model.tokenizer.encode(" yes.</s> more"))
        logprobs = np.zeros(len(tokens))

    answer = Answer(Request("x"), model.tokenizer, 1)
    answer.extend(Chosen)
    assert (answer.result.text, answer.ended) == ("yes.", "stop")


def test_beams_options_and_chat_work(model: LoadedModel, engine: Engine) -> None:
    (greedy,) = engine.generate([ask()])
    ((best, *_),) = beam_search(engine.runner, [ask()], beams=2)
    assert sum(best.logprobs) >= sum(greedy.logprobs) - 1e-4 or len(best.token_ids) != len(greedy.token_ids)
    (scores,) = score_options(engine, [Request(QUESTION, [tiny.image(1)])], [["yes", "no", "the red"]])
    assert len(scores) == 3
    assert all(np.isfinite(scores))
    chat = Chat(engine, max_new_tokens=3)
    "".join(chat.ask("<|image|>the red?", [tiny.image(1)]))
    first = chat._ids
    "".join(chat.ask("And the other?"))
    np.testing.assert_array_equal(chat._ids[: len(first)], first)
    assert model.tokenizer.decode([i for i in first if i >= 0]).endswith("</s>")


def test_int8_answers_and_attention_can_be_looked_at(model: LoadedModel) -> None:
    (quantized,) = Engine(quantize_model(model), EngineConfig(sequences=1)).generate([ask()])
    assert len(quantized.token_ids) >= 1
    inside = look_inside(model, QUESTION, [tiny.image(1)], max_new_tokens=3)
    assert inside.row_error < 1e-4
    assert inside.image_mass.shape[0] == CONFIG.decoder.num_layers


def test_a_server_answers_with_the_bytes_of_its_tokens(model: LoadedModel, engine: Engine) -> None:
    with serve(model) as server:
        call = {"messages": [{"role": "user", "content": "the red?"}], "max_tokens": 4, "logprobs": True,
                "temperature": 0}  # fmt: skip
        reply = server.post(call).json()["choices"][0]
        alone = next(engine.generate([Request([{"role": "user", "content": "the red?"}], max_new_tokens=4)]))
        expected = [list(model.tokenizer.token_bytes(i)) for i in alone.token_ids]
        assert [token["bytes"] for token in reply["logprobs"]["content"]] == expected
        assert reply["message"]["content"] == alone.text
