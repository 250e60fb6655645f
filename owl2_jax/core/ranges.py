"""Which values a number of a setting may have, said where the field is declared.

    num_layers: Count = 24
    dropout: Annotated[float, between(0, 1, below=True)] = 0.0

`core.fields` checks them when a dataclass is built from a dict, `check_ranges`
when one is built in code, and the command line (`cli.common.number`) for flags.
No range holds NaN or infinity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Final

# Steps, positions and sizes are int32 on the device; a field that holds more says its own end.
_INT32: Final = 2**31 - 1


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`; `above` and `below` leave the ends out."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if isinstance(value, int) and self.high == math.inf and value > _INT32:
            return False
        too_low = value <= self.low if self.above else value < self.low
        too_high = value >= self.high if self.below else value > self.high
        return not (too_low or too_high)

    def expected(self, value: float) -> str:
        """What should have stood in place of `value`, which is not in the range."""
        if isinstance(value, float) and not math.isfinite(value):
            return f"finite and {self}"
        return f"at most {_INT32}" if self.high == math.inf and value > _INT32 else str(self)

    def __str__(self) -> str:
        low = "" if self.low == -math.inf else f"{'above' if self.above else 'at least'} {_plain(self.low)}"
        high = "" if self.high == math.inf else f"{'below' if self.below else 'at most'} {_plain(self.high)}"
        if low and high and not self.above and not self.below:
            return f"from {_plain(self.low)} to {_plain(self.high)}"
        return " and ".join(filter(None, (low, high))) or "any number"


def at_least(low: float) -> Range:
    return Range(low)


def above(low: float) -> Range:
    return Range(low, above=True)


def between(low: float, high: float, *, above: bool = False, below: bool = False) -> Range:
    return Range(low, high, above, below)


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else f"{number:g}"


ANY_NUMBER: Final = Range()

Count = Annotated[int, at_least(1)]
Whole = Annotated[int, at_least(0)]
Positive = Annotated[float, above(0)]
NotNegative = Annotated[float, at_least(0)]
Share = Annotated[float, between(0, 1)]
AnyNumber = Annotated[float, ANY_NUMBER]
Port = Annotated[int, between(0, 65535)]
# JAX makes keys of 32 bits of a seed: of larger ones it would drop the rest.
Seed = Annotated[int, between(0, 2**32 - 1)]


def range_of(metadata: tuple[Any, ...]) -> Range | None:
    """The range among the extras of an `Annotated` type."""
    return next((extra for extra in metadata if isinstance(extra, Range)), None)
