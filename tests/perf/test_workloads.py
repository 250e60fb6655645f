"""What a workload says that it computes."""

from types import SimpleNamespace

import jax
import pytest

from owl2_jax.core import platforms
from owl2_jax.model import flops
from owl2_jax.parallel.mesh import make_mesh
from owl2_jax.perf.workload import Shape, with_kernel
from owl2_jax.perf.workloads import build
from owl2_jax.testing import tiny
from owl2_jax.training.config import TrainConfig

CONFIG = tiny.tiny_config(
    **{
        "decoder.width": 256,
        "decoder.num_heads": 2,
        "decoder.num_kv_heads": 2,
        "dtype": "bfloat16",
        "decoder.max_length": 256,
    }
)
# Rows of 8192 tokens lie in no fast memory.
KINDS = [
    ("tpu", "TPU v5 lite", "flash", "splash"),
    ("tpu", "TPU v4", "splash", "splash"),
    ("gpu", "NVIDIA H200", "cudnn", "cudnn"),
    ("cpu", "cpu", "xla", "xla"),
]


@pytest.mark.parametrize(("platform", "kind", "short", "long"), KINDS)
def test_auto_is_the_kernel_of_the_mesh_that_a_plan_is_for(platform, kind, short, long):
    device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=1, platform=platform)
    there = jax.sharding.AbstractMesh((2,), ("fsdp",), abstract_device=device)
    mesh = SimpleNamespace(abstract_mesh=there)
    config = CONFIG.replace(attention="auto")
    assert [with_kernel(config, length, mesh).attention for length in (256, 8192)] == [short, long]
    assert with_kernel(config.replace(attention="xla"), 256, mesh).attention == "xla"


@pytest.mark.parametrize("what", ["train", "prefill", "decode"])
def test_what_auto_executes_is_what_its_kernel_executes(what, monkeypatch):
    monkeypatch.setattr(platforms, "current_platform", lambda: "tpu")
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    shape = Shape(2, 256, 2, 1)
    found = {
        name: flops.total(
            build(what, CONFIG.replace(attention=name), TrainConfig(total_steps=1), shape, mesh).flops
        )
        for name in ("auto", "flash", "xla")
    }
    assert found["auto"] == found["flash"]
    assert (found["auto"].executed < found["xla"].executed) == (what != "decode")
