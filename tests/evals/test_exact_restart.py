"""Killed and restarted with the real engine: the same bytes of results, log-likelihoods included."""

from __future__ import annotations

import json

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.evals import journal
from owl2_jax.evals.asking import EngineModel
from owl2_jax.evals.base import Benchmark, Question
from owl2_jax.evals.runner import evaluate
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.request import Request
from owl2_jax.testing import tiny

VQA = PROMPTS["vqa"]
CHUNK = 8


class Mixed(Benchmark):
    """Generated and chosen answers, ragged prompts, and images that come again in later chunks."""

    title = "Mixed"
    prompt = VQA

    def questions(self, root):
        for number in range(3 * CHUNK):
            images = () if number % 3 == 0 else (tiny.image_file(number % 5),)
            text = "<|image|>" * len(images) + "What" + " shape" * (number % 7) + "?"
            options = (" red circle", " no", " three of them") if number % 2 else ()
            yield Question(f"q{number}", text, VQA.hash, "A", images, options=options)


class Killed(BaseException):
    """Ends a run the way a signal does."""


class Dies(EngineModel):
    def __init__(self, engine, after):
        super().__init__(engine)
        self.after = after

    def replies(self, questions, decoding, image_mode):
        for reply in super().replies(questions, decoding, image_mode):
            if self.after == 0:
                raise Killed
            self.after -= 1
            yield reply


@pytest.fixture
def new_engine(tiny_config, tiny_params, toy_tokenizer):
    model = LoadedModel(tiny_config, tiny_params, toy_tokenizer)
    return lambda: Engine(model, EngineConfig(sequences=4, page_size=4))


def run(out, model):
    return evaluate("mixed", Mixed(), lambda: model, checkpoint="tiny", root=out, out=out)


def test_results_are_the_same_bytes_whenever_the_run_was_killed(tmp_path, new_engine, monkeypatch):
    monkeypatch.setattr(journal, "CHUNK", CHUNK)
    run(tmp_path / "whole", EngineModel(new_engine()))
    expected = (tmp_path / "whole/mixed/results.jsonl").read_bytes()
    assert b"option_logprobs" in expected
    for after in (1, CHUNK + 3, 3 * CHUNK - 1):
        out = tmp_path / str(after)
        with pytest.raises(Killed):
            run(out, Dies(new_engine(), after))
        run(out, EngineModel(new_engine()))
        assert (out / "mixed/results.jsonl").read_bytes() == expected


def test_times_stand_beside_the_results(tmp_path, new_engine):
    run(tmp_path, EngineModel(new_engine()))
    files = [tmp_path / "mixed" / name for name in ("results.jsonl", "times.jsonl")]
    results, times = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    assert [row["id"] for row in times] == [row["id"] for row in results]
    assert all(row["seconds"] >= 0 for row in times)
    assert not any("seconds" in row for row in results)


def test_an_engine_forgets_only_when_nothing_runs(new_engine):
    engine = new_engine()
    request = Request("<|image|>What?", images=[tiny.image_file(1)], max_new_tokens=4)
    first = list(engine.generate([request]))
    encoded, positions = engine.features.encoded, engine.scheduler.computed
    engine.forget()
    assert list(engine.generate([request])) == first
    assert engine.features.encoded == 2 * encoded
    assert engine.scheduler.computed == 2 * positions
    engine.submit(request)
    with pytest.raises(Owl2Error, match="1 requests wait or run"):
        engine.forget()
