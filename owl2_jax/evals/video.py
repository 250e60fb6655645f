"""Questions about videos, seen as evenly spaced frames: MSVD-QA, MSRVTT-QA, TGIF-QA (frame).

Videos are not decoded here. MSVD and MSRVTT are read as one folder of frames a
video (for example from `ffmpeg -i video7010.mp4 video7010/%05d.jpg`); TGIF's
animations are opened as they are published.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.prompts import IMAGE_TAG, PROMPTS
from owl2_jax.evals.base import Answered, Judged, Picture, Question, Summary, percent
from owl2_jax.evals.files import DataFile, parse_rows, read_json, read_table
from owl2_jax.evals.metrics.answers import exact_match

XU = "github.com/xudejing/video-question-answering"
_FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")


class VideoQuestions(Judged):
    """A question about a video, answered in a word; exact match, or a judge's yes and grade."""

    prompt = PROMPTS["video"]
    num_frames = 8

    def question(self, name: str, question: str, frames: Sequence[Picture], answer: str) -> Question:
        text = self.prompt.text(frames=IMAGE_TAG * len(frames), question=question)
        info = {"question": question}
        return Question(name, text, self.prompt.hash, answer, tuple(frames), info=info)

    def score(self, question: Question, prediction: str) -> float:
        return exact_match(prediction, question.answer)

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
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return [path]

    def judged(self, answered: Sequence[Answered], judgements: Path) -> Summary:
        """Reads {id: [{"pred": "yes" or "no", "score": 0 to 5}, ...]}, the judge's combined file."""
        replies = read_json(judgements)

        def parse(answer: Answered) -> tuple[float, float]:
            reply = replies[answer.question.id][0]
            return float(reply["pred"].strip().lower() == "yes"), float(reply["score"])

        pairs = list(parse_rows(judgements, answered, parse))
        right = [accuracy for accuracy, _ in pairs]
        grade = sum(score for _, score in pairs) / len(pairs)
        return Summary({self.metric: percent(right), "judged_score": grade}, right)


class FolderOfFrames(VideoQuestions):
    """Xu et al. 2017: test_qa.json, and a folder of frames for each video."""

    frames_name: str

    def questions(self, root: Path) -> Iterator[Question]:
        path, folder = self.data_file(root), self.data_file(root, 1)
        found: dict[str, list[Path]] = {}

        def parse(row: dict[str, Any]) -> Question:
            video = self.frames_name.format(row["video_id"])
            if video not in found:
                found[video] = self._frames(folder / video)
            return self.question(str(row["id"]), row["question"], found[video], row["answer"])

        yield from parse_rows(path, read_json(path), parse)

    def _frames(self, folder: Path) -> list[Path]:
        files = folder.iterdir() if folder.is_dir() else ()
        frames = sorted(file for file in files if file.suffix.lower() in _FRAME_SUFFIXES)
        if not frames:
            raise Owl2Error(
                f"{folder} holds no frames; extract them from the video, for example with "
                f"ffmpeg -i VIDEO {folder}/%05d.jpg"
            )
        return [frames[index] for index in evenly_spaced(len(frames), self.num_frames)]


class MSVDQA(FolderOfFrames):
    """MSVD-QA test: 13 157 questions."""

    title = "MSVD-QA test"
    frames_name = "vid{}"
    files = (DataFile("msvd_qa/test_qa.json", XU), DataFile("msvd_qa/frames", f"{XU} (videos, as frames)"))


class MSRVTTQA(FolderOfFrames):
    """MSRVTT-QA test: 72 821 questions."""

    title = "MSRVTT-QA test"
    published = 46.7
    published_note = "outside report"
    frames_name = "video{}"
    files = (
        DataFile("msrvtt_qa/test_qa.json", XU),
        DataFile("msrvtt_qa/frames", f"{XU} (videos, as frames)"),
    )


class TGIFQA(VideoQuestions):
    """TGIF-QA, frame questions, test: 13 691 questions about animations."""

    title = "TGIF-QA frame test"
    files = (
        DataFile("tgif_qa/Test_frameqa_question.csv", "github.com/YunseokJANG/tgif-qa"),
        DataFile("tgif_qa/gifs", "github.com/YunseokJANG/tgif-qa"),
    )

    def questions(self, root: Path) -> Iterator[Question]:
        path, folder = self.data_file(root), self.data_file(root, 1)
        rows = read_table(path, "\t", ["gif_name", "question", "answer"])

        def parse(numbered: tuple[int, dict[str, str]]) -> Question:
            index, row = numbered
            path = folder / f"{row['gif_name']}.gif"
            frames = [GifFrame(path, part, self.num_frames) for part in range(self.num_frames)]
            return self.question(str(index), row["question"], frames, row["answer"])

        yield from parse_rows(path, enumerate(rows), parse)


def evenly_spaced(total: int, count: int) -> list[int]:
    """The middles of `count` equal parts of `total` frames; all frames when there are fewer."""
    if total <= count:
        return list(range(total))
    return [int((part + 0.5) * total / count) for part in range(count)]


@dataclass(frozen=True)
class GifFrame:
    """Part `part` of `count` equal parts of an animation, seen at its middle."""

    path: Path
    part: int
    count: int

    def read(self) -> bytes:
        """The frame as PNG bytes; short animations show a frame more than once."""
        from PIL import Image

        buffer = io.BytesIO()
        try:
            with Image.open(self.path) as animation:
                animation.seek(int((self.part + 0.5) * animation.n_frames / self.count))
                animation.convert("RGB").save(buffer, format="PNG")
        except (OSError, SyntaxError, AttributeError) as error:
            raise Owl2Error(f"{self.path} is not an animation that can be read ({error})") from error
        return buffer.getvalue()
