"""Which values a number of a setting may have, said where the field is declared.

    num_layers: Count = 24
    dropout: Annotated[float, between(0, 1, below=True)] = 0.0

`core.fields` checks them when a dataclass is built from a dict, `check_values`
when one is built in code, and the command line for flags (`type=Count`).
No range holds NaN or infinity, nor what is outside of it in float32, where a
rate of 1e39 is infinite, one of 1e-50 is 0 and a `b2` of 0.99999999999 is 1.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Annotated, Final

# Steps, positions and sizes are int32 on the device; a field that holds more says its own end.
_INT32: Final = 2**31 - 1
_SMALLEST: Final = 2.0**-126  # normal float32


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`; `above` and `below` leave the ends out.

    `most` ends whole numbers without a `high`; it is told only where it is exceeded.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    most: int = _INT32

    def __contains__(self, value: float) -> bool:
        if isinstance(value, float):
            return all(math.isfinite(one) and self._holds(one) for one in (value, _single(value)))
        return self._holds(value) and not (self.high == math.inf and value > self.most)

    def _holds(self, value: float) -> bool:
        too_low = value <= self.low if self.above else value < self.low
        too_high = value >= self.high if self.below else value > self.high
        return not (too_low or too_high)

    def expected(self, value: float) -> str:
        """What should have stood in place of `value`, which is not in the range."""
        if isinstance(value, float):
            if not math.isfinite(value):
                return f"finite and {self}"
            if not self._holds(value):
                return str(self)
            return (
                f"{self} in float32, too"
                if math.isfinite(_single(value))
                else f"finite in float32 and {self}"
            )
        return f"at most {self.most}" if self.high == math.inf and value > self.most else str(self)

    def __str__(self) -> str:
        low = "" if self.low == -math.inf else f"{'above' if self.above else 'at least'} {_plain(self.low)}"
        high = "" if self.high == math.inf else f"{'below' if self.below else 'at most'} {_plain(self.high)}"
        if low and high and not self.above and not self.below:
            return f"from {_plain(self.low)} to {_plain(self.high)}"
        return " and ".join(filter(None, (low, high))) or "any number"


def at_least(low: float, most: int = _INT32) -> Range:
    """Numbers from `low`; whole ones up to `most`."""
    return Range(low, most=most)


def above(low: float) -> Range:
    """Numbers larger than `low`."""
    return Range(low, above=True)


def between(low: float, high: float, *, above: bool = False, below: bool = False) -> Range:
    """Numbers from `low` to `high`; `above` and `below` leave the ends out."""
    return Range(low, high, above, below)


def _single(value: float) -> float:
    """The nearest float32; too large ones are infinite, those below the normal ones 0, as on devices."""
    try:
        single = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return single if abs(single) >= _SMALLEST else 0.0


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) < 1e20 else f"{number:g}"


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
# Of a request's own random stream.
SampleSeed = Annotated[int, between(0, 2**63 - 1)]
# Of beam search: answers kept side by side, and the exponent of their length.
Beams = Annotated[int, between(1, 32)]
LengthPenalty = Annotated[float, between(0, 10)]
PartKept = Annotated[float, between(0, 1, above=True)]  # a share that is not nothing
PartLost = Annotated[float, between(0, 1, below=True)]  # a share that is not everything


def range_of(metadata: tuple[object, ...]) -> Range | None:
    """The range among the extras of an `Annotated` type."""
    return next((extra for extra in metadata if isinstance(extra, Range)), None)
