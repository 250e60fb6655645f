"""Benchmarks beside the steps of training: the evaluators of `owl2 evaluate` on parameters in memory."""

from __future__ import annotations

import json
from types import SimpleNamespace

import jax
import pytest
from PIL import Image

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.pipeline import load_tokenizer
from owl2_jax.evals.training_hooks import make_hooks, metric_names
from owl2_jax.model.owl2 import init_params
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.training.hooks import evaluate
from tests.training import runs


def config_with(*evaluators):
    values = {**runs.VALUES, "evaluators": list(evaluators)}
    return runs.RunConfig.from_dict(values)


def test_a_benchmark_reports_beside_the_steps_what_it_would_of_a_checkpoint(tmp_path):
    config = config_with(
        {"benchmark": "drawn_yes_no", "every_steps": 5, "max_questions": 6},
        {"benchmark": "facts", "max_questions": 4},
    )
    tokenizer = load_tokenizer(config.data)
    params = init_params(config.model, jax.random.key(0))
    trainer = SimpleNamespace(mesh=make_mesh({"data": 1}, jax.devices()[:1]))
    hooks = make_hooks(config, trainer, tokenizer)
    assert metric_names(config) == ["drawn_yes_no/accuracy", "facts/accuracy"]
    assert [hook.is_due(5, last=False) for hook in hooks] == [True, False]
    found = evaluate(hooks, params)
    assert found["drawn_yes_no/accuracy"] == on_disk(config, params, tokenizer, tmp_path)
    assert 0 <= found["facts/accuracy"] <= 100


def test_broken_rows_of_an_evaluator_are_told_and_left_out(tmp_path, capsys):
    images = tmp_path / "coco/val2014"
    images.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(images / "good.png")
    (images / "damaged.png").write_bytes(b"no image")
    row = {"text": "Is it red?", "label": "yes"}
    names = ["good", "damaged", "missing"]
    lines = [
        json.dumps({**row, "question_id": number, "image": f"{name}.png"})
        for number, name in enumerate(names)
    ]
    (tmp_path / "pope").mkdir()
    (tmp_path / "pope/coco_pope_random.json").write_text("\n".join([*lines, "{}"]))
    config = config_with({"benchmark": "pope_random", "data_root": str(tmp_path)})
    tokenizer = load_tokenizer(config.data)
    params = init_params(config.model, jax.random.key(0))
    hooks = make_hooks(config, SimpleNamespace(mesh=make_mesh({"data": 1}, jax.devices()[:1])), tokenizer)
    assert "pope_random: 2 broken rows, first" in capsys.readouterr().err
    assert 0 <= evaluate(hooks, params)["pope_random/accuracy"] <= 100
    told = capsys.readouterr().err
    assert "2 questions were not asked, first" in told
    assert "coco_pope_random.json, line 2 cannot be asked" in told


def on_disk(config, params, tokenizer, out):
    from owl2_jax.evals.asking import EngineModel
    from owl2_jax.evals.registry import get_benchmark
    from owl2_jax.evals.runner import evaluate
    from owl2_jax.inference.engine import Engine, EngineConfig
    from owl2_jax.inference.loaded_model import LoadedModel

    model = LoadedModel(config.model, params, tokenizer, config.data.prompt_format)
    asked = EngineModel(Engine(model, EngineConfig(sequences=2)))
    benchmark = get_benchmark("drawn_yes_no")
    score = evaluate(
        "drawn_yes_no", benchmark, lambda: asked, checkpoint="x", root=out, out=out, limit=6
    )  # fmt: skip
    return score.value


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("drawn_yesno", "did you mean 'drawn_yes_no'"),
        ("mm_vet", "'mm_vet' is scored by a judge or a server"),
        ("vqav2_testdev", "'vqav2_testdev' is scored by a judge or a server"),
        ("gqa_testdev", r"testdev_balanced_questions\.json is missing"),
    ],
)
def test_what_cannot_run_is_refused_before_training(name, message):
    with pytest.raises(Owl2Error, match=message):
        metric_names(config_with({"benchmark": name}))
