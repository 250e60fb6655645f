"""A benchmark's questions and its broken rows, before anything is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final

from owl2_jax.core.buckets import names_in
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_errors import why_not_readable
from owl2_jax.core.paths import as_path, in_bucket
from owl2_jax.evals.base import Benchmark, Question
from owl2_jax.evals.broken import Broken
from owl2_jax.evals.rows import left_out

MAX_BROKEN_SHARE: Final = 0.1
_ROWS_TO_JUDGE: Final = 100  # of fewer, a share says little


def load_questions(
    name: str, benchmark: Benchmark, root: Path, limit: int | None
) -> tuple[list[Question], list[Broken]]:
    """All questions, or the first `limit`, and the broken rows met on the way.

    Of rows with the same id, the first is asked and the others are broken.

    Raises:
      Owl2Error: There are no questions, or every row is broken.
    """
    questions: dict[str, Question] = {}
    broken: list[Broken] = []
    for row in benchmark.questions(root):
        if isinstance(row, Broken):
            broken.append(row)
        elif row.id in questions:
            broken.append(left_out(row, f"has the id {row.id!r} of {questions[row.id].row or 'another row'}"))
        else:
            questions[row.id] = row
            if len(questions) == limit:
                break
    if broken and not questions:
        check_share(name, broken, len(broken), 1.0)
    if not questions:
        raise Owl2Error(f"{name} has no questions to ask; check its files and --limit")
    return list(questions.values()), broken


def check_share(
    name: str, broken: Sequence[Broken], total: int, most: float, setting: str = "--max-broken-share"
) -> None:
    """Refuses a benchmark of which too many rows are broken.

    Args:
      total: All rows.
      most: Largest share of broken ones, judged from 100 rows on; that every row is
        broken is an error always.
      setting: What the user calls the limit.

    Raises:
      Owl2Error: With the first of them.
    """
    if len(broken) == total:
        raise Owl2Error(f"{name}: every one of its {total} rows is broken, first {broken[0]}")
    if total >= _ROWS_TO_JUDGE and len(broken) > most * total:
        raise Owl2Error(
            f"{name}: {len(broken)} of {total} rows are broken ({len(broken) / total:.2%}; "
            f"{setting} is {most:.2%}), first {broken[0]}; repair the files or raise the limit"
        )


def missing_images(questions: Sequence[Question]) -> dict[int, str]:
    """What is wrong with files of images and videos that cannot be opened, by number of the question."""
    known: dict[Path, str | None] = {}
    listed = _Listed()
    missing = {}
    for index, question in enumerate(questions):
        for image in question.images:
            if isinstance(image, bytes):
                continue
            path = image if isinstance(image, PurePath) else image.path
            if path not in known:
                known[path] = listed.why_missing(path) if in_bucket(path) else _why_missing(path)
            if known[path] is not None:
                missing[index] = known[path]
                break
    return missing


class _Listed:
    """Folders of buckets, listed once: a request for each image would take minutes."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def why_missing(self, path: Path) -> str | None:
        path = as_path(path)
        folder = str(path.parent)
        if folder not in self._names:
            try:
                self._names[folder] = set(names_in(folder))
            except FileNotFoundError:
                self._names[folder] = set()
        return None if path.name in self._names[folder] else f"{path} is missing"


def _why_missing(path: Path) -> str | None:
    try:
        with path.open("rb"):
            return None
    except FileNotFoundError:
        return f"{path} is missing"  # without near names, as there may be thousands
    except (OSError, ValueError) as error:
        return why_not_readable(path, error) if isinstance(error, OSError) else f"{path!r} is no path"
