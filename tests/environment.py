"""Variables of the processes that tests start."""

from __future__ import annotations

import os


def environment(devices: int = 1, **changes: str) -> dict[str, str]:
    """For processes that see so many devices, not the eight of the tests."""
    # Of a flag that comes twice the last counts.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **changes}
