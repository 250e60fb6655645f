"""Variables of the processes that tests start."""

from __future__ import annotations

import os


def environment(devices: int = 1, **changes: str) -> dict[str, str]:
    """For processes that see so many devices, not the eight of the tests, and share what they compile."""
    # Of a flag that comes twice the last counts.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **sharing_programs(), **changes}


def sharing_programs() -> dict[str, str]:
    """Lets a command find what others of this run of the tests compiled, if it is one."""
    programs = os.environ.get("OWL2_TEST_PROGRAMS")
    return {"OWL2_COMPILATION_CACHE": programs} if programs else {}
