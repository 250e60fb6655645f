"""Runs that train adapters and the abstractor beside a frozen base."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from owl2_jax.checkpoint import param_files
from owl2_jax.cli.main import main
from owl2_jax.convert.merge import merge_checkpoint
from owl2_jax.convert.safetensors_file import SafetensorsReader
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.pipeline import load_tokenizer
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.request import Request
from owl2_jax.loading import load_model
from owl2_jax.model.lora import is_adapter
from owl2_jax.model.lora_merge import merge
from owl2_jax.model.owl2 import Owl2, abstract_params
from owl2_jax.testing import tiny
from owl2_jax.training.initialize import check_start, starting_params
from owl2_jax.training.logging.metrics import read_metrics
from owl2_jax.training.param_groups import assign_groups
from owl2_jax.training.step import dropout_key
from tests.training import runs

LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.1}
ASKED = Request("Which country has the capital Paris?", max_new_tokens=6)
GROUPS = [
    {"name": "abstractor", "pattern": "abstractor/.*", "lr_multiplier": 0.2},
    {"name": "adapters", "pattern": ".*/lora_[ab]"},
    {"name": "base", "pattern": ".*", "trainable": False},
]


def lora_config(start, base="stored"):
    return runs.run_config(
        f"model.lora={ {**LORA, 'base': base} }", f"train.groups={GROUPS}", f"train.start_from={start}"
    )


@pytest.fixture(scope="module")
def adapted(straight, tmp_path_factory):
    """(run directory, parameters in front, parameters after) of four steps from the straight run."""
    config, folder = lora_config(straight[0]), tmp_path_factory.mktemp("lora") / "run"
    trainer = runs.trainer_of(config)
    before = runs.leaves(starting_params(trainer))
    outcome, _ = runs.run(config, folder, trainer=trainer)
    return folder, before, runs.leaves(outcome.state.params)


def test_only_adapters_and_the_abstractor_change(straight, adapted):
    _, before, after = adapted
    started_from = runs.leaves(straight[1].state.params)
    for name, leaf in after.items():
        trains = is_adapter(name) or name.startswith("abstractor/")
        assert np.array_equal(leaf, before[name]) != trains, name
        if not is_adapter(name):
            np.testing.assert_array_equal(before[name], started_from[name])


def test_a_run_is_merged_exported_and_imported_on_the_command_line(straight, adapted, tmp_path, capsys):
    folder, _, after = adapted
    peft, output = tmp_path / "peft", f"--output={tmp_path}"
    assert main(["convert", "merge-lora", f"--checkpoint={folder}", f"{output}/merged"]) == 0
    merged = runs.leaves(param_files.restore_params(tmp_path / "merged" / "params"))
    assert merged.keys() == {name for name in after if not is_adapter(name)}
    kernel = "decoder/layers/mlp/up"
    change = np.einsum("lir,lro->lio", after[f"{kernel}/lora_a"], after[f"{kernel}/lora_b"])
    np.testing.assert_allclose(merged[f"{kernel}/kernel"], after[f"{kernel}/kernel"] + 2 * change, atol=1e-6)

    assert main(["convert", "export-lora", f"--checkpoint={folder}", f"--output={peft}", "--base=owl"]) == 0
    assert "contains mplug_owl2 and lora" in capsys.readouterr().out
    assert len(SafetensorsReader(peft / "adapter_model.safetensors").specs) == 2 * 9 * 2
    importing = ["convert", "import-lora", f"--checkpoint={straight[0]}", f"--adapter={peft}"]
    assert main([*importing, f"{output}/imported"]) == 0
    imported = runs.leaves(param_files.restore_params(tmp_path / "imported" / "params"))
    assert imported.keys() == after.keys()
    for name, leaf in after.items():
        np.testing.assert_array_equal(imported[name], leaf, err_msg=name)

    assert main(["convert", "to-torch", f"--checkpoint={folder}", f"{output}/hf"]) == 2
    assert "merge them first with `owl2 convert merge-lora`" in capsys.readouterr().err
    assert main(["convert", "merge-lora", f"--checkpoint={straight[0]}", f"{output}/x"]) == 2
    assert "has no LoRA adapters to merge" in capsys.readouterr().err


def test_a_run_answers_with_its_adapters_merged_or_not(adapted):
    model = load_model(adapted[0])
    params, config = merge(model.params, model.config)
    merged = dataclasses.replace(model, params=params, config=config)
    answers = [
        next(iter(Engine(one, EngineConfig(sequences=1)).generate([ASKED]))) for one in (model, merged)
    ]
    assert answers[0].token_ids == answers[1].token_ids


def test_every_step_has_its_own_dropout():
    config = lora_config("x")
    model = Owl2(config.model)
    keys = [dropout_key(model, config.train, np.int32(step)) for step in (0, 1, 1)]
    data = [tuple(jax.random.key_data(key).tolist()) for key in keys]
    assert data[0] != data[1] == data[2]
    assert dropout_key(Owl2(config.model.replace(**{"lora.dropout": 0.0})), config.train, np.int32(0)) is None


def test_int8_base_trains_beside_the_stored_one(straight, adapted, tmp_path):
    config = lora_config(straight[0], "int8")
    outcome, _ = runs.run(config, tmp_path)
    found, floats = runs.leaves(outcome.state.params), adapted[2]
    for name, leaf in found.items():
        if leaf.dtype == np.int8:
            scale = found[name + "_scale"]
            axes = tuple(range(1, 1 + leaf.ndim - scale.ndim))
            steps = np.expand_dims(scale, axes)
            assert np.all(np.abs(leaf * steps - floats[name]) <= 0.51 * steps), name
    merge_checkpoint(tmp_path, tmp_path / "merged")
    merged = runs.leaves(merge(outcome.state.params, config.model)[0])
    for name, leaf in runs.leaves(param_files.restore_params(tmp_path / "merged" / "params")).items():
        np.testing.assert_allclose(leaf, merged[name], atol=1e-6, err_msg=name)
    name = "decoder/layers/attention/q/lora_b"
    assert np.abs(found[name]).max() > 1e-4
    losses = [read_metrics(folder)[0]["loss"] for folder in (tmp_path, adapted[0])]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_the_fused_adapters_of_owl2_1_train_on_an_int8_base(tmp_path):
    model = [f"model.{name}={value!r}" for name, value in tiny.OWL2_1.items()]
    start = runs.run_config(*model).model
    pieces = load_tokenizer(runs.run_config().data).bytes
    settings = param_files.model_json(start.to_dict())
    param_files.write_model_directory(tmp_path / "start", settings, tiny.tiny_params(start), pieces)
    lora = {**LORA, "base": "int8", "targets": ("qkv_text", "qkv_image", "out", "gate", "up", "down")}
    config = runs.run_config(
        *model, f"model.lora={lora}", f"train.groups={GROUPS}", f"train.start_from={tmp_path / 'start'}"
    )
    trainer = runs.trainer_of(config)
    before = runs.leaves(starting_params(trainer))
    outcome, _ = runs.run(config, tmp_path / "run", trainer=trainer)
    after = runs.leaves(outcome.state.params)
    place = "decoder/layers/attention"
    assert {name for name in after if after[name].dtype == np.int8} >= {
        f"{place}/{name}/kernel" for name in ("q", "q_image", "k_text", "k_image", "v_text", "v_image", "out")
    }
    assert after[f"{place}/q_image/bias"].dtype == np.float32
    for name, leaf in after.items():
        trains = is_adapter(name) or name.startswith("abstractor/")
        assert np.array_equal(leaf, before[name]) != trains, name
    merge_checkpoint(tmp_path / "run", tmp_path / "merged")
    answers = [
        next(iter(Engine(load_model(path), EngineConfig(sequences=1)).generate([ASKED])))
        for path in (tmp_path / "run", tmp_path / "merged")
    ]
    assert answers[0].token_ids == answers[1].token_ids


def test_starts_and_groups_that_do_not_fit_are_refused(straight, adapted):
    def check(start, *overrides):
        config = runs.run_config(f"train.start_from={start}", *overrides)
        trainer = runs.trainer_of(config)
        check_start(config.train.start_from, trainer.shapes, param_files.read_tokenizer(straight[0]))

    with pytest.raises(Owl2Error, match="has LoRA adapters, the run has none; run `owl2 convert merge-lora"):
        check(adapted[0])
    with pytest.raises(Owl2Error, match=r"lora_a is \[2, 32, 2\], expected \[2, 32, 5\]"):
        check(adapted[0], "model.lora={'rank': 5}")
    config = runs.run_config("model.lora={'base': 'int8'}")
    shapes = abstract_params(config.model)
    with pytest.raises(Owl2Error, match=r"group 'decoder' trains .*/kernel, which .* holds in int8"):
        assign_groups(shapes, config.train)
