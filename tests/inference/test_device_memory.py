"""What devices have left, as they tell it."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.device_memory import memory_left
from owl2_jax.inference.engine_config import EngineConfig
from owl2_jax.parallel.mesh import TENSOR

CONFIG = EngineConfig()


def device(platform: str, **statistics):
    return SimpleNamespace(platform=platform, device_kind="Odd 1", memory_stats=lambda: statistics or None)


def test_a_cpu_tells_nothing():
    assert memory_left(CONFIG, None) is None


def test_what_is_not_in_use_is_left(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [device("gpu", bytes_limit=100, bytes_in_use=30)])
    left = memory_left(CONFIG, None)
    assert (left.free, left.lanes) == (70, 1)


def test_pages_are_cut_over_the_tensor_axis_and_the_fullest_device_decides():
    devices = [device("tpu", bytes_limit=100, bytes_in_use=used) for used in (20, 40)]
    mesh = SimpleNamespace(local_devices=devices, shape={TENSOR: 2})
    left = memory_left(CONFIG, mesh)
    assert (left.free, left.lanes) == (120, 128)


def test_a_device_that_does_not_tell_needs_a_number(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [device("gpu")])
    with pytest.raises(Owl2Error, match=r"Odd 1 does not tell .*--cache-mib"):
        memory_left(CONFIG, None)
    assert memory_left(EngineConfig(cache_bytes=2**20), None).free == 0
