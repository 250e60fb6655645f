"""When each claim of a sweep was first stated: one that came after its results is told from the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from owl2_jax.core import json_files
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import Json, JsonObject
from owl2_jax.sweeps.claims import Claim
from owl2_jax.sweeps.folder import SweepFolder, read_json
from owl2_jax.sweeps.grid import Sweep

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
            seeds = len(_scored_seeds(folder, claim)) if is_known else None
            found[name] = {"asks": _asks(claim), "seeds_before": seeds}
    if found != notes:
        json_files.write_json(folder.path / NOTES_FILE, found)


def stated_late(folder: SweepFolder, claims: Mapping[str, Claim]) -> dict[str, int | None]:
    """{claim: seeds that both its points had been scored of} for claims that came after results.

    None where it is not known when a claim was first stated: its notes are lost, or were never made.
    """
    notes = _read(folder) or {}
    seeds = {name: notes[name]["seeds_before"] if name in notes else None for name in claims}
    return {name: before for name, before in seeds.items() if before != 0}


def _asks(claim: Claim) -> JsonObject:
    """What decides the verdict; the words may change."""
    return {
        "point": claim.point,
        "than": claim.than,
        "expect": claim.expect,
        "measures": list(claim.measures),
    }


def _scored_seeds(folder: SweepFolder, claim: Claim) -> set[int]:
    """Of both points."""
    return folder.scored_seeds(claim.point) & folder.scored_seeds(claim.than)


def _read(folder: SweepFolder) -> JsonObject | None:
    path = folder.path / NOTES_FILE
    notes = read_json(path)
    if notes is None or (isinstance(notes, dict) and all(map(_is_note, notes.values()))):
        return notes
    raise Owl2Error(
        f"{path} holds no notes on claims. Put an older copy in its place, or delete it: it is then told of "
        "every claim that nothing says when it was first stated"
    )


def _is_note(note: Json) -> bool:
    """Whether it is what `note_claims` writes of a claim."""
    if not isinstance(note, dict) or not {"asks", "seeds_before"} <= set(note):
        return False
    seeds = note["seeds_before"]
    return seeds is None or (type(seeds) is int and seeds >= 0)
