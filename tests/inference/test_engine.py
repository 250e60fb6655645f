"""The engine: answers do not depend on company, few programs, images encoded once, errors beforehand."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import jax
import numpy as np
import pytest
from jax._src import monitoring

from owl2_jax.attention_maps.image_attention import encode_question, look
from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.inputs import matcher_of
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.program_sizes import page_bytes
from owl2_jax.inference.request import Request
from owl2_jax.sampling.params import Sampling
from owl2_jax.structured.form import choice, grammar, json_object, regex
from owl2_jax.structured.grammars import Grammars
from owl2_jax.testing import tiny


@pytest.fixture(scope="module")
def model(tiny_config, tiny_params, toy_tokenizer) -> LoadedModel:
    return LoadedModel(tiny_config, tiny_params, toy_tokenizer)


@pytest.fixture(scope="module")
def single(model) -> Engine:
    """Runs one request at a time."""
    return Engine(model, EngineConfig(sequences=1))


def shared(model, **changes) -> Engine:
    """Four at a time; of one size everywhere, so that the tests share compiled programs."""
    return Engine(model, EngineConfig(**{"sequences": 4} | changes))


def ask(text: str, *images, **settings) -> Request:
    return Request([{"role": "user", "content": text}], images, **{"max_new_tokens": 10} | settings)


def ragged_requests() -> list[Request]:
    """Prompts of different lengths with 0, 1 and 3 images, mixed up."""
    requests = []
    for i in range(4):
        words = " shape" * (3 * i)
        requests += [
            ask(f"What{words}?"),
            ask(f"<|image|>What{words}?", tiny.image(i)),
            ask(f"<|image|>Is{words} <|image|> or <|image|>?", *(tiny.image(i + k) for k in range(3))),
        ]
    return requests


def assert_same(results, others) -> None:
    for result, other in zip(results, others, strict=True):
        assert result.token_ids == other.token_ids
        assert result.text == other.text
        assert result.finish_reason == other.finish_reason
        np.testing.assert_allclose(result.logprobs, other.logprobs, atol=1e-4)


def test_requests_together_equal_each_alone(model, single):
    requests = ragged_requests()
    engine = shared(model)
    together = list(engine.generate(requests))
    alone = [next(single.generate([request])) for request in requests]
    assert_same(together, alone)
    assert len({tuple(result.token_ids) for result in together}) > 6  # the comparison says something


def test_sampled_requests_do_not_depend_on_row_or_company(model, single):
    sampling = Sampling(temperature=0.9, top_k=40, top_p=0.95, min_p=0.01, repetition_penalty=1.2)
    requests = [
        dataclasses.replace(request, sampling=dataclasses.replace(sampling, seed=i % 7))
        for i, request in enumerate(ragged_requests())
    ]
    engine = shared(model)
    first = list(engine.generate(requests))
    assert_same(first, [next(single.generate([request])) for request in requests])
    assert_same(first[::-1], list(engine.generate(requests[::-1])))


def test_requests_with_every_setting_do_not_depend_on_company(model, single):
    """Penalties, bias, forms and ends of one answer never touch another."""
    requests = [ask("What?"), ask("What?", sampling=Sampling(temperature=0.9, seed=3))]
    for settings in (
        {"sampling": Sampling(presence_penalty=1.5, frequency_penalty=0.5)},
        {"sampling": Sampling(temperature=0.7, repetition_penalty=1.4, logit_bias={"40": 4.0, "41": -100.0})},
        {"structured": json_object("f"), "max_new_tokens": 20},
        {"structured": regex("[a-d]{9}", "f"), "sampling": Sampling(temperature=1.5, seed=1)},
        {"structured": choice(["red", "blue"], "f"), "sampling": Sampling(presence_penalty=1.0)},
        {"ignore_eos": True, "stop_token_ids": (40,), "min_new_tokens": 4},
    ):
        requests.append(ask("<|image|>What?", tiny.image(len(requests)), **settings))
    engine = shared(model)
    alone = [next(single.generate([request])) for request in requests]
    assert_same(engine.generate(requests), alone)
    assert_same(engine.generate(requests[::-1]), alone[::-1])
    assert re.fullmatch("[a-d]{9}", alone[5].text)
    assert alone[6].text in ("red", "blue")
    assert len({tuple(result.token_ids) for result in alone}) > 6


def test_answers_that_were_put_back_keep_their_penalties_and_forms(model, single):
    """With pages for little more than one at its longest, the others run again from their beginnings."""
    requests = [
        ask(
            f"What{' shape' * number}?",
            max_new_tokens=60,
            min_new_tokens=0 if "structured" in more else 60,
            **more,
        )
        for number, more in enumerate(
            (
                {"sampling": Sampling(frequency_penalty=1.0)},
                {"structured": regex("([a-d] ){25}", "f"), "sampling": Sampling(temperature=1.0, seed=2)},
                {"sampling": Sampling(temperature=0.8, repetition_penalty=1.3, presence_penalty=0.5)},
                {"structured": regex("([a-d] ){25}", "f")},
            )
        )
    ]
    engine = shared(model, cache_bytes=10 * page_bytes(model.config, 16))
    assert_same(engine.generate(requests), [next(single.generate([request])) for request in requests])
    assert engine.scheduler.preempted > 0


def test_several_answers_run_their_prompt_once(model):
    engine = shared(model, page_size=8)
    request = ask("What" + " shape" * 8 + "?", sampling=Sampling(temperature=1.5, seed=4))
    positions = engine.scheduler.computed
    results = list(engine.generate(request.choices(4)))
    assert len({tuple(result.token_ids) for result in results}) > 1
    length = results[0].prompt_tokens
    assert length > 40
    # Each runs what does not fill a page, and the last position, whose next token it needs.
    assert engine.scheduler.computed - positions <= length + 3 * 8


def test_an_answer_of_a_form_waits_for_its_mask_and_others_do_not(model):
    engine = shared(model, decode_steps=2)
    formed = engine.submit(ask("What?", structured=regex("[a-d]{9}", "f"), max_new_tokens=30))
    free = engine.submit(ask("Is there?", max_new_tokens=30, ignore_eos=True))
    engine.step()
    (sequence,) = [one for one in engine.scheduler if one.request_id == formed]
    sequence.matcher.wait()
    late = Future()
    sequence.matcher._work = late
    told = [event.request_id for _ in range(4) for event in engine.step()]
    assert set(told) == {free}
    late.set_result(None)
    while engine.pending:
        told += [event.request_id for event in engine.step() if event.result]
    assert {formed, free} <= set(told)


def test_a_full_engine_waits_for_a_mask_and_does_not_step_for_nothing(model):
    engine = shared(model, sequences=1)
    engine.submit(ask("What?", structured=regex("[a-d]{9}", "f"), max_new_tokens=30))
    engine.step()
    (sequence,) = engine.scheduler
    engine.submit(ask("Is there?"))  # waits for the row
    while sequence.matcher is not None and not sequence.answer.ended:
        sequence.matcher.wait()
        late = Future()
        sequence.matcher._work = late
        timer = threading.Timer(0.05, late.set_result, [None])
        timer.start()
        steps, before = 0, sequence.length
        while sequence.length == before and not sequence.answer.ended:
            engine.step()
            steps += 1
        assert steps <= 3
    assert re.fullmatch("[a-d]{9}", sequence.answer.result.text)


def test_an_answer_without_a_next_token_gets_none_before_its_error(model, monkeypatch):
    """Even when it is known only behind the check of a step that nothing may come."""
    engine = shared(model, decode_steps=2)
    number = engine.submit(ask("What?", structured=grammar('start: "a" s\ns: s s', "f"), max_new_tokens=30))
    engine.step()
    (sequence,) = engine.scheduler
    while not sequence.failed:
        engine.step()
    before = list(engine.tokens_of(number))
    with monkeypatch.context() as late:
        late.setattr(engine, "_drop_ended", lambda: [])
        assert engine.step() == []
    assert engine.tokens_of(number) == before
    (event,) = engine.step()
    assert event.result.finish_reason == "error"
    assert event.result.token_ids == before


def test_a_form_that_comes_with_its_request_is_not_compiled_again(model, monkeypatch):
    form = regex("[a-d]{4}", "f")
    compiled = matcher_of(ask("What?", structured=form), model)
    monkeypatch.setattr(Grammars, "open", lambda *_: pytest.fail("compiled in the engine's thread"))
    results = list(shared(model).generate(ask("What?", structured=form, matcher=compiled).choices(3)))
    assert all(re.fullmatch("[a-d]{4}", result.text) for result in results)


def test_greedy_answer_is_the_same_beside_sampled_ones(model, single):
    greedy = ask("<|image|>What is this?", tiny.image(1))
    wild = dataclasses.replace(
        greedy, sampling=Sampling(temperature=2.0, repetition_penalty=1.5), top_logprobs=3
    )
    engine = shared(model)
    results = list(engine.generate([wild, greedy, wild, greedy]))
    assert_same([results[1], results[3]], [next(single.generate([greedy]))] * 2)


def test_a_image_seen_before_is_not_encoded_again(model):
    engine = shared(model)
    same = [tiny.image_file(3), tiny.image_file(3), tiny.image_file(4)]
    list(engine.generate([ask("<|image|>What?", image) for image in same * 3]))
    assert engine.features.encoded == 2
    list(engine.generate([ask("What?")]))
    assert engine.features.encoded == 2


def test_nothing_is_compiled_after_the_start(model):
    engine = shared(model)
    engine.compile()
    assert len(engine.runner.used) <= 12
    with compilations() as compiled:
        for batch in (random_requests(1, 1), random_requests(2, 30), random_requests(3, 7)):
            for _ in engine.answers(batch):
                pass
        images = [tiny.image(1), tiny.image(2)]
        messages = [{"role": "user", "content": "<|image|>Is it red, or<|image|>this one?"}]
        assert len(look(engine, *encode_question(model, messages, "red", images))) == 2
    assert compiled == []


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of JAX's events that say that something was compiled inside of the block."""
    compiled: list[str] = []

    def listen(name: str, seconds: float, **_) -> None:
        if "compile" in name or "trace" in name:
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        monitoring.unregister_event_duration_listener(listen)


