"""The claims of a sweep beside what its runs show, as CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from owl2_jax.core.buckets import remove_if_there
from owl2_jax.core.errors import unknown_name
from owl2_jax.core.file_writing import write_text
from owl2_jax.sweeps.claims import LOSSES, Claim, terms
from owl2_jax.sweeps.collect import Row, Table
from owl2_jax.sweeps.differences import Difference, corrected, paired

AS_CLAIMED: Final = "as claimed"
CONTRARY: Final = "the contrary"
NOT_TOLD: Final = "not told"
NONE_SEEN: Final = "no difference seen"
NOT_RUN: Final = "not run"
NOT_SHARED: Final = "no seeds in common"
NONE_LATE: Final[Mapping[str, int | None]] = MappingProxyType({})
_FILES: Final = ("claims.csv", "claims.md")
_COLUMNS: Final = (
    "claim", "says", "source", "point", "than", "measure", "point_mean", "than_mean", "seeds", "difference",
    "low", "high", "p", "verdict", "seeds_before",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What the runs say to one measure of a claim.

    Attributes:
      means: of the claim's point and of that it is compared with, over their
        finished seeds; None before both have run.
      difference: point less than, corrected among the claim's measures.
    """

    name: str
    claim: Claim
    measure: str
    means: tuple[float, float] | None
    difference: Difference | None

    @property
    def verdict(self) -> str:
        """Whether the claim holds here; `NOT_TOLD` where the seeds leave both sides possible."""
        found = self.difference
        if found is None:
            return NOT_RUN if self.means is None else NOT_SHARED
        if found.p_corrected is None:  # one seed, or the same difference on each: nothing was tested
            is_none = found.seeds > 1 and found.mean == 0 and self.claim.expect == "same"
            return NONE_SEEN if is_none else NOT_TOLD
        if self.claim.expect == "same":
            return CONTRARY if found.is_seen else NONE_SEEN
        if not found.is_seen:
            return NOT_TOLD
        return AS_CLAIMED if (found.mean > 0) == (self.claim.expect == "higher") else CONTRARY


def answers(table: Table, claims: Mapping[str, Claim]) -> list[Answer]:
    """All measures of all claims. Raises `UnknownNameError` for a kind of question that the runs lack."""
    rows = {row.point: row for row in table.rows}
    found = []
    for name, claim in claims.items():
        point, than = rows.get(claim.point), rows.get(claim.than)
        if point is None or than is None:
            found += [Answer(name, claim, measure, None, None) for measure in claim.measures]
            continue
        values = [[_by_seed(name, row, measure) for row in (point, than)] for measure in claim.measures]
        differences = corrected([paired(other, own) for own, other in values])
        for measure, (own, other), difference in zip(claim.measures, values, differences, strict=True):
            means = (_mean(own), _mean(other)) if own and other else None
            found.append(Answer(name, claim, measure, means, difference))
    return found


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)


def _by_seed(claim: str, row: Row, measure: str) -> dict[int, float]:
    """{seed: value} of "A", or of A less B."""
    for term in terms(measure):
        if not row.has(term):
            what = f"measure in claim {claim!r}: the runs of {row.point} have no"
            raise unknown_name(what, term, row.names)
    first, *rest = (row.measure(term).by_seed for term in terms(measure))
    shared = [seed for seed in first if all(seed in other for other in rest)]
    return {seed: first[seed] - sum(other[seed] for other in rest) for seed in shared}


def write_claims(
    found: Sequence[Answer], folder: Path, late: Mapping[str, int | None] = NONE_LATE
) -> list[Path]:
    """Writes claims.csv (full precision) and claims.md (for reading); removes them when nothing is claimed.

    Args:
      late: of `claims_notes.stated_late`.
    """
    paths = [folder / name for name in _FILES]
    if not found:
        for path in paths:
            remove_if_there(path)
        return []
    for path, text in zip(paths, (_csv(found, late), claims_markdown(found, late)), strict=True):
        write_text(path, text)
    return paths


def _csv(found: Sequence[Answer], late: Mapping[str, int | None]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in found:
        claim, d = one.claim, one.difference
        told = ("",) * 5 if d is None else (d.seeds, d.mean, d.low, d.high, d.p_corrected)
        writer.writerow(
            [one.name, claim.says, claim.source, claim.point, claim.than, one.measure,
             *(one.means or ("", "")), *("" if cell is None else cell for cell in told), one.verdict,
             "unknown" if late.get(one.name, 0) is None else late.get(one.name, "")]
        )  # fmt: skip
    return stream.getvalue()


def claims_markdown(found: Sequence[Answer], late: Mapping[str, int | None] = NONE_LATE) -> str:
    """A row per measure of each claim; `late` is of `claims_notes.stated_late`."""
    lines = ["| claim | source | here | measure | difference | verdict |", "|" + " --- |" * 6]
    said = None
    for one in found:
        claim = one.claim
        first = [_cell(claim.says), _cell(claim.source)] if one.name != said else ["", ""]
        here = f"{claim.point} less {claim.than}"
        difference = "" if one.difference is None else _digits(one)
        lines.append(f"| {' | '.join([*first, here, one.measure, difference, one.verdict])} |")
        said = one.name
    lines += ["", _note(found)]
    named = ", ".join(f"{name} ({seeds} seed{'s' * (seeds > 1)})" for name, seeds in late.items() if seeds)
    if named:
        lines += ["", f"Stated, or changed, when both of its points had been scored: {named}."]
    unknown = ", ".join(name for name, seeds in late.items() if seeds is None)
    if unknown:
        lines += ["", f"Nothing says whether they were stated before the results: {unknown}."]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """As one cell of a table of Markdown."""
    return " ".join(text.split()).replace("|", "\\|")


def _digits(one: Answer) -> str:
    assert one.difference is not None
    return one.difference.text(3 if terms(one.measure)[0] in LOSSES else 1)


def _note(found: Sequence[Answer]) -> str:
    count = len({one.name for one in found})
    return (
        "Differences are of the same seeds, with the interval of a t-test over the seeds. Among the "
        "measures of a claim even one false difference is called one time in 20 at most (Holm); "
        f"{count} claim{'s are' if count > 1 else ' is'} made, each a question of its own."
    )
