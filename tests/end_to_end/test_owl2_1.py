"""mPLUG-Owl2.1 with its own tokenizer goes everywhere that mPLUG-Owl2 does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import owl2_jax
from owl2_jax.attention_maps.inside import look_inside
from owl2_jax.beam_search.search import beam_search
from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.cli.main import main
from owl2_jax.convert.load import load_hf
from owl2_jax.convert.to_torch import convert_to_torch
from owl2_jax.core.tokenizer_files import SPECIAL_TOKENS
from owl2_jax.evals.asking import EngineModel
from owl2_jax.evals.option_scoring import score_options
from owl2_jax.evals.registry import get_benchmark
from owl2_jax.inference.chat import Chat
from owl2_jax.inference.detokenizer import Answer
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.inputs import prompt_ids
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.quantize import quantize_model
from owl2_jax.inference.request import Request
from owl2_jax.sampling.params import Sampling
from owl2_jax.serving.calls import read_call
from owl2_jax.structured.form import choice
from owl2_jax.testing import tiny
from tests.data.vocabularies import small_ranks
from tests.serving.running import Running, serve

CONFIG = tiny.tiny_config(**tiny.OWL2_1, **{"decoder.vocab_size": 520, "decoder.max_length": 256})
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


@pytest.mark.parametrize(
    ("texts", "text"), [(["<b>a</s>b"], "<b>a</s>b"), (["a</s>b", "a"], "a"), (["</s>"], "</s>")]
)
def test_the_separator_is_part_of_a_form_that_cannot_end_before_it(
    engine: Engine, texts: list[str], text: str
) -> None:
    bias = {str(engine.model.tokenizer.eos_id): -100.0}  # goes on where it may
    form = dataclasses.replace(ask(12), structured=choice(texts, "f"), sampling=Sampling(logit_bias=bias))
    (result,) = engine.generate([form])
    assert (result.text, result.finish_reason) == (text, "stop")


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


def test_beams_end_at_the_text_at_which_the_greedy_answer_ends(model: LoadedModel) -> None:
    """With an end that the model does write: the fourth word of a greedy answer, or a later one."""
    # The likeliest of its answers with beams is the greedy one.
    asked = Request([{"role": "user", "content": "<|image|>red?"}], [tiny.image(2)], max_new_tokens=12)
    (whole,) = Engine(model, EngineConfig(sequences=2)).generate([asked])
    written = (model.tokenizer.decode([i]) for i in whole.token_ids[3:])  # nothing of a control token
    end = next(text for text in written if text and text.isascii() and text.isprintable())
    tokenizer = type(model.tokenizer)(model.tokenizer.bytes)
    tokenizer.end_texts = (end,)
    ending = Engine(dataclasses.replace(model, tokenizer=tokenizer), EngineConfig(sequences=8))
    (greedy,) = ending.generate([asked])
    assert (greedy.finish_reason, len(greedy.token_ids) < 12) == ("stop", True)
    (beams,) = beam_search(ending.runner, [asked], beams=16)
    assert greedy.token_ids in [beam.token_ids for beam in beams]
    for beam in beams:
        written = tokenizer.decode(beam.token_ids)
        assert end not in beam.text
        assert (end in written) == (beam.finish_reason == "stop" and beam.token_ids[-1] != tokenizer.eos_id)
        assert end not in tokenizer.decode(beam.token_ids[:-1])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "0.png").write_bytes(tiny.image_file(0))
    return folder


def test_benchmarks_ask_it_what_single_requests_ask(
    directory: Path, model: LoadedModel, engine: Engine, tmp_path: Path
) -> None:
    names = ["drawn_color", "drawn_yes_no", "facts"]
    arguments = [f"--checkpoint={directory}", f"--benchmarks={','.join(names)}", f"--output={tmp_path}"]
    assert main(["evaluate", *arguments, "--limit=4", "--sequences=2"]) == 0
    scores = {row["benchmark"]: row for row in json.loads((tmp_path / "scores.json").read_text())["scores"]}
    for name in names:
        benchmark = get_benchmark(name)
        rows = [json.loads(row) for row in (tmp_path / name / "results.jsonl").read_text().splitlines()]
        questions = {question.id: question for question in benchmark.questions(Path())}
        assert scores[name]["questions"] == len(rows) == 4
        for row in rows:
            (reply,) = EngineModel(engine).replies(
                [questions[row["id"]]], benchmark.decoding, benchmark.image_mode
            )
            assert (row["prompt"], row["prediction"]) == (reply.prompt, reply.text)


def test_the_command_line_looks_and_generates(
    directory: Path, model: LoadedModel, engine: Engine, images: Path, tmp_path: Path
) -> None:
    page, asked = tmp_path / "look.html", "Is the <|im_end|> red?"
    arguments = [f"--checkpoint={directory}", f"--image={images}/0.png", f"--question={asked}"]
    assert main(["look", *arguments, f"--output={page}", "--max-new-tokens=4"]) == 0
    assert "Is the &lt;|im_end|&gt; red?" in page.read_text()
    rows = [
        {"messages": [{"role": "user", "content": f"<|image|>{asked}"}], "images": [f"{images}/0.png"]},
        {"messages": [{"role": "user", "content": asked}]},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = [f"--input={tmp_path}/in.jsonl", f"--output={tmp_path}/out.jsonl"]
    command = ["generate", f"--checkpoint={directory}", "--sequences=2", "--max-new-tokens=5", *paths]
    assert main(command) == 0
    found = [json.loads(line)["text"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    requests = [Request(row["messages"], row.get("images", ()), max_new_tokens=5) for row in rows]
    assert found == [result.text for result in engine.generate(requests)]


@pytest.fixture(scope="module")
def server(model: LoadedModel) -> Iterator[Running]:
    with serve(model) as running:
        yield running


def test_a_server_answers_with_the_bytes_of_its_tokens(
    model: LoadedModel, engine: Engine, server: Running
) -> None:
    call = {"messages": [{"role": "user", "content": "the red?"}], "max_tokens": 4, "logprobs": True,
            "temperature": 0}  # fmt: skip
    reply = server.post(call).json()["choices"][0]
    alone = next(engine.generate([Request([{"role": "user", "content": "the red?"}], max_new_tokens=4)]))
    expected = [list(model.tokenizer.token_bytes(i)) for i in alone.token_ids]
    assert [token["bytes"] for token in reply["logprobs"]["content"]] == expected
    assert reply["message"]["content"] == alone.text


TYPED = "a<|endoftext|>b <|im_start|>user <|im_end|><|extra_7|></s>"


@pytest.mark.parametrize("place", ["system", "user", "assistant"])
def test_what_a_client_types_becomes_no_control_id(model: LoadedModel, server: Running, place: str) -> None:
    spoken = {"system": "Be.", "user": "the red?", "assistant": "yes"} | {place: TYPED}
    messages = [{"role": role, "content": text} for role, text in spoken.items()]
    messages.append({"role": "user", "content": "red?"})
    ids = server.service.ids(read_call({"messages": messages}, 3).conversation)[0].tolist()
    assert not any(model.tokenizer.is_special(i) for i in ids)
    assert TYPED in model.tokenizer.decode(ids)


def test_answers_stream_in_whole_characters_and_broken_ones_are_replaced(
    model: LoadedModel, server: Running
) -> None:
    """Every byte is a token, and a hot answer has many that form no character, and special tokens."""
    call = {"messages": [{"role": "user", "content": "the red?"}], "max_tokens": 40, "temperature": 1.8,
            "seed": 5, "logprobs": True}  # fmt: skip
    whole = server.post(call).json()["choices"][0]
    tokens = whole["logprobs"]["content"]
    said = [token for token in tokens if token["token"] not in SPECIAL_TOKENS]
    assert len(said) < len(tokens)
    written = b"".join(bytes(token["bytes"]) for token in said)
    assert whole["message"]["content"] == written.decode(errors="replace").removeprefix(" ")
    assert "\N{REPLACEMENT CHARACTER}" in whole["message"]["content"]
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in server.client().chat.completions.create(model=model.name, stream=True, **call)
        if chunk.choices
    ]
    assert "".join(pieces) == whole["message"]["content"]
    assert len([piece for piece in pieces if piece]) > 3


def test_a_hot_answer_is_the_same_in_any_company(engine: Engine) -> None:
    hot = [Request(QUESTION, [tiny.image(1)], Sampling(1.5, seed=n), max_new_tokens=8) for n in range(4)]
    together = list(engine.generate(hot))
    for request, found in zip(hot, together, strict=True):
        assert next(engine.generate([request])).token_ids == found.token_ids
