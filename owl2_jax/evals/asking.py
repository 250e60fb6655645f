"""Between benchmarks and the inference engine: questions to requests, results to answers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from owl2_jax.core.errors import Owl2Error, errors_in_place
from owl2_jax.core.prompt_format import IMAGE_TAG
from owl2_jax.data import images
from owl2_jax.evals.base import Decoding, Image, Question
from owl2_jax.evals.images_ahead import ImagesAhead
from owl2_jax.evals.metrics.choice import LETTERS

if TYPE_CHECKING:
    from owl2_jax.inference.engine import Engine
    from owl2_jax.inference.request import Request

_KEPT_IMAGES: Final = 64  # pixels of the last ones; questions on one image follow each other


@dataclass(frozen=True)
class Reply:
    """What a model said to one question.

    Attributes:
      prompt: The prompt that was asked, which may be one of `Question.shorter`.
      text: The generated text without outer space, or the letter of the likeliest option.
      option_logprobs: Natural log-likelihood of each option; empty for generated answers.
      seconds: From asking to the end of a generated answer; None where many are scored at once.
    """

    prompt: str
    text: str
    option_logprobs: tuple[float, ...] = ()
    seconds: float | None = field(default=None, compare=False)


class Model(Protocol):
    """What the runner asks; `EngineModel` is the real one."""

    name: str

    def replies(
        self, questions: Sequence[Question], decoding: Decoding, image_mode: str
    ) -> Iterator[Reply | Owl2Error]:
        """Answers questions in their order, each as soon as it is known; errors stand in their place."""


class EngineModel:
    """The model of an `owl2_jax.inference.engine.Engine`."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.name = engine.model.name
        self._read: OrderedDict[tuple[Image, str], np.ndarray] = OrderedDict()
        self._ahead = ImagesAhead()

    def replies(
        self, questions: Sequence[Question], decoding: Decoding, image_mode: str
    ) -> Iterator[Reply | Owl2Error]:
        """See `Model`; questions with options and without may be mixed.

        The same questions get the same replies to the last bit of a log-likelihood,
        whatever was asked before. A prompt that does not fit into the model, or a
        image that cannot be read, gives an error in its place.
        """
        self.engine.forget()
        start = 0
        for end in range(1, len(questions) + 1):
            # Runs of one kind are asked together, so that the order is kept.
            if end < len(questions) and bool(questions[end].options) == bool(questions[start].options):
                continue
            run = questions[start:end]
            ask = self._choose if run[0].options else self._generate
            yield from ask(run, decoding, image_mode)
            start = end

    def requests(
        self, questions: Sequence[Question], decoding: Decoding, image_mode: str
    ) -> Iterator[Request]:
        """What `replies` asks the engine, of questions without options, for those who look inside.

        Raises:
          Owl2Error: A question that cannot be asked.
        """
        for question in self._ahead.each(questions):
            yield self._request(
                question, self._fitting(question, decoding.max_new_tokens), decoding, image_mode
            )

    def _generate(
        self, questions: Sequence[Question], decoding: Decoding, image_mode: str
    ) -> Iterator[Reply | Owl2Error]:
        prompts: dict[int, str] = {}

        def request(numbered: tuple[int, Question]) -> Request:
            number, question = numbered
            prompts[number] = self._fitting(question, decoding.max_new_tokens)
            return self._request(question, prompts[number], decoding, image_mode)

        results = errors_in_place(enumerate(self._ahead.each(questions)), request, self.engine.answers)
        for number, result in enumerate(results):
            refused = isinstance(result, Owl2Error)
            yield result if refused else Reply(prompts[number], result.text.strip(), seconds=result.seconds)

    def _choose(
        self, questions: Sequence[Question], decoding: Decoding, image_mode: str
    ) -> Iterator[Reply | Owl2Error]:
        from owl2_jax.evals.option_scoring import option_answers

        prompts: dict[int, str] = {}

        def request(numbered: tuple[int, Question]) -> tuple[Request, Sequence[str]]:
            number, question = numbered
            prompts[number] = self._fitting(question, self._longest_option(question))
            return self._request(question, prompts[number], decoding, image_mode), question.options

        results = errors_in_place(
            enumerate(self._ahead.each(questions)), request, lambda asked: option_answers(self.engine, asked)
        )
        for number, scores in enumerate(results):
            if isinstance(scores, Owl2Error):
                yield scores
                continue
            best = max(range(len(scores)), key=scores.__getitem__)
            yield Reply(prompts[number], LETTERS[best], tuple(scores))

    def _request(self, question: Question, prompt: str, decoding: Decoding, image_mode: str) -> Request:
        from owl2_jax.inference.request import Request

        text = self._tagged(prompt)
        return Request(
            [{"role": "user", "content": text}] if question.is_message else text,
            images=[self._pixels(question, image, image_mode) for image in question.images],
            max_new_tokens=decoding.max_new_tokens,
            min_new_tokens=decoding.min_new_tokens,
            stop=decoding.stop,
            image_mode=image_mode,
            control_tokens=True,
        )

    def _pixels(self, question: Question, image: Image, image_mode: str) -> np.ndarray:
        """uint8[H, W, 3] of an image; read here, where a damaged one fails its own question alone."""
        key = (image, image_mode)
        if key not in self._read:
            source = self._ahead.content(image) if isinstance(image, PurePath) else image
            source = source if isinstance(source, (PurePath, bytes)) else source.read()
            size = self.engine.model.config.vision.image_size
            name = str(image) if isinstance(image, PurePath) else f"of question {question.id}"
            self._read[key] = images.load(source, image_mode, size, name)
            if len(self._read) > _KEPT_IMAGES:
                self._read.popitem(last=False)
        self._read.move_to_end(key)
        return self._read[key]

    def _tagged(self, prompt: str) -> str:
        return prompt.replace(IMAGE_TAG, self.engine.model.prompt_format.image_tag)

    def _fitting(self, question: Question, new_tokens: int) -> str:
        """The longest of the question's prompts that leaves room for the answer."""
        if not question.shorter:
            return question.prompt
        for prompt in (question.prompt, *question.shorter):
            if self._length(prompt) + new_tokens <= self.engine.model.config.decoder.max_length:
                return prompt
        raise Owl2Error(
            f"question {question.id} does not fit into the model's "
            f"{self.engine.model.config.decoder.max_length} positions, even without worked examples"
        )

    def _length(self, prompt: str) -> int:
        """Tokens of a text-only prompt; questions with images have no worked examples."""
        from owl2_jax.data.conversation import encode_text

        model = self.engine.model
        return len(
            encode_text(
                self._tagged(prompt), model.tokenizer, model.prompt_format.image_tag, control_tokens=True
            )
        )

    def _longest_option(self, question: Question) -> int:
        return max(self._length(option) for option in question.options)
