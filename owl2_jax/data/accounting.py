"""What became of every record: counts by reason, a file of rejects, a limit on their share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.encode import Rejected

# Below this many records a share says little; a single reject stops nothing.
_RECORDS_TO_JUDGE = 1000


class RejectedShareError(Owl2Error):
    """More records are unusable than the config allows."""


class Accounting:
    """Counts read and rejected records; rejects go to a JSON-lines file with source and reason.

    Args:
      names: names of the sets, by number.
      max_share: largest share of rejects; judged from 1 000 records on.
      quarantine: file that rejects are appended to; None keeps counts alone.
    """

    def __init__(self, names: Sequence[str], max_share: float, quarantine: Path | None = None) -> None:
        self._names, self._max_share, self._quarantine = names, max_share, quarantine
        self.read = 0
        self.rejected: Counter[str] = Counter()

    def add(self, read: int, rejected: Iterable[Rejected]) -> None:
        """Counts what a batch took.

        Raises:
          RejectedShareError: the share is above the limit.
        """
        rejected = list(rejected)
        self.read += read
        self.rejected.update(f"{self._names[item.dataset]}/{item.reason}" for item in rejected)
        if rejected and self._quarantine is not None:
            self._write(rejected)
        total = sum(self.rejected.values())
        if self.read >= _RECORDS_TO_JUDGE and total > self._max_share * self.read:
            counts = ", ".join(f"{key} {count}" for key, count in self.rejected.most_common(5))
            raise RejectedShareError(
                f"{total} of {self.read} records are unusable ({total / self.read:.2%}; data.max_rejected_share "
                f"is {self._max_share:.2%}): {counts}. See {self._quarantine or 'the counts'}; mend the data or "
                "raise the limit"
            )

    def _write(self, rejected: Iterable[Rejected]) -> None:
        assert self._quarantine is not None
        with self._quarantine.open("a", encoding="utf-8") as file:
            for item in rejected:
                line = {
                    "dataset": self._names[item.dataset],
                    "record": item.record,
                    "reason": item.reason,
                    "detail": item.detail,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def get_state(self) -> dict[str, Any]:
        return {"read": self.read, "rejected": dict(self.rejected)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.read, self.rejected = state["read"], Counter(state["rejected"])
