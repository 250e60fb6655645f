"""The steps since the last reading: few of them under way at a time, their metrics still on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jax

StepMetrics = Mapping[str, Any]  # the second result of `train_step`: arrays of the device or of the host

# Steps that may be under way on the device: enough to keep it busy, few
# enough that a request to stop is followed within two steps.
_AHEAD: Final = 2


class StepWindow:
    """Metrics of the steps since the last reading."""

    def __init__(self) -> None:
        self._metrics: list[StepMetrics] = []

    def make_room(self) -> None:
        """Waits until another step may be handed to the device."""
        if len(self._metrics) >= _AHEAD:
            jax.block_until_ready(self._metrics[-_AHEAD]["loss"])

    @property
    def is_idle(self) -> bool:
        """Whether the device has no step to do."""
        return not self._metrics or self._metrics[-1]["loss"].is_ready()

    def add(self, metrics: StepMetrics) -> None:
        """Takes over a step's metrics, which stay on the device."""
        self._metrics.append(metrics)

    def fetch(self) -> list[StepMetrics]:
        """The metrics on the host, when all steps are done; the next window begins."""
        fetched, self._metrics = jax.device_get(self._metrics), []
        return fetched
