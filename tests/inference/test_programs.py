"""The programs of a model runner."""

from __future__ import annotations

from types import SimpleNamespace

import jax

from owl2_jax.inference.programs import step_options, step_program


def test_a_step_has_options_of_the_compiler_on_a_tpu_alone_and_is_one_program_for_all_runners():
    whole = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
    assert step_options(SimpleNamespace(platform="tpu", device_kind="TPU v6 lite")) == whole
    more = {"xla_tpu_scoped_vmem_limit_kib": "24576"}
    assert step_options(SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")) == whole | more
    assert step_options(jax.devices()[0]) == {}
    assert step_options(SimpleNamespace(platform="gpu", device_kind="NVIDIA H200")) == {}
    assert step_program(jax.devices()[0]) is step_program(jax.devices()[0])
