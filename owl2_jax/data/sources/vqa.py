"""Questions and annotations in the format of VQAv2, which OK-VQA shares.

questions    {"questions": [{"question_id": 1, "image_id": 9, "question": "..."}, ...]}
annotations  {"annotations": [{"question_id": 1, "multiple_choice_answer": "yes",
                               "answers": [{"answer": "yes"}, ...]}, ...]}
"""

from __future__ import annotations

import os
from collections import Counter

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.json_files import read_json
from owl2_jax.core.paths import in_bucket
from owl2_jax.core.texts import AnyText, BucketPath, Name
from owl2_jax.data.messages import ImageTag
from owl2_jax.data.sources.base import DEFAULT_IMAGE_TAG, Example, RecordError, Style, checked_index
from owl2_jax.data.sources.image_files import image_path


class VqaSource:
    """The questions of one split.

    Args:
      questions: The JSON file of questions.
      image_folder: Where the images lie.
      annotations: The JSON file of answers; None for a split without published ones.
      image_pattern: Name of an image's file, with `{image_id}` in it.
      dataset: Short name of the set.
      prompt: Text around the question, with `{question}` in it, or the name of a published
        prompt, "vqa".
      image_tag: The tag that marks images in the messages.

    Raises:
      Owl2Error: A file is missing or not in the format, or the pattern does not fit.
    """

    def __init__(
        self,
        questions: BucketPath | os.PathLike,
        image_folder: BucketPath | os.PathLike,
        annotations: BucketPath | os.PathLike | None = None,
        *,
        image_pattern: Name = "COCO_train2014_{image_id:012d}.jpg",
        dataset: Name = "vqav2",
        prompt: AnyText = "{question}",
        image_tag: ImageTag = DEFAULT_IMAGE_TAG,
    ):
        self.path, self.image_folder = os.fspath(questions), os.fspath(image_folder)
        self.image_pattern = image_pattern
        self.style = Style(dataset, prompt, image_tag)
        self.style.require_question()
        self._questions = _rows(self.path, "questions", ("question_id", "image_id", "question"))
        self._files = [self.path] if annotations is None else [self.path, os.fspath(annotations)]
        self._answers = None
        if annotations is not None:
            rows = _rows(os.fspath(annotations), "annotations", ("question_id",))
            self._answers = {row["question_id"]: row for row in rows}
        if self._questions:
            self._image_name(self._questions[0]["image_id"])

    def __len__(self) -> int:
        return len(self._questions)

    @property
    def files(self) -> list[str]:
        """The files that hold the records."""
        return self._files

    def __getitem__(self, index: int) -> Example:
        position = checked_index(index, len(self), self.path)
        row = self._questions[position]
        if not isinstance(row["question"], str):
            raise RecordError(self.path, position, "corrupt_record", f"no text: {row['question']!r:.60}")
        name = self._image_name(row["image_id"])
        image = image_path(self.image_folder, name, self.path, position)
        answer, answers = self._answer(row["question_id"], position)
        extra = {"answers": answers} if answers else {}
        key = f"{self.style.dataset}/{row['image_id']}"
        identity = str(row["question_id"])
        return self.style.example(identity, row["question"], answer, [image], image_keys=[key], **extra)

    @property
    def reads_bucket(self) -> bool:
        """Whether images are asked of a bucket one by one."""
        return in_bucket(self.image_folder)

    def description(self) -> str:
        """One line: file, number of questions, with or without answers."""
        with_answers = "without answers" if self._answers is None else "with answers"
        return f"vqa {self.path}: {len(self)} questions {with_answers}, images in {self.image_folder}"

    def _image_name(self, image_id: object) -> str:
        try:
            return self.image_pattern.format(image_id=image_id)
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            raise Owl2Error(
                f"image_pattern {self.image_pattern!r} does not fit the image id {image_id!r} "
                f"of {self.path}: {error}"
            ) from error

    def _answer(self, question_id: object, index: int) -> tuple[str | None, list[str]]:
        """The agreed answer and all annotators' answers."""
        if self._answers is None:
            return None, []
        row = self._answers.get(question_id)
        try:
            answers = [answer["answer"] for answer in row.get("answers", ())]
            agreed = row.get("multiple_choice_answer") or Counter(answers).most_common(1)[0][0]
        except (AttributeError, KeyError, TypeError, IndexError):
            raise RecordError(
                self.path, index, "missing_field", f"no answer to question {question_id}"
            ) from None
        if not all(isinstance(answer, str) for answer in [agreed, *answers]):
            raise RecordError(self.path, index, "corrupt_record", f"an answer to {question_id} is no text")
        return agreed, answers


def _rows(path: str, key: str, fields: tuple[str, ...]) -> list[dict]:
    content = read_json(path)
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise Owl2Error(f"{path} has no list {key!r}; expected a file in the format of VQAv2")
    for number, row in enumerate(rows):
        missing = [field for field in fields if not isinstance(row, dict) or field not in row]
        if missing:
            raise Owl2Error(f"{path}: {key}[{number}] has no {missing[0]!r}; expected {', '.join(fields)}")
        if not isinstance(row["question_id"], int | str):
            raise Owl2Error(f"{path}: {key}[{number}] has the question_id {row['question_id']!r:.60}")
    return rows
