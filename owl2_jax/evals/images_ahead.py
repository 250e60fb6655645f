"""Images of the questions that come next, read in threads where they lie in a bucket."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePath
from typing import Final

from owl2_jax.core.paths import in_bucket
from owl2_jax.data import images
from owl2_jax.evals.base import Image, Question

_QUESTIONS: Final = 64  # under way at a time
_TOGETHER: Final = 32  # images: an answer of a bucket takes some 20 to 100 ms


class ImagesAhead:
    """Hands questions on, and has the images of the following ones on their way.

    Args:
      read: gives the bytes of an image's file, or raises.
    """

    def __init__(self, read: Callable[[PurePath], bytes] = images.read_file) -> None:
        self._read = read
        self._coming: dict[Image, Future[bytes]] = {}

    def each(self, questions: Sequence[Question]) -> Iterator[Question]:
        """The questions in their order."""
        remote = [question for question in questions if any(map(_is_remote, question.images))]
        if not remote:
            yield from questions
            return
        following, waiting = iter(questions), deque[Question]()
        with ThreadPoolExecutor(_TOGETHER, thread_name_prefix="owl2-images") as threads:
            while True:
                while len(waiting) < _QUESTIONS and (question := next(following, None)) is not None:
                    waiting.append(question)
                    for image in question.images:
                        if _is_remote(image) and image not in self._coming:
                            self._coming[image] = threads.submit(self._read, image)
                if not waiting:
                    return
                yield waiting.popleft()

    def content(self, image: PurePath) -> PurePath | bytes:
        """The bytes of an image that was on its way, else its path. Raises what reading it raised."""
        coming = self._coming.pop(image, None)
        return image if coming is None else coming.result()


def _is_remote(image: Image) -> bool:
    return isinstance(image, PurePath) and in_bucket(image)
