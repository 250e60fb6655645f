"""The record of a running evaluation, from which it can go on.

Questions are asked in chunks of fixed borders. A chunk is asked whole: what was
written of a chunk that did not finish is thrown away, so that every answer comes
out of the same calls of the engine, whether the run was interrupted or not. That
is why a restarted run ends in the same result file, to the byte.

Each process of a run writes a journal of its own and answers every n-th chunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from owl2_jax.core.append_file import AppendFile, write_lines
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import read_json_object, write_json
from owl2_jax.core.text_files import read_bytes

CHUNK = 512
_RUN = "run.json"


def chunks_of(total: int) -> list[range]:
    """The question numbers of each chunk."""
    return [range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]


def finished_chunks(folder: Path, total: int) -> dict[int, list[dict[str, Any]]]:
    """Rows of every chunk that some journal holds whole, by chunk number."""
    borders = chunks_of(total)
    finished: dict[int, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("journal-*.jsonl")):
        found: dict[int, dict[int, dict[str, Any]]] = {}
        for row in _read(path):
            found.setdefault(row["index"] // CHUNK, {})[row["index"]] = row
        for number, rows in found.items():
            if number < len(borders) and len(rows) == len(borders[number]):
                whole = [rows[index] for index in borders[number]]
                # A chunk that was asked again after an image was repaired may stand in two journals.
                if number not in finished or _broken(whole) < _broken(finished[number]):
                    finished[number] = whole
    return finished


def all_rows(folder: Path, total: int) -> list[dict[str, Any]]:
    """The rows of all questions in order, when every chunk is finished."""
    return [row for _, rows in sorted(finished_chunks(folder, total).items()) for row in rows]


def _broken(rows: Iterable[dict[str, Any]]) -> int:
    """How many questions could not be asked."""
    return sum("broken" in row for row in rows)


def start(folder: Path, identity: dict[str, Any]) -> None:
    """Marks `folder` as the place of one evaluation, or checks that it is that place.

    Raises:
      Owl2Error: The folder holds results of another checkpoint, prompt or data.
    """
    path = folder / _RUN
    if not path.exists():
        write_json(path, identity)
        return
    try:
        known = read_json_object(path)
    except Owl2Error as error:
        raise Owl2Error(f"{error}; delete {folder} to evaluate again") from error
    known = {"data_hash": identity.get("data_hash"), **known}  # which earlier versions did not note
    for key in identity:
        if known.get(key) != identity[key]:
            raise Owl2Error(
                f"{folder} holds results with {key} = {known.get(key)!r}, this run has {identity[key]!r}; "
                "choose another output folder, or delete that one"
            )


def check_checkpoint(output: Path, checkpoint: str) -> None:
    """Checks that the results of all benchmarks below `output` are of one checkpoint, as its scores.json is.

    Raises:
      Owl2Error: those of another one are there.
    """
    for path in sorted(output.glob(f"*/{_RUN}")):
        known = read_json_object(path)
        if "benchmark" in known and known.get("checkpoint") != checkpoint:
            raise Owl2Error(
                f"{output} holds results of another checkpoint ({path.parent.name}), and its scores.json "
                "would mix them; choose another output folder, or delete that one"
            )


class Journal:
    """The journal of one process, opened for the chunks that are not finished yet."""

    def __init__(self, folder: Path, process: int, finished: Iterable[int]):
        self.path = folder / f"journal-{process}.jsonl"
        finished = set(finished)
        rows = _read(self.path) if self.path.exists() else []
        kept = [row for row in rows if row["index"] // CHUNK in finished]
        write_lines(self.path, kept)
        self._file = AppendFile(self.path)

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row, which must hold its question's number as "index". Raises `Owl2Error`: no room."""
        self._file.write_json(row)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.__exit__(*exception)


def _read(path: Path) -> list[dict[str, Any]]:
    """Rows of a journal; the last line may be cut off by a kill, any other may not."""
    lines = read_bytes(path).split(b"\n")
    return list(_parsed(path, lines))


def _parsed(path: Path, lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    for number, text in enumerate(lines, 1):
        if not text:
            continue
        try:
            yield json.loads(text)
        except ValueError as error:
            # A line is complete when a line break follows it.
            if number == len(lines):
                return
            raise Owl2Error(
                f"{path}, line {number} is damaged ({error}); delete the file to go on"
            ) from error