def random_requests(seed: int, count: int) -> list[Request]:
    """Of all kinds: words, images, settings, lengths, stops, lists of likely tokens, and bad ones."""
    draw = np.random.default_rng(seed)
    requests = []
    for number in range(count):
        images = [tiny.image(int(n)) for n in draw.integers(0, 9, draw.integers(0, 4))]
        sampling = Sampling(
            temperature=float(draw.choice([0.0, 0.8])), top_k=int(draw.choice([0, 5])),
            top_p=float(draw.choice([1.0, 0.9])), seed=number,
            repetition_penalty=float(draw.choice([1.0, 1.3])),
            presence_penalty=float(draw.choice([0.0, 0.5])), frequency_penalty=float(draw.choice([0.0, 0.5])),
            logit_bias={"40": 3.0} if draw.random() < 0.3 else {},
        )  # fmt: skip
        form = regex("[a-f]{2,9}", "r") if draw.random() < 0.2 else None
        text = "<|image|>" * len(images) + "What" + " shape" * int(draw.integers(0, 20))
        settings = {
            "sampling": sampling,
            "max_new_tokens": int(draw.integers(1, 20)),
            "min_new_tokens": int(draw.choice([0, 3])) if form is None else 0,
            "structured": form,
            "ignore_eos": form is None and draw.random() < 0.2,
            "stop_token_ids": (45,) if draw.random() < 0.3 else (),
            "top_logprobs": int(draw.choice([0, 4])),
            "prompt_logprobs": int(draw.choice([0, 0, 6])),
            "stop": ("e",) if draw.random() < 0.3 else (),
        }
        requests.append(ask(text, *images[: len(images) - int(draw.random() < 0.05)], **settings))
    return requests


