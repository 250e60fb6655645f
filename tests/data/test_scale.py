from __future__ import annotations

from tests.data import scale


def test_large_sources_open_in_time_and_memory_that_hardly_grow(tmp_path):
    """A fiftieth of a million records; `python -m tests.data.scale` measures the whole."""
    for values in scale.measure(tmp_path, 20_000).values():
        assert values["cpu_seconds"] < 5
        assert values["memory_gb"] < 0.7
