"""The programs of a model runner."""

from __future__ import annotations

from owl2_jax.inference.programs import step_options, step_program


def test_a_step_has_options_of_the_compiler_on_a_tpu_alone_and_is_one_program_for_all_runners():
    assert step_options("tpu") == {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
    assert step_options("cpu") == step_options("gpu") == {}
    assert step_program("cpu") is step_program("cpu")
