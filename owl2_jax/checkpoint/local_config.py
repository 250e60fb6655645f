"""Where a host keeps frequent saves of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from owl2_jax.core.fields import check_values
from owl2_jax.core.ranges import Count, at_least
from owl2_jax.core.texts import FilePath


@dataclass(frozen=True)
class LocalConfig:
    """Frequent saves on each host's own disk.

    Attributes:
      folder: on a disk or in the memory of every host, as "/dev/shm/owl2"; no host sees another's.
      every_steps: how often; besides, with every save in the run directory.
      keep: how many of the newest steps are kept. A host that ends during a save has only the step
        before whole, which the others must still have: hence two.
    """

    folder: FilePath
    every_steps: Count = 50
    keep: Annotated[int, at_least(2)] = 2

    def __post_init__(self) -> None:
        check_values(self, "train.local_checkpoints")
