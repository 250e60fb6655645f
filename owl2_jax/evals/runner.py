"""Runs a benchmark: asks what is not answered yet, scores, sums up.

OUT/<benchmark>/run.json        what was evaluated, so that runs never mix
                journal-*.jsonl one line a question as it is answered
                results.jsonl   one line a question, in order; the same bytes for the same model
                broken.jsonl    one line a row that could not be asked; no file where there is none
                times.jsonl     the seconds of each answer, in the same order
                summary.json    all metrics
OUT/scores.json                 one entry a benchmark
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from owl2_jax.core.append_file import write_lines
from owl2_jax.core.buckets import remove_if_there
from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.file_writing import write_text
from owl2_jax.data import images
from owl2_jax.data.images import ImageError
from owl2_jax.evals import journal
from owl2_jax.evals.asking import Model, Reply
from owl2_jax.evals.base import Answered, Benchmark, Judged, Question, Summary
from owl2_jax.evals.broken import Broken
from owl2_jax.evals.loading import MAX_BROKEN_SHARE, check_share, load_questions, missing_images
from owl2_jax.evals.results import Score, make_score
from owl2_jax.evals.rows import left_out

Progress = Callable[[int, int], None]


# What differs from run to run, or counts for the journal alone, stands in no result.
_OF_THE_JOURNAL = ("index", "seconds", "answer_seconds")


@dataclass(frozen=True)
class Shard:
    """This process among those that share a run.

    Attributes:
      barrier: waits for all of them.
      by_first: has the first of them do something, and raises on all what that raised.
    """

    index: int = 0
    count: int = 1
    barrier: Callable[[], None] = lambda: None
    by_first: Callable[[Callable[[], object]], None] = lambda action: action()


def evaluate(
    name: str,
    benchmark: Benchmark,
    model: Callable[[], Model],
    *,
    checkpoint: str,
    root: Path,
    out: Path,
    limit: int | None = None,
    shard: Shard = Shard(),
    judgements: Path | None = None,
    max_broken_share: float = MAX_BROKEN_SHARE,
    progress: Progress = lambda done, total: None,
) -> Score | None:
    """Answers, scores and sums up one benchmark, going on where an earlier run stopped.

    Args:
      name: The benchmark's name in the registry; its folder below `out`.
      model: Makes the model; called only if a question is left to ask.
      checkpoint: What identifies the parameters, for `run.json`.
      root: The data root.
      limit: Only the first so many questions.
      judgements: A judge's file, for judged benchmarks.
      max_broken_share: Largest share of rows that may be broken; see `check_share`.
      progress: Called with (answered, total) of this process.

    Returns:
      The score; None on all processes but the first.

    Raises:
      Owl2Error: A file or program is missing, `out` holds another evaluation, or too
        many rows are broken: before any is asked, or, where images are damaged, after
        the results of the others are written. All processes raise it.
    """
    benchmark.check()
    questions, broken = load_questions(name, benchmark, root, limit)
    missing = missing_images(questions)
    unasked = [
        *broken,
        *(left_out(questions[index], f"cannot be asked: {why}") for index, why in missing.items()),
    ]
    check_share(name, unasked, len(questions) + len(broken), max_broken_share)
    folder = out / name
    journal.start(folder, _identity(name, benchmark, questions, checkpoint))
    _ask_missing(benchmark, questions, missing, model, folder, shard, progress)
    shard.barrier()
    scores: list[Score] = []
    shard.by_first(
        lambda: scores.append(
            _score(name, benchmark, questions, broken, folder, judgements, max_broken_share)
        )
    )
    return scores[0] if scores else None


def _score(
    name: str,
    benchmark: Benchmark,
    questions: Sequence[Question],
    broken: Sequence[Broken],
    folder: Path,
    judgements: Path | None,
    max_broken_share: float,
) -> Score:
    """Sums up what the journals of all processes hold, and writes it. Raises `Owl2Error` as `evaluate`."""
    broken, rows = list(broken), []
    total = len(questions) + len(broken)
    for row in journal.all_rows(folder, len(questions)):
        if "broken" in row:
            broken.append(left_out(questions[row["index"]], f"cannot be asked: {row['broken']}"))
        else:
            rows.append(row)
    if not rows:
        check_share(name, broken, total, max_broken_share)
    answered = [Answered(questions[row["index"]], row["prediction"], row["score"]) for row in rows]
    summary = _summarise(name, benchmark, answered, judgements)
    broken += summary.broken
    _write_results(folder, rows, summary, broken)
    benchmark.export(answered, folder)
    seconds = sum(row["seconds"] for row in rows)
    score = make_score(name, benchmark, answered, summary, seconds, broken)
    write_text(folder / "summary.json", json.dumps(asdict(score), indent=1, ensure_ascii=False))
    check_share(name, broken, total, max_broken_share)
    return score


def answer_in_memory(
    benchmark: Benchmark, questions: Sequence[Question], model: Model
) -> list[Answered | Broken]:
    """Answers and scores without files, for evaluation during training."""
    replies = model.replies(questions, benchmark.decoding, benchmark.image_mode)
    return [
        left_out(question, f"cannot be asked: {reply}")
        if isinstance(reply, Owl2Error)
        else Answered(question, reply.text, benchmark.score(question, reply.text))
        for question, reply in zip(questions, replies, strict=True)
    ]


def _identity(
    name: str, benchmark: Benchmark, questions: Sequence[Question], checkpoint: str
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for question in questions:
        digest.update(f"{question.id}\0{question.prompt}\0{question.options}\0".encode())
    return {
        "benchmark": name,
        "checkpoint": checkpoint,
        "prompt_hash": benchmark.prompt.hash,
        "questions": len(questions),
        "questions_hash": digest.hexdigest()[:16],
        "decoding": {**asdict(benchmark.decoding), "stop": list(benchmark.decoding.stop)},
        "image_mode": benchmark.image_mode,
        "data_hash": _data_hash(questions),
    }


def _data_hash(questions: Sequence[Question]) -> str:
    """Changes with the true answers. Images are left out: a damaged one may be repaired and then asked."""
    digest = hashlib.sha256()
    for question in questions:
        digest.update(f"{question.answer}\0".encode(errors="surrogatepass"))
    return digest.hexdigest()[:16]


def _ask_missing(
    benchmark: Benchmark,
    questions: Sequence[Question],
    missing: Mapping[int, str],
    model: Callable[[], Model],
    folder: Path,
    shard: Shard,
    progress: Progress,
) -> None:
    """Asks all chunks of this process that are not finished, or hold images repaired since."""
    finished = journal.finished_chunks(folder, len(questions))
    kept = {
        number for number, rows in finished.items() if not any(_is_mended(row, questions) for row in rows)
    }
    chunks = [
        (number, chunk)
        for number, chunk in enumerate(journal.chunks_of(len(questions)))
        if number % shard.count == shard.index
    ]
    total = sum(len(chunk) for _, chunk in chunks)
    left = [chunk for number, chunk in chunks if number not in kept]
    done = total - sum(map(len, left))
    if not left:
        return
    asked = model()
    with journal.Journal(folder, shard.index, kept) as log:
        for chunk in left:
            before = time.perf_counter()
            for index, reply in _replies(benchmark, questions, chunk, missing, asked):
                now = time.perf_counter()
                log.write(_row(index, benchmark, questions[index], reply, now - before))
                before = now
                done += 1
                progress(done, total)


def _replies(
    benchmark: Benchmark,
    questions: Sequence[Question],
    chunk: Sequence[int],
    missing: Mapping[int, str],
    model: Model,
) -> Iterator[tuple[int, Reply | Owl2Error]]:
    """The reply to each question of a chunk; those whose images are missing are not asked."""
    yield from ((index, ImageError(missing[index], "missing")) for index in chunk if index in missing)
    asked = [index for index in chunk if index not in missing]
    replies = model.replies([questions[index] for index in asked], benchmark.decoding, benchmark.image_mode)
    yield from zip(asked, replies, strict=True)


def _is_mended(row: Mapping[str, Any], questions: Sequence[Question]) -> bool:
    """Whether a question that could not be asked for its image can be asked now."""
    if not row.get("image", row.get("picture")):  # "picture" in journals of older versions
        return False
    try:
        for image in questions[row["index"]].images:
            images.decode(image if isinstance(image, PurePath | bytes) else image.read())
    except Owl2Error:
        return False
    return True


def _row(
    index: int, benchmark: Benchmark, question: Question, reply: Reply | Owl2Error, seconds: float
) -> dict[str, Any]:
    """A line of the journal; `seconds` is the time since the answer before, which add up to the run's."""
    if isinstance(reply, Owl2Error):
        of_image = isinstance(reply, ImageError)
        return {
            "index": index,
            "id": question.id,
            "broken": " ".join(str(reply).split()),
            "image": of_image,
        }
    row = {
        "index": index,
        "id": question.id,
        "prompt": reply.prompt,
        "prompt_hash": question.prompt_hash,
        "answer": question.answer,
        "prediction": reply.text,
        "score": benchmark.score(question, reply.text),
        "seconds": round(seconds, 6),
        "answer_seconds": round(seconds if reply.seconds is None else reply.seconds, 6),
    }
    if reply.option_logprobs:
        row["option_logprobs"] = list(reply.option_logprobs)
    return row


def _summarise(
    name: str, benchmark: Benchmark, answered: Sequence[Answered], judgements: Path | None
) -> Summary:
    if judgements is None:
        return benchmark.summarise(answered)
    if not isinstance(benchmark, Judged):
        raise Owl2Error(f"{name} is not judged by a model; leave its judgements out")
    return benchmark.judged(answered, judgements)


def _write_results(
    folder: Path, rows: Sequence[dict[str, Any]], summary: Summary, broken: Sequence[Broken]
) -> None:
    lines, times = [], []
    for row, score in zip(rows, summary.scores, strict=True):
        # Times differ from run to run, so they stand in a file of their own; the results must not.
        kept = {key: value for key, value in row.items() if key not in _OF_THE_JOURNAL}
        lines.append({**kept, "score": score})
        times.append({"id": row["id"], "seconds": row["answer_seconds"]})
    write_lines(folder / "results.jsonl", lines)
    write_lines(folder / "times.jsonl", times)
    path = folder / "broken.jsonl"
    if broken:
        write_lines(path, [asdict(row) for row in broken])
    else:
        remove_if_there(path)
