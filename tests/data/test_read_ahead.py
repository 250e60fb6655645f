from __future__ import annotations

import threading

import pytest

from owl2_jax.data.read_ahead import ReadAhead


class Items:
    """An endless sequence whose first eight items wait for each other; one is broken."""

    def __init__(self) -> None:
        self._eight = threading.Barrier(8, timeout=60)
        self.running = self.most = 0
        self.asked: list[int] = []
        self._lock = threading.Lock()

    def __getitem__(self, position: int) -> int:
        with self._lock:
            self.asked.append(position)
            self.running += 1
            self.most = max(self.most, self.running)
        if position <= 1 + 7 * 3:
            self._eight.wait()
        with self._lock:
            self.running -= 1
        if position == 13:
            raise ValueError("broken")
        return position * position


def test_items_come_in_order_each_made_once_with_the_next_ones_under_way():
    items = Items()
    ahead = ReadAhead(items, stride=3, ahead=8)
    assert [ahead[position] for position in range(1, 10, 3)] == [1, 16, 49]
    with pytest.raises(ValueError, match="broken"):
        ahead[13 - 3], ahead[13]
    assert ahead[16] == 256
    ahead._threads.shutdown()
    assert items.most == 8
    assert len(items.asked) == len(set(items.asked))
    assert max(items.asked) == 16 + 7 * 3
