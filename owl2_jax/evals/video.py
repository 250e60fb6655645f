"""Questions about videos, seen as evenly spaced frames: MSVD-QA, MSRVTT-QA, TGIF-QA (frame).

The videos are read as they are published (.avi, .mp4, .gif) by PyAV, through
`data.video`: a video is cut into equal stretches of time, and the frame shown in
the middle of each becomes an image of the prompt.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owl2_jax.core.file_writing import write_text
from owl2_jax.core.overriding import override
from owl2_jax.core.prompt_format import IMAGE_TAG
from owl2_jax.core.text_files import lines, read_text
from owl2_jax.data.prompts import PROMPTS
from owl2_jax.data.video import Frame, decode_frame, require_reader
from owl2_jax.evals.base import Answered, Judged, Question, Summary, percent
from owl2_jax.evals.broken import At, Broken
from owl2_jax.evals.files import DataFile, read_object, read_rows
from owl2_jax.evals.metrics.answers import exact_match
from owl2_jax.evals.rows import identifier, parse_rows, text, usable
from owl2_jax.evals.tables import read_table

XU = "github.com/xudejing/video-question-answering"
_BEST_GRADE = 5
_KEPT_FRAMES = 64  # encoded; questions on one video follow each other


@dataclass(frozen=True)
class VideoFrame:
    """Frame `number` of `count` evenly spaced ones of a video, read when it is asked for."""

    path: Path
    number: int
    count: int

    def read(self) -> bytes:
        """The frame as PNG bytes; short videos show a frame more than once.

        Raises:
          Owl2Error: The video is missing or damaged.
        """
        return _png(self)


@functools.lru_cache(_KEPT_FRAMES)
def _png(frame: VideoFrame) -> bytes:
    buffer = io.BytesIO()
    decode_frame(Frame(str(frame.path), frame.number, frame.count)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class VideoQuestions(Judged):
    """A question about a video, answered in a word; exact match, or a judge's yes and grade."""

    prompt = PROMPTS["video"]
    num_frames = 8

    def question(self, name: str, question: str, video: Path, answer: str) -> Question:
        """A question of the file's row, on evenly spaced frames of its video."""
        frames = tuple(VideoFrame(video, number, self.num_frames) for number in range(self.num_frames))
        tags, question = IMAGE_TAG * len(frames), text(question, "the question")
        prompt = self.prompt.text(frames=tags, question=question)
        answer = text(answer, "the answer")
        return Question(name, prompt, self.prompt.hash, answer, frames, info={"question": question})

    @override
    def check(self) -> None:
        require_reader()

    @override
    def score(self, question: Question, prediction: str) -> float:
        return exact_match(prediction, question.answer)

    @override
    def export(self, answered: Sequence[Answered], folder: Path) -> list[Path]:
        """One JSON line a question, as the usual GPT judges of video answers read it."""
        path = folder / "video_answers.jsonl"
        rows = [
            {
                "id": answer.question.id,
                "question": answer.question.info["question"],
                "answer": answer.question.answer,
                "pred": answer.prediction,
            }
            for answer in answered
        ]
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return [path]

    @override
    def judged(self, answered: Sequence[Answered], judgements: Path) -> Summary:
        """Reads {id: [{"pred": "yes" or "no", "score": 0 to 5}, ...]}, the judge's combined file."""
        replies = read_object(judgements)

        def parse(answer: Answered) -> tuple[float, float]:
            if answer.question.id not in replies:
                raise ValueError("there is no judgement of it")
            reply = replies[answer.question.id][0]
            said, grade = text(reply["pred"], "pred").strip().lower(), float(reply["score"])
            if said not in ("yes", "no") or not 0 <= grade <= _BEST_GRADE:
                raise ValueError(f"expected yes or no, and a score from 0 to {_BEST_GRADE}; found {reply}")
            return float(said == "yes"), grade

        rows = [At(f"question {answer.question.id}", answer) for answer in answered]
        pairs, broken = usable(judgements, list(parse_rows(judgements, rows, parse)))
        known = [pair for pair in pairs if pair is not None]
        metrics = {
            self.metric: percent([right for right, _ in known]),
            "judged_score": sum(grade for _, grade in known) / len(known),
        }
        return Summary(metrics, [pair and pair[0] for pair in pairs], broken=broken)


class MSRVTTQA(VideoQuestions):
    """MSRVTT-QA test (Xu et al. 2017): 72 821 questions."""

    title = "MSRVTT-QA test"
    published = 46.7
    published_note = "outside report"
    files = (
        DataFile("msrvtt_qa/test_qa.json", XU),
        DataFile("msrvtt_qa/TestVideo", "ms-multimedia-challenge.com (test_videos.zip)"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, videos = self.data_file(root), self.data_file(root, 1)

        def parse(row: dict[str, Any]) -> Question:
            video = videos / f"video{row['video_id']}.mp4"
            return self.question(identifier(row["id"], "id"), row["question"], video, row["answer"])

        yield from parse_rows(path, read_rows(path), parse)


class MSVDQA(VideoQuestions):
    """MSVD-QA test (Xu et al. 2017): 13 157 questions; videos are numbered by a table of the authors."""

    title = "MSVD-QA test"
    files = (
        DataFile("msvd_qa/test_qa.json", XU),
        DataFile("msvd_qa/youtube_mapping.txt", XU),
        DataFile("msvd_qa/YouTubeClips", "cs.utexas.edu/users/ml/clamp/videoDescription (YouTubeClips.tar)"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, videos = self.data_file(root), self.data_file(root, 2)
        names: dict[str, str] = {}
        for pair in self._clips(root):
            if isinstance(pair, Broken):
                yield pair
            else:
                names.setdefault(*pair)

        def parse(row: dict[str, Any]) -> Question:
            number = f"vid{row['video_id']}"
            if number not in names:
                raise ValueError(f"there is no clip {number} in {self.files[1].path}")
            video = videos / f"{names[number]}.avi"
            return self.question(identifier(row["id"], "id"), row["question"], video, row["answer"])

        yield from parse_rows(path, read_rows(path), parse)

    def _clips(self, root: Path) -> Iterator[tuple[str, str] | Broken]:
        """Each clip's number and name, from lines such as "-4wsuPCjDBc_5_15 vid1"."""
        path = self.data_file(root, 1)

        def parse(line: str) -> tuple[str, str]:
            clip, number = line.split()
            return number, clip

        numbered = enumerate(lines(read_text(path)), 1)
        rows = [At(f"line {number}", line) for number, line in numbered if line.strip()]
        return parse_rows(path, rows, parse)


class TGIFQA(VideoQuestions):
    """TGIF-QA, frame questions, test: 13 691 questions about animations."""

    title = "TGIF-QA frame test"
    files = (
        DataFile("tgif_qa/Test_frameqa_question.csv", "github.com/YunseokJANG/tgif-qa"),
        DataFile("tgif_qa/gifs", "github.com/YunseokJANG/tgif-qa"),
    )

    @override
    def questions(self, root: Path) -> Iterator[Question | Broken]:
        path, folder = self.data_file(root), self.data_file(root, 1)
        rows = read_table(path, "\t", ["gif_name", "question", "answer"])

        def parse(numbered: tuple[int, dict[str, str]]) -> Question:
            index, row = numbered
            if not row["gif_name"].strip():
                raise ValueError("gif_name is empty")
            video = folder / f"{row['gif_name']}.gif"
            return self.question(str(index), row["question"], video, row["answer"])

        yield from parse_rows(path, rows, parse, numbered=True)
