"""Questions through the real engine with the tiny model."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.prompt_format import PromptFormat
from owl2_jax.data.images import ImageError
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals.asking import EngineModel
from owl2_jax.evals.base import Decoding, Question
from owl2_jax.evals.registry import get_benchmark
from owl2_jax.evals.runner import evaluate
from owl2_jax.evals.text import ARC, MMLU
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.inputs import prompt_ids
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.request import Request

VQA = PROMPTS["vqa"]


@pytest.fixture(scope="module")
def engine(tiny_config, tiny_params, toy_tokenizer):
    return Engine(LoadedModel(tiny_config, tiny_params, toy_tokenizer), EngineConfig(sequences=4))


def ask(engine, questions, **decoding):
    return list(EngineModel(engine).replies(questions, Decoding(**decoding), "resize"))


def image_question(name, image, text="<|image|>What?"):
    return Question(name, text, VQA.hash, "", (image,))


def test_generated_and_chosen_answers_come_back_in_order(engine, image_bytes):
    questions = [
        image_question("a", image_bytes("red")),
        Question("b", "Answer:", VQA.hash, "A", options=(" a", " b")),
        image_question("c", image_bytes("blue")),
        Question("d", "Answer:", VQA.hash, "A", options=(" b", " a")),
    ]
    replies = ask(engine, questions, max_new_tokens=4)
    assert [bool(reply.option_logprobs) for reply in replies] == [False, True, False, True]
    assert {replies[1].text, replies[3].text} == {"A", "B"}
    assert replies[1].option_logprobs == pytest.approx(replies[3].option_logprobs[::-1])
    request = Request("<|image|>What?", images=[image_bytes("blue")], max_new_tokens=4, min_new_tokens=1,
                      image_mode="resize")  # fmt: skip
    assert replies[2].text == next(iter(engine.generate([request]))).text.strip()


def test_a_message_goes_into_the_checkpoints_template(engine, image_bytes):
    plain = image_question("a", image_bytes("red"), "USER: <|image|>What? ASSISTANT:")
    message = Question("b", "<|image|>What?", VQA.hash, "", (image_bytes("red"),), is_message=True)
    replies = ask(engine, [plain, message], max_new_tokens=6)
    assert replies[0].text == replies[1].text


def test_a_checkpoint_with_another_image_tag_is_asked_in_its_own(
    engine, tiny_config, tiny_params, toy_tokenizer, image_bytes
):
    other = Engine(
        LoadedModel(tiny_config, tiny_params, toy_tokenizer, PromptFormat(image_tag="<image>")),
        EngineConfig(sequences=4),
    )
    question = image_question("a", image_bytes("red"))
    assert (
        ask(other, [question], max_new_tokens=4)[0].text == ask(engine, [question], max_new_tokens=4)[0].text
    )


def test_lazy_images_are_read_when_asked(engine, image_bytes):
    class Frame:
        def read(self):
            return image_bytes("red")

    lazy = ask(engine, [image_question("a", Frame())], max_new_tokens=4)
    ready = ask(engine, [image_question("a", image_bytes("red"))], max_new_tokens=4)
    assert lazy == ready


def test_worked_examples_are_left_out_until_the_prompt_fits(engine):
    long, short = "three of them " * 100 + "Answer:", "three of them Answer:"
    question = Question("a", long, VQA.hash, "A", options=(" a", " b"), shorter=(long, short))
    (reply,) = ask(engine, [question])
    assert reply.prompt == short
    too_long = Question("b", long, VQA.hash, "A", options=(" a",), shorter=(long,))
    replies = ask(engine, [question, too_long, question])
    assert [one.prompt for one in (replies[0], replies[2])] == [short, short]
    assert "does not fit into the model's 128 positions" in str(replies[1])


def test_a_image_that_cannot_be_read_fails_its_own_question_alone(engine, image_bytes, tmp_path):
    good = [image_question(name, image_bytes(color)) for name, color in (("a", "red"), ("b", "blue"))]
    damaged = image_question("c", image_bytes("red")[:40])
    missing = image_question("d", tmp_path / "no.png")
    tags = image_question("e", image_bytes("red"), "<|image|><|image|>What?")
    replies = ask(engine, [damaged, good[0], missing, tags, good[1], damaged], max_new_tokens=4)
    assert [isinstance(reply, Owl2Error) for reply in replies] == [True, False, True, True, False, True]
    assert [replies[1], replies[4]] == ask(engine, good, max_new_tokens=4)
    assert "the image of question c" in str(replies[0])
    assert isinstance(replies[2], ImageError)
    assert "no.png" in str(replies[2])
    assert "2 image tags" in str(replies[3])


def test_options_behind_a_image_that_cannot_be_read_fail_alone(engine, image_bytes):
    def question(name, image):
        return Question(name, "<|image|>What?", VQA.hash, "A", (image,), options=(" a", " b"))

    replies = ask(engine, [question("a", b"no image"), question("b", image_bytes("red"))])
    assert isinstance(replies[0], Owl2Error)
    assert replies[1].text in ("A", "B")


def test_the_text_only_sets_run_on_the_tiny_model(engine, folder, tmp_path):
    rows = "What shape?,a,b,c,d,C\nHow many?,a,b,c,d,A\n"
    for split in ("dev", "test"):
        folder.text(f"mmlu/data/{split}/shapes_{split}.csv", rows)
    choices = [{"text": "circle", "label": "A"}, {"text": "no", "label": "B"}]
    row = {"id": "one", "question": {"stem": "What shape?", "choices": choices}, "answerKey": "B"}
    folder.lines("arc/ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-Test.jsonl", [row])
    for name, benchmark, count in [("mmlu", MMLU(), 2), ("arc_easy", ARC("Easy", 79.9), 1)]:
        score = evaluate(
            name,
            benchmark,
            lambda: EngineModel(engine),
            checkpoint="tiny",
            root=folder.root,
            out=tmp_path / "out",
        )
        assert score.questions == count
        assert 0 <= score.value <= 100


def test_an_embedded_benchmark_runs_through_the_engine(engine, tmp_path):
    score = evaluate(
        "drawn_color",
        get_benchmark("drawn_color"),
        lambda: EngineModel(engine),
        checkpoint="tiny",
        root=tmp_path,
        out=tmp_path,
        limit=12,
    )
    assert score.questions == 12
    assert score.baselines["majority"] == pytest.approx(18.9, abs=0.1)


def test_control_tokens_in_a_published_prompt_are_ids_as_in_the_released_evaluation(engine, monkeypatch):
    question = Question("a", "USER: a ASSISTANT: b</s>USER: <s> ASSISTANT: ", VQA.hash, "")
    asked, answers = [], engine.answers

    def watched(requests):
        for request in requests:
            asked.append(request)
            yield from answers([request])

    monkeypatch.setattr(engine, "answers", watched)
    assert len(ask(engine, [question], max_new_tokens=1)) == 1
    ids = prompt_ids(asked[0], engine.model).tolist()
    assert ids == engine.model.tokenizer.encode(question.prompt, bos=True)
    assert engine.model.tokenizer.eos_id in ids
