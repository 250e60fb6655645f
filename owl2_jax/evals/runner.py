"""Runs a benchmark: asks what is not answered yet, scores, sums up.

OUT/<benchmark>/run.json        what was evaluated, so that runs never mix
                journal-*.jsonl one line a question as it is answered
                results.jsonl   one line a question, in order; the same bytes for the same model
                times.jsonl     the seconds of each answer, in the same order
                summary.json    all metrics
OUT/scores.json                 one entry a benchmark
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.evals import journal
from owl2_jax.evals.asking import Model, Reply
from owl2_jax.evals.base import Answered, Benchmark, Judged, Question, Summary
from owl2_jax.evals.results import Score, make_score

Progress = Callable[[int, int], None]

# What differs from run to run, or counts for the journal alone, stands in no result.
_OF_THE_JOURNAL = ("index", "seconds", "answer_seconds")


@dataclass(frozen=True)
class Shard:
    """This process among those that share a run; `barrier` waits for all of them."""

    index: int = 0
    count: int = 1
    barrier: Callable[[], None] = lambda: None


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
      progress: Called with (answered, total) of this process.

    Returns:
      The score; None on all processes but the first.

    Raises:
      Owl2Error: A file or program is missing, or `out` holds another evaluation.
    """
    benchmark.check()
    questions = load_questions(name, benchmark, root, limit)
    folder = out / name
    journal.start(folder, _identity(name, benchmark, questions, checkpoint))
    _ask_missing(benchmark, questions, model, folder, shard, progress)
    shard.barrier()
    if shard.index:
        return None
    rows = [
        row for _, rows in sorted(journal.finished_chunks(folder, len(questions)).items()) for row in rows
    ]
    answered = [
        Answered(question, row["prediction"], row["score"])
        for question, row in zip(questions, rows, strict=True)
    ]
    summary = _summarise(name, benchmark, answered, judgements)
    _write_results(folder, rows, summary)
    benchmark.export(answered, folder)
    seconds = sum(row["seconds"] for row in rows)
    score = make_score(name, benchmark, answered, summary, seconds)
    journal.write_atomically(folder / "summary.json", json.dumps(asdict(score), indent=1, ensure_ascii=False))
    return score


def answer_in_memory(benchmark: Benchmark, questions: Sequence[Question], model: Model) -> list[Answered]:
    """Answers and scores without files, for evaluation during training."""
    replies = model.replies(questions, benchmark.decoding, benchmark.image_mode)
    return [
        Answered(question, reply.text, benchmark.score(question, reply.text))
        for question, reply in zip(questions, replies, strict=True)
    ]


def load_questions(name: str, benchmark: Benchmark, root: Path, limit: int | None) -> list[Question]:
    """All questions, or the first `limit`; raises `Owl2Error` for none and for repeated ids."""
    questions = list(islice(benchmark.questions(root), limit))
    if not questions:
        raise Owl2Error(f"{name} has no questions to ask; check its files and --limit")
    if len({question.id for question in questions}) < len(questions):
        raise Owl2Error(f"{name} has two questions with the same id; its file is not the published one")
    return questions


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
    }


def _ask_missing(
    benchmark: Benchmark,
    questions: Sequence[Question],
    model: Callable[[], Model],
    folder: Path,
    shard: Shard,
    progress: Progress,
) -> None:
    finished = journal.finished_chunks(folder, len(questions))
    chunks = [
        (number, chunk)
        for number, chunk in enumerate(journal.chunks_of(len(questions)))
        if number % shard.count == shard.index
    ]
    total = sum(len(chunk) for _, chunk in chunks)
    left = [chunk for number, chunk in chunks if number not in finished]
    done = total - sum(map(len, left))
    if not left:
        return
    check_pictures([questions[index] for chunk in left for index in chunk])
    asked = model()
    with journal.Journal(folder, shard.index, finished) as log:
        for chunk in left:
            before = time.perf_counter()
            replies = asked.replies(
                [questions[index] for index in chunk], benchmark.decoding, benchmark.image_mode
            )
            for index, reply in zip(chunk, replies, strict=True):
                now = time.perf_counter()
                log.write(_row(index, benchmark, questions[index], reply, now - before))
                before = now
                done += 1
                progress(done, total)


def check_pictures(questions: Sequence[Question]) -> None:
    """Raises `Owl2Error` when files of pictures or videos are missing, before the first question is asked."""
    pictures = (picture for question in questions for picture in question.images)
    paths = {p if isinstance(p, Path) else p.path for p in pictures if not isinstance(p, bytes)}
    missing = sorted(path for path in paths if not path.is_file())
    if missing:
        raise Owl2Error(f"{len(missing)} of {len(paths)} files of pictures are missing, first {missing[0]}")


def _row(
    index: int, benchmark: Benchmark, question: Question, reply: Reply, seconds: float
) -> dict[str, Any]:
    """A line of the journal; `seconds` is the time since the answer before, which add up to the run's."""
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


def _write_results(folder: Path, rows: Sequence[dict[str, Any]], summary: Summary) -> None:
    lines, times = [], []
    for row, score in zip(rows, summary.scores, strict=True):
        # Times differ from run to run, so they stand in a file of their own; the results must not.
        kept = {key: value for key, value in row.items() if key not in _OF_THE_JOURNAL}
        lines.append(journal.line({**kept, "score": score}))
        times.append(journal.line({"id": row["id"], "seconds": row["answer_seconds"]}))
    journal.write_atomically(folder / "results.jsonl", "".join(lines))
    journal.write_atomically(folder / "times.jsonl", "".join(times))
