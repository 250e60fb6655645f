"""What became of every record: counts by set and reason, and a limit on the share of rejects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from owl2_jax.core.errors import Owl2Error

# Below this many records a share says little; a single reject stops nothing.
_RECORDS_TO_JUDGE = 1000


class RejectedShareError(Owl2Error):
    """More records are unusable than the config allows."""


class RecordCounts:
    """Sums of what the shards of a host have read.

    Args:
      max_share: largest share of rejects; judged from 1 000 records on.
      where: what names the rejected records, for the error.
    """

    def __init__(self, max_share: float, where: str = "the counts") -> None:
        self._max_share, self._where = max_share, where
        self._shards: dict[int, Mapping[str, Any]] = {}

    def update(self, shard: int, state: Mapping[str, Any]) -> None:
        """Takes the state of a shard after a part of a batch; it holds the shard's counts so far."""
        self._shards[shard] = state

    @property
    def read(self) -> int:
        """Records read, unusable ones included."""
        return sum(state["next"] for state in self._shards.values())

    @property
    def rejected(self) -> Counter[str]:
        """Unusable records by "set/reason"."""
        return self._sum("rejected")

    @property
    def cut(self) -> Counter[str]:
        """Records used after their end was cut off, by "set/reason"."""
        return self._sum("cut")

    def check(self) -> None:
        """Raises `RejectedShareError` when too many records are unusable."""
        read, total = self.read, 0
        for state in self._shards.values():
            total += sum(state["rejected"].values())
        if read >= _RECORDS_TO_JUDGE and total > self._max_share * read:
            counts = ", ".join(f"{key} {count}" for key, count in self.rejected.most_common(5))
            raise RejectedShareError(
                f"{total} of {read} records are unusable ({total / read:.2%}; data.max_rejected_share "
                f"is {self._max_share:.2%}): {counts}. See {self._where}; repair the data or raise the limit"
            )

    def _sum(self, name: str) -> Counter[str]:
        total: Counter[str] = Counter()
        for state in self._shards.values():
            total.update(state[name])
        return total
