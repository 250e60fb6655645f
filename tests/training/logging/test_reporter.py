from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from owl2_jax.model import flops
from owl2_jax.parallel.chips import CHIPS
from owl2_jax.training.device_batch import device_batch
from owl2_jax.training.logging import reporter
from owl2_jax.training.logging.metrics import read_metrics
from tests.training import runs


@pytest.fixture(scope="module")
def batch(config, trainer):
    with runs.pipeline_of(config, trainer) as pipeline:
        return device_batch(next(pipeline), trainer.mesh)


def test_step_flops_count_the_vision_part_and_what_trains(config, trainer, batch):
    model, data = config.model, config.data
    work = flops.batch_work(model, data.rows, data.row_length, data.images, data.images_per_row)
    work = dataclasses.replace(work, logits=data.rows * data.max_targets)
    parts = flops.train_flops(model, work, lambda name: not name.startswith("vision/"))
    assert trainer.step_flops(batch) == pytest.approx(sum(part.model for part in parts.values()))
    assert parts["vision"].forward > 0
    assert parts["vision"].backward == 0, "it is frozen, and nothing below it trains"
    blind = batch.replace(images=np.zeros((0, *batch.images.shape[1:]), np.uint8))
    seeing = parts["vision"].model + parts["abstractor"].model
    assert trainer.step_flops(batch) - trainer.step_flops(blind) == pytest.approx(seeing)


def test_mfu_is_model_flops_over_the_peak_of_all_devices(config, trainer, batch, tmp_path, monkeypatch):
    chip = dataclasses.replace(CHIPS["v5e"], flops=1e12)
    monkeypatch.setattr(reporter, "chip_of", lambda device: chip)
    runs.run(config, tmp_path, trainer=trainer)
    for reading in read_metrics(tmp_path):
        expected = trainer.step_flops(batch) / (1e12 * reading["seconds_per_step"])
        assert reading["mfu"] == pytest.approx(expected)


def test_a_device_of_unknown_speed_has_no_mfu(straight):
    reading = read_metrics(straight[0])[-1]
    assert "mfu" not in reading
    assert {"data_wait", "save", "goodput", "tokens_per_second", "packing_efficiency"} <= reading.keys()


def test_chosen_steps_are_profiled(trainer, tmp_path):
    config = runs.run_config("train.profile_steps=(2, 3)")
    traced = dataclasses.replace(trainer, config=config.train)
    outcome, _ = runs.run(config, tmp_path, trainer=traced)
    assert outcome.finished
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1
    with pytest.raises(RuntimeError):
        jax.profiler.stop_trace()  # it ended with its last step
