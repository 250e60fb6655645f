"""Which points of a sweep got no further seeds, and why: halving.json in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from owl2_jax.core.buckets import remove_if_there
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import write_json
from owl2_jax.sweeps.folder import SweepFolder, read_json

_FILE: Final = "halving.json"


@dataclass(frozen=True)
class Stop:
    """Why a point got no further seeds.

    Attributes:
      measure: that decided.
      seeds: that it had.
      mean: of the measure, over them.
      kept: the worst mean that went on, the base's not counted.
      points: how many went on.
    """

    measure: str
    seeds: int
    mean: float
    kept: float
    points: int

    def text(self) -> str:
        """For a table."""
        return (
            f"stopped after {self.seeds} seeds: {self.measure} {self.mean:.4g}, the {self.points} that went "
            f"on had {self.kept:.4g} or better"
        )


def write_stops(folder: SweepFolder, stops: Mapping[str, Stop]) -> None:
    """Replaces {point: why it was stopped}."""
    write_json(folder.path / _FILE, {name: asdict(stop) for name, stop in stops.items()})


def read_stops(folder: SweepFolder) -> dict[str, Stop]:
    """What `write_stops` wrote, nothing where it never did; raises `Owl2Error` for a damaged file."""
    path = folder.path / _FILE
    found: Any = read_json(path)
    try:
        return {name: Stop(**values) for name, values in (found or {}).items()}
    except (TypeError, AttributeError):
        raise Owl2Error(f"{path} is damaged; delete it and run the sweep again") from None


def forget_stops(folder: SweepFolder) -> None:
    """For a sweep that goes on with all points."""
    remove_if_there(folder.path / _FILE)
