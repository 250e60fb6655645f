"""Kernels over pages against the written-out reference."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import ragged_paged_attention as library
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import kernel

from owl2_jax.model import paged_attention, paged_kernels
from owl2_jax.model.pages import COMBINED, HEADS
from tests.model.test_paged_attention import CASES, HEADS_Q, LAYERS, WIDTH, batch_of, filled


def reference(q, pages, lengths, tables, starts, count, *, sm_scale, **sizes):
    """The kernel as its authors write it out: no interpreter of today runs the kernel itself."""
    kernel.static_validate_inputs(q, pages, lengths, tables, starts, count, sm_scale=sm_scale, **sizes)
    return kernel.ref_ragged_paged_attention(q, pages, lengths, tables, starts, count, sm_scale=sm_scale)


@pytest.mark.parametrize(("lengths", "counts", "tokens", "rows"), CASES)
def test_ragged_kernel_of_the_tpu_is_the_reference(lengths, counts, tokens, rows, monkeypatch):
    monkeypatch.setattr(library, "ragged_paged_attention", reference)
    batch = batch_of(lengths, counts, tokens, rows)
    q = jnp.asarray(np.random.default_rng(2).normal(size=(tokens, HEADS_Q, WIDTH)), jnp.float32)
    expected = paged_attention.written_out(q, filled(batch)[0], batch, jnp.int32(1), LAYERS)
    found = paged_kernels.attend(q, filled(batch, COMBINED)[0], batch, jnp.int32(1), LAYERS)
    real = sum(counts)
    np.testing.assert_allclose(found[:real], expected[:real], atol=2e-5)


def test_layouts_are_those_of_the_kernels():
    assert paged_kernels.layout("tpu") == COMBINED
    assert paged_kernels.layout("cpu") == paged_kernels.layout("gpu") == HEADS


def test_combined_pages_hold_keys_and_values_of_a_head_side_by_side():
    batch = batch_of([5], [5], 8, 2)
    pages, keys, values = filled(batch, COMBINED)
    assert pages.values is None
    count = pages.keys.shape[0] // LAYERS
    found = pages.keys[count + int(batch.block_tables[0, 0])]  # [page_size, 2 K, H]
    np.testing.assert_array_equal(found[:, 0::2, :WIDTH], keys[0][:4])
    np.testing.assert_array_equal(found[:, 1::2, :WIDTH], values[0][:4])
    assert not np.asarray(found[:, :, WIDTH:]).any()
