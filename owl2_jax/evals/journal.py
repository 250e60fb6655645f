"""The record of a running evaluation, from which it can go on.

Questions are asked in chunks of fixed borders. A chunk is asked whole: what was
written of a chunk that did not finish is thrown away, so that every answer comes
out of the same calls of the engine, whether the run was interrupted or not. That
is why a restarted run ends in the same result file, to the byte.

Each process of a run writes a journal of its own and answers every n-th chunk.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from owl2_jax.core.errors import Owl2Error

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
                # A chunk that was asked again after a picture was mended may stand in two journals.
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
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _RUN
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_atomically(path, json.dumps(identity, indent=1, ensure_ascii=False))
        return
    except ValueError as error:
        raise Owl2Error(f"{path} is damaged ({error}); delete {folder} to evaluate anew") from error
    for key in identity:
        if known.get(key) != identity[key]:
            raise Owl2Error(
                f"{folder} holds results with {key} = {known.get(key)!r}, this run has {identity[key]!r}; "
                "choose another output folder, or delete that one"
            )


class Journal:
    """The journal of one process, opened for the chunks that are not finished yet."""

    def __init__(self, folder: Path, process: int, finished: Iterable[int]):
        self.path = folder / f"journal-{process}.jsonl"
        finished = set(finished)
        rows = _read(self.path) if self.path.exists() else []
        kept = [row for row in rows if row["index"] // CHUNK in finished]
        write_atomically(self.path, "".join(map(line, kept)))
        self._file: TextIO = self.path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row, which must hold its question's number as "index"."""
        self._file.write(line(row))
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def line(row: dict[str, Any]) -> str:
    """One line of a JSONL file."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_atomically(path: Path, text: str) -> None:
    """Writes a whole file or, when interrupted, leaves the old one."""
    # Several hosts may write the same file into a shared folder.
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _read(path: Path) -> list[dict[str, Any]]:
    """Rows of a journal; the last line may be cut off by a kill, any other may not."""
    lines = path.read_bytes().split(b"\n")
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
