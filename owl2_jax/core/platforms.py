"""For which kind of device a program is traced."""

from __future__ import annotations

from typing import Final

import jax

# Their fast memory of 16 MiB does not hold what kernels for later ones ask for.
_OLD_TPUS: Final = ("TPU v2", "TPU v3", "TPU v4", "TPU v4 lite")


def current_platform() -> str:
    """Of the mesh's devices, which need not be here, or of our first: "tpu", "old tpu", "gpu" or "cpu"."""
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    return f"old {device.platform}" if device.device_kind in _OLD_TPUS else device.platform
