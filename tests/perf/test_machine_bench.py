"""The bench of a whole machine: depths that fit, its JSON and its row."""

import json

import jax
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.model.presets import preset
from owl2_jax.parallel.chips import CHIPS
from owl2_jax.perf import machine_bench, timing

FULL = preset("owl2_7b")


@pytest.fixture
def measured(monkeypatch):
    """Pretends that what has more than `limit` layers does not fit."""
    seen = []

    def pretend(limit):
        def measure(workload, calls):
            seen.append(workload)
            if len(seen) <= limit:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
            return timing.Timing(1.0, [0.5, 0.5], 10, 1e12, 0.4, None, 1e9, 0.4, "forecast")

        monkeypatch.setattr(machine_bench, "build", lambda what, model, *rest: (what, model))
        monkeypatch.setattr(timing, "measure", measure)
        return seen

    return pretend


def test_depths_follow_the_memory_of_a_device():
    assert machine_bench.depths(FULL, "decode", CHIPS["h100"].memory)[0] == 32
    assert machine_bench.depths(FULL, "train", CHIPS["h100"].memory)[0] == 12
    assert machine_bench.depths(FULL, "train", CHIPS["v5e"].memory)[0] == 2
    assert machine_bench.depths(FULL, "train", 1e9) == [1]
    assert machine_bench.depths(preset("owl2_tiny"), "train", None) == [3]


def test_fewer_layers_cut_the_vision_encoder_in_proportion():
    small = machine_bench.cut(FULL, 8)
    assert (small.decoder.num_layers, small.vision.num_layers) == (8, 6)
    assert machine_bench.cut(FULL, 1).vision.num_layers == 1


def test_json_and_row_hold_what_was_expected_beside_what_was_measured(measured, tmp_path, capsys):
    measured(0)
    machine_bench.run(tmp_path / "measured.json", calls=2, seconds=60)
    report = json.loads((tmp_path / "measured.json").read_text())
    assert [row["what"] for row in report["workloads"]] == ["train", "prefill", "decode"]
    assert report["workloads"][0]["measured_over_expected"] == pytest.approx(1.25)
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.startswith("| cpu | 3 layers, 2 x 64 with xla attention: 500.0 ms (forecast 400.0 ms) | 3 la")


def test_what_does_not_fit_is_tried_with_fewer_layers(measured):
    seen = measured(1)
    row = machine_bench._measure("train", "auto", 2, CHIPS["h100"].memory)
    assert row["layers"] == 8
    assert [model.decoder.num_layers for _, model in seen] == [12, 8]


def test_a_tpu_also_takes_a_step_with_the_kernel_that_is_not_its_best(measured, monkeypatch):
    measured(0)
    monkeypatch.setattr(machine_bench, "chip_of", lambda device: CHIPS["v5e"])
    for platform, others in (("tpu", ["splash"]), ("old tpu", []), ("gpu", [])):
        monkeypatch.setattr(machine_bench.platforms, "current_platform", lambda name=platform: name)
        report = machine_bench.measure_machine(calls=2, seconds=60)
        kernels = [(row["what"], row["attention"]) for row in report["workloads"]]
        best = {"tpu": "flash", "old tpu": "splash", "gpu": "cudnn"}[platform]
        assert kernels[:3] == [("train", best), ("prefill", None), ("decode", None)]
        assert kernels[3:] == [("train", name) for name in others]
        row = machine_bench.table_row(report)
        assert row.count("1 x 2048 with splash attention: 500.0 ms") == [best, *others].count("splash")


def test_a_machine_too_small_for_one_layer_is_told(measured):
    measured(99)
    with pytest.raises(Owl2Error, match="not even one layer of owl2_7b fits"):
        machine_bench._measure("train", "auto", 2, 1e9)


def test_nothing_new_begins_when_the_time_is_over(measured):
    measured(0)
    report = machine_bench.measure_machine(calls=2, seconds=-1)
    assert all("left_out" in row for row in report["workloads"])
    assert machine_bench.table_row(report) == "| cpu |  |  |  |"
