"""The programs of a model runner."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

from owl2_jax.inference.programs import step_options, step_program


@pytest.mark.parametrize(
    ("kind", "memory"),
    [("TPU v5 lite", "24576"), ("TPU v5", "32768"), ("TPU v6 lite", "49152"), ("TPU v4", None)],
)
def test_a_step_over_pages_has_options_of_the_compiler_on_a_tpu(kind, memory):
    options = step_options(SimpleNamespace(platform="tpu", device_kind=kind))
    assert options.pop("xla_tpu_scoped_vmem_limit_kib", None) == memory
    assert options == {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}


def test_other_devices_have_none_and_all_runners_share_a_program():
    assert step_options(jax.devices()[0]) == {}
    assert step_options(SimpleNamespace(platform="gpu", device_kind="NVIDIA H200")) == {}
    assert step_program(jax.devices()[0]) is step_program(jax.devices()[0])