def test_answers_are_the_same_when_pages_run_out(model, single):
    sizes = single.runner.sizes
    least = (sizes.pages_per_sequence + 4) * page_bytes(model.config, 16)
    engine = shared(model, cache_bytes=least)
    requests = [ask(f"What{' shape' * n}?", max_new_tokens=40) for n in range(8)]
    together = list(engine.generate(requests))
    assert engine.scheduler.preempted > 0
    assert engine.pool.num_free == engine.pool.count
    assert_same(together, [next(single.generate([request])) for request in requests])


def test_new_request_joins_a_running_one(model):
    engine = shared(model, decode_steps=2)
    long = engine.submit(ask("What?", max_new_tokens=60, sampling=Sampling(repetition_penalty=1.3)))
    ended = []
    engine.step()
    short = engine.submit(ask("Is there?", max_new_tokens=2))
    while engine.pending:
        ended += [event.request_id for event in engine.step() if event.result]
    assert ended == [short, long]


def test_a_first_token_is_told_before_those_behind_it(model, single):
    asked = ask("What is this?", max_new_tokens=20, ignore_eos=True)
    (alone,) = single.generate([asked])
    engine = shared(model, decode_steps=4)
    numbers = [engine.submit(asked) for _ in range(3)]
    engine.submit(dataclasses.replace(asked, stop=[alone.text[:1]]))  # ends at once, while it is decoded
    first = engine.step()
    assert [engine.tokens_of(number) for number in numbers] == [alone.token_ids[:1]] * 3
    assert [event.result.finish_reason for event in first if event.result] == ["stop"]
    engine.cancel(numbers[0])
    second = engine.step()
    assert [event.result.finish_reason for event in second if event.result] == ["cancelled"]
    assert [engine.tokens_of(number) for number in numbers[1:]] == [alone.token_ids[:5]] * 2
    results = [event.result for _ in range(9) for event in engine.step() if event.result]
    assert [one.token_ids for one in results] == [alone.token_ids] * 2
    assert engine.pool.num_free == engine.pool.count


