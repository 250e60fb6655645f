"""What a measured program was expected to take."""

from types import SimpleNamespace

import pytest

from owl2_jax.model.flops import Flops
from owl2_jax.perf import timing
from tests.perf.scheduled import estimate, program


def device(kind):
    return SimpleNamespace(device_kind=kind)


def test_a_tpu_has_a_forecast_of_its_own_program():
    body = "  %x = f32[8]{0} parameter(0)\n  ROOT %y = f32[8]{0} negate(%x), " + estimate(3_000_000)
    assert timing.forecast_here(program(body), [device("TPU v5 lite")]) == pytest.approx(2e-3)
    assert timing.forecast_here(program(body), [device("TPU v6 lite")]) == pytest.approx(3 / 1750)


def test_a_gpu_has_a_bound_and_a_cpu_nothing():
    workload = SimpleNamespace(parts={}, flops={"decoder": Flops(1.0, 1.0, 989.4e12)})
    found = timing._expected(workload, None, [device("NVIDIA H100 80GB HBM3")])
    assert found == {"expected": pytest.approx(1.0), "expected_by": "bound"}
    assert timing._expected(workload, None, [device("cpu")]) == {}
