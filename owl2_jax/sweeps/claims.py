"""What a study asks of its sweep, before it runs: which point is better, in what, who says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from owl2_jax.core import fields
from owl2_jax.core.errors import Owl2Error, unknown_name
from owl2_jax.core.texts import AnyText, Name

LOSS: Final = "loss"
HELDOUT_LOSS: Final = "heldout_loss"
LOSSES: Final = (LOSS, HELDOUT_LOSS)


@dataclass(frozen=True)
class Claim:
    """One question to a sweep, with its answer elsewhere beside it.

    Attributes:
      point: the point it is about.
      than: the point that it is compared with.
      expect: that the measure is "higher", "lower" or the "same" at `point`.
      measures: benchmarks, kinds of their questions ("easy_vqa/shape"), "loss"
        or "heldout_loss"; each is one comparison, corrected for the others.
        "A - B" is what A has beyond B: whether a change does more for one kind
        of question than for another.
      says: the claim in words.
      source: who claims it, with the figures; empty when nobody has.
    """

    point: Name
    than: Name
    expect: Literal["higher", "lower", "same"]
    measures: tuple[AnyText, ...]
    says: AnyText
    source: AnyText = ""

    def __post_init__(self) -> None:
        fields.check_values(self, "sweep.claims")
        if not self.measures or len(set(self.measures)) < len(self.measures):
            raise Owl2Error(f"measures {list(self.measures)} are none, or one is there twice")
        if self.point == self.than:
            raise Owl2Error(f"compares point {self.point!r} with itself; give another `than`")


def terms(measure: str) -> list[str]:
    """["A"] of "A", ["A", "B"] of "A - B"."""
    return [term.strip() for term in measure.split(" - ", 1)]


def check_claims(claims: Mapping[str, Claim], points: Collection[str], benchmarks: Collection[str]) -> None:
    """Raises `Owl2Error` for a point or a measure that the sweep cannot have."""
    for name, claim in claims.items():
        for point in (claim.point, claim.than):
            if point not in points:
                raise unknown_name(f"point in claim {name!r}", point, points)
        for measure in claim.measures:
            _check_measure(name, measure, benchmarks)


def _check_measure(claim: str, measure: str, benchmarks: Collection[str]) -> None:
    """Kinds of questions are known when runs have been scored; the rest is checked before they start."""
    found = terms(measure)
    for term in found:
        benchmark, slash, kind = term.partition("/")
        if not (benchmark in benchmarks and bool(slash) == bool(kind)) and term not in LOSSES:
            raise unknown_name(f"measure in claim {claim!r}", term, (*benchmarks, *LOSSES))
    if len(found) > 1 and (len(set(found)) == 1 or len({term in LOSSES for term in found}) > 1):
        raise Owl2Error(
            f"claim {claim!r}: {measure!r} tells nothing; a difference is of two benchmarks or kinds of "
            "questions, or of the two losses"
        )
