"""When each claim of a sweep was first stated: one that came after its results is told from the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from owl2_jax.core import json_files
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import JsonObject
from owl2_jax.sweeps.claims import Claim
from owl2_jax.sweeps.folder import SweepFolder, read_json
from owl2_jax.sweeps.grid import Run, Sweep

NOTES_FILE: Final = "claims.json"


def note_claims(sweep: Sweep, folder: SweepFolder, is_new: bool) -> None:
    """Notes what is asked, and of how many seeds both points were scored when it was first asked so.

    Args:
      is_new: the folder was made by this command. One of a version without notes
        says nothing of when its first claims were made.
    """
    notes = _read(folder)
    is_known = is_new or notes is not None
    found = dict(notes or {})
    for name, claim in sweep.config.claims.items():
        if name not in found or found[name]["asks"] != _asks(claim):
            seeds = _scored_seeds(sweep, folder, claim) if is_known else None
            found[name] = {"asks": _asks(claim), "seeds_before": seeds}
    if found != notes:
        json_files.write_json(folder.path / NOTES_FILE, found)


def stated_late(folder: SweepFolder, claims: Mapping[str, Claim]) -> dict[str, int]:
    """{claim: seeds that both its points had been scored of} for claims that came after results."""
    notes = _read(folder) or {}
    return {
        name: notes[name]["seeds_before"] for name in claims if name in notes and notes[name]["seeds_before"]
    }


def _asks(claim: Claim) -> JsonObject:
    """What decides the verdict; the words may change."""
    return {
        "point": claim.point,
        "than": claim.than,
        "expect": claim.expect,
        "measures": list(claim.measures),
    }


def _scored_seeds(sweep: Sweep, folder: SweepFolder, claim: Claim) -> int:
    points = {point.name: point for point in sweep.points}
    pair = (points[claim.point], points[claim.than])
    return sum(
        all(folder.run(Run(point, seed)).read_scores() for point in pair) for seed in sweep.config.seeds
    )


def _read(folder: SweepFolder) -> JsonObject | None:
    path = folder.path / NOTES_FILE
    notes = read_json(path)
    try:
        assert notes is None or all({"asks", "seeds_before"} <= set(note) for note in notes.values())
    except (AssertionError, AttributeError, TypeError):
        raise Owl2Error(f"{path} holds no notes on claims; delete it and run the sweep again") from None
    return notes