def test_passes_through_the_model_are_shared(model):
    engine = Engine(model, EngineConfig(sequences=4, decode_steps=4))
    requests = [Request(f"What {number}?", max_new_tokens=9, ignore_eos=True) for number in range(4)]
    list(engine.generate(requests[:1]))
    assert engine.passes == 9  # one for the prompt and its first token, and one for each other token
    list(engine.generate(requests))
    assert engine.passes == 18


def test_cancelled_requests_free_their_rows_and_pages(model):
    engine = shared(model, sequences=1, decode_steps=2)
    numbers = [engine.submit(ask("What?", max_new_tokens=50)) for _ in range(3)]
    engine.step()
    engine.cancel(numbers[0])
    engine.cancel(numbers[1])
    results = {}
    while engine.pending:
        results |= {event.request_id: event.result for event in engine.step() if event.result}
    assert [results[n].finish_reason for n in numbers] == ["cancelled", "cancelled", "length"]
    assert results[numbers[1]].token_ids == []
    assert len(results[numbers[2]].token_ids) == 50


def test_answers_that_nobody_reads_to_the_end_leave_nothing_running(model):
    engine = shared(model)
    requests = [ask(f"What{' shape' * n}?", max_new_tokens=2 + 8 * n, ignore_eos=True) for n in range(7)]
    answers = engine.answers(requests)
    next(answers)
    answers.close()
    assert (engine.pending, engine.pool.num_free) == (0, engine.pool.count)
    with pytest.raises(Owl2Error, match="1 image tag") as caught:
        list(engine.generate([*requests[1:], ask("<|image|>What?")]))
    assert (engine.pending, engine.pool.num_free) == (0, engine.pool.count), caught
    assert_same(engine.generate(requests[:2]), shared(model).generate(requests[:2]))


