"""A row with its place in a file, and a row that gives no question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True)
class Broken:
    """A row that gives no question, or one that cannot be asked.

    Attributes:
      file: the file it stands in.
      row: its place there, as "row 3" or "line 4".
      why: what is wrong, as a clause after its place.
    """

    file: str
    row: str
    why: str

    def __str__(self) -> str:
        return " ".join(f"{self.file}, {self.row} {self.why}".split())


@dataclass(frozen=True)
class At(Generic[Row]):
    """A row with its place in the file, where that is not its number from 0."""

    place: str
    value: Row