def test_stop_text_ends_an_answer_and_is_not_part_of_it(model, single):
    request = ask("What is this?", max_new_tokens=40, sampling=Sampling(repetition_penalty=1.2))
    whole = next(single.generate([request]))
    stop = re.search(r"[ -~]{2}", whole.text[2:]).group()
    stopped = next(single.generate([dataclasses.replace(request, stop=[stop])]))
    assert stopped.finish_reason == "stop"
    assert stopped.text == whole.text[: whole.text.index(stop)]


def test_streamed_pieces_join_to_the_text(model):
    engine = shared(model, decode_steps=1)
    engine.submit(
        ask("What is this?", max_new_tokens=40, sampling=Sampling(repetition_penalty=1.2), stop=["~~"])
    )
    text = ""
    while engine.pending:
        for event in engine.step():
            text += event.text
            result = event.result
    assert text == result.text


def test_a_prompt_of_one_position_without_an_answer_ends_at_once_beside_others(model, single):
    lone = Request(np.array([5]), max_new_tokens=0, prompt_logprobs=1)
    beside = ask("What?")
    engine = shared(model)
    first, answer, last = engine.generate([lone, beside, lone])
    for result in (first, last):  # nothing stands before its one token
        assert (result.token_ids, result.finish_reason, result.prompt_tokens) == ([], "length", 1)
        assert result.prompt_logprobs.token_ids == []
    assert_same([answer], single.generate([beside]))
    assert not engine.pending
    assert engine.pool.num_free == engine.pool.count


def test_top_logprobs_list_the_likeliest_tokens(single):
    result = next(single.generate([ask("What?", top_logprobs=3)]))
    for token, logprob, top in zip(result.token_ids, result.logprobs, result.top_logprobs, strict=True):
        assert len(top) == 3
        assert top[0] == (token, pytest.approx(logprob))
        assert top[0][1] >= top[1][1] >= top[2][1]


def test_min_new_tokens_keeps_the_end_away(model):
    decoder = dict(model.params["decoder"])
    head = np.array(decoder["head"]["kernel"]) * 0.01
    head[:, model.tokenizer.eos_id] = 0.0
    norm = {"scale": decoder["final_norm"]["scale"]}
    params = {**model.params, "decoder": {**decoder, "head": {"kernel": head}, "final_norm": norm}}
    engine = shared(dataclasses.replace(model, params=params))
    for floor in (0, 3):
        results = list(engine.generate([ask("What?", min_new_tokens=floor, max_new_tokens=6)]))
        assert model.tokenizer.eos_id not in results[0].token_ids[:floor]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ask("<|image|>What?"), "1 image tag"),
        (ask("What?", tiny.image(0)), "0 image tag"),
        (ask("What " * 200), "shorten the prompt"),
        (ask("What?", max_new_tokens=127), "ask for at most"),
        (ask("<|image|>?", b"no image at all"), "image"),
        (ask("<|image|>?", "/nowhere/at/all.png"), "cannot read"),
        (ask("<|image|>?", np.zeros((4, 4), np.uint8)), "uint8"),
        (ask("<image>?", tiny.image(0)), "<image>"),
        (Request([]), "empty"),
        (Request(np.array([1, -1, 5], np.int32)), "the token -1"),
        (Request(np.array([1, 10**6], np.int32)), "the token 1000000"),
    ],
)
def test_bad_request_is_refused_before_anything_runs(single, request_, message):
    with pytest.raises(Owl2Error, match=message) as caught:
        single.submit(request_)
    assert "\n" not in str(caught.value)
    assert single.pending == 0


def test_bad_settings_are_refused():
    for wrong in ({"max_new_tokens": 0}, {"stop": "x"}, {"stop": [""]}, {"top_logprobs": 21}):
        with pytest.raises(Owl2Error):
            ask("What?", **wrong)
    with pytest.raises(Owl2Error, match="sequences"):
        EngineConfig(sequences=0)
