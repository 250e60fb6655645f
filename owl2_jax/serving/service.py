"""Everything a server consists of, apart from HTTP: a call in, events of an answer out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from owl2_jax.attention_maps.image_attention import Look, encode_question, look
from owl2_jax.data.conversation import encode_prompt
from owl2_jax.data.messages import IMAGE_MARK
from owl2_jax.inference.device_memory import sizes_of
from owl2_jax.inference.engine import Engine, EngineConfig
from owl2_jax.inference.held_prompt import NoPagesError
from owl2_jax.inference.images import RequestImage
from owl2_jax.inference.inputs import known_matcher, matcher_of
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.program_sizes import describe_cache
from owl2_jax.inference.request import Request
from owl2_jax.sampling.params import check_token_ids
from owl2_jax.serving.body import BodyReader
from owl2_jax.serving.calls import Call, ChatCall, Conversation, read_call, read_conversation
from owl2_jax.serving.choices import Choices
from owl2_jax.serving.errors import ApiError, overloaded
from owl2_jax.serving.fields import read_text, unknown_field
from owl2_jax.serving.images import ImageReader
from owl2_jax.serving.metrics import Metrics
from owl2_jax.serving.remote import Fetcher
from owl2_jax.serving.runner import EngineRunner
from owl2_jax.serving.sampling_fields import about
from owl2_jax.serving.settings import ServeConfig
from owl2_jax.serving.text_calls import MAX_PROMPTS, TextCall, read_text_call
from owl2_jax.serving.text_prompts import TextPrompt, read_prompts
from owl2_jax.structured.matcher import Matcher

SHORT_TEXT = 2048  # characters that are read sooner than a thread would begin to
MAX_LOOKERS = 8  # that wait to see where the model looked
MAX_FORMS = 32  # that wait to be compiled
VALUES_BESIDE_PROMPTS = 100_000  # of a body: messages, forms of answers, a bias of tokens
LOOK_FIELDS = ("model", "messages", "answer")


class Service:
    """One model, ready to be asked.

    Attributes:
      model: what answers.
      config: of the server.
      name: what clients call the model.
      metrics, bodies, images, runner: the parts.
    """

    def __init__(
        self, model: LoadedModel, config: ServeConfig, engine: EngineConfig, compile_first: bool = True
    ):
        """With `compile_first` it is ready only when all is compiled that any request needs."""
        self.model = model
        self.config = config
        self.name = config.model_name or model.name
        self._engine_config = engine
        # Measured once: a later engine finds less memory free, and other sizes need other programs.
        self._sizes = sizes_of(engine, model)
        self.metrics = Metrics()
        limits = config.limits
        self.bodies = BodyReader(
            limits, MAX_PROMPTS * model.config.decoder.max_length + VALUES_BESIDE_PROMPTS
        )
        fetcher = Fetcher(limits.remote_bytes, limits.remote_seconds) if config.remote_images else None
        self.images = ImageReader(model, limits, fetcher)
        self.runner = EngineRunner(
            lambda: Engine(model, engine, self._sizes),
            sequences=engine.sequences,
            places=limits.queue,
            metrics=self.metrics,
            compile_first=compile_first,
        )
        self._prompt_format = model.prompt_format.with_tag(IMAGE_MARK)
        self._looking = asyncio.Lock()  # answers go on between two looks
        self._lookers = 0
        # Of their own: what takes long to compile keeps nobody from being read.
        self._form_threads = ThreadPoolExecutor(2, "form")
        self._forms = 0
        self._most_text = _most_text(model)

    def about_cache(self) -> str:
        """The engine's cache in a line for people."""
        return describe_cache(self._engine_config, self.model.config, self._sizes.pages)

    def read_call(self, value: Mapping[str, Any]) -> ChatCall:
        """Checks a chat completion. Raises `ApiError`."""
        call = read_call(value, self.config.limits.images)
        self.check_name(call.model)
        return call

    def check_name(self, name: str | None) -> None:
        """Raises `ApiError` 404 for another model than the one served."""
        if name not in (None, self.name):
            raise ApiError(
                f"the model {name[:100]!r} is not served here; this is {self.name!r}",
                404,
                "model_not_found",
                "model",
            )

    def read_text_call(self, value: Mapping[str, Any]) -> TextCall:
        """Checks a completion of texts. Raises `ApiError`."""
        call = read_text_call(value)
        self.check_name(call.model)
        return call

    async def start_chat(self, call: ChatCall) -> Choices:
        """Takes places and submits a conversation.

        Raises:
          ApiError: no place, a bad image, a prompt that does not fit, or a form that cannot be had.
        """
        choices = self._reserve(call.count)
        try:
            ids, room = await self._ids_at_once(call.conversation)
            matchers = await self._check(call)
            images = await self.read_images(call.conversation)
            choices.submit(self._request(call, ids, room, images, matchers).choices(call.count))
        except BaseException:
            choices.abandon()
            raise
        return choices

    async def start_texts(self, call: TextCall) -> tuple[Choices, list[TextPrompt]]:
        """Takes places and submits prompts, `count` times each.

        Raises:
          ApiError: as `start_chat`.
        """
        choices = self._reserve(len(call.prompts) * call.count, "n" if call.count > 1 else "prompt")
        try:
            prompts = await asyncio.to_thread(read_prompts, call, self.model, self._most_text)
            matchers = await self._check(call, {prompt.continues for prompt in prompts})
            requests: list[Request] = []
            for prompt in prompts:
                scored = call.echo and (call.logprobs or call.max_new_tokens == 0)
                one = self._request(
                    call, prompt.ids, prompt.room, [], matchers,
                    continues=prompt.continues, prompt_logprobs=len(prompt.ids) if scored else 0,
                )  # fmt: skip
                requests += one.choices(call.count)
            choices.submit(requests)
        except BaseException:
            choices.abandon()
            raise
        return choices, prompts

    def _reserve(self, count: int, param: str = "n") -> Choices:
        most = self.runner.sequences + self.config.limits.queue
        if count > most:
            message = f"{count} answers are asked for at once; this server takes at most {most}"
            raise ApiError(message, code="invalid_value", param=param)
        return Choices.reserve(self.runner, count)

    def _request(
        self,
        call: Call,
        ids: np.ndarray,
        room: int,
        images: list[RequestImage],
        matchers: Mapping[bool, Matcher],
        continues: bool = False,
        prompt_logprobs: int = 0,
    ) -> Request:
        wanted = call.max_new_tokens
        return Request(
            ids,
            images,
            call.sampling,
            max_new_tokens=None if wanted is None else min(wanted, room),
            min_new_tokens=call.min_new_tokens,
            stop=call.stop,
            stop_token_ids=call.stop_token_ids,
            ignore_eos=call.ignore_eos,
            structured=call.structured,
            matcher=matchers.get(continues),
            top_logprobs=call.top_logprobs,
            prompt_logprobs=prompt_logprobs,
            stream_logprobs=call.stream and call.logprobs,
            continues=continues,
        )

    async def _check(self, call: Call, continues: Iterable[bool] = (False,)) -> dict[bool, Matcher]:
        """The form of the answers, compiled for each of `continues`; nothing when any text will do.

        Raises:
          ApiError: token ids that there are not, or a form that cannot be had.
        """
        with about("logit_bias"):
            call.sampling.check_tokens(self.model.tokenizer.vocab_size)
        with about("stop_token_ids"):
            check_token_ids("stop_token_ids", call.stop_token_ids, self.model.tokenizer.vocab_size)
        if call.structured is None:
            return {}
        with about(call.structured.name.partition(".")[0]):
            return {
                one: await self._compiled(Request("", structured=call.structured, continues=one))
                for one in continues
            }

    async def _compiled(self, request: Request) -> Matcher:
        """The form of an answer, compiled here, so that the engine need not wait for it.

        One that was compiled before does not stand in line with those that are new.
        """
        known = await asyncio.to_thread(known_matcher, request, self.model)
        if known is not None:
            return known
        if self._forms >= MAX_FORMS:
            raise overloaded("too many forms of answers are being compiled; try again", 2)
        self._forms += 1
        try:
            work = (matcher_of, request, self.model)
            return await asyncio.get_running_loop().run_in_executor(self._form_threads, *work)
        finally:
            self._forms -= 1

    async def read_images(self, conversation: Conversation) -> list[RequestImage]:
        """Each image. Raises `ApiError`."""
        with about("messages"):
            images = await self.images.read(conversation.images)
        self.metrics.images(len(images))
        return images

    async def look(self, value: Mapping[str, Any]) -> list[Look]:
        """Where the model looked, for each image of a conversation and its answer.

        Args:
          value: "messages" as in a chat completion, "answer", and "model".

        Raises:
          ApiError: as for a chat completion; 429 when too many ask.
        """
        for name in value:
            if name not in LOOK_FIELDS and value[name] is not None:
                raise unknown_field(name, LOOK_FIELDS)
        self.check_name(read_text(value, "model"))
        answer = read_text(value, "answer") or ""
        conversation = read_conversation(value, self.config.limits.images)
        await asyncio.to_thread(self.ids, conversation)
        if self._lookers >= MAX_LOOKERS:
            raise overloaded("too many want to see where the model looked; try again", 2)
        self._lookers += 1
        try:
            images = await self.read_images(conversation)
            answer, written = answer[: self._most_text], self._prompt_format
            asked = (self.model, conversation.messages, answer, images, written)
            with about("messages"):
                question = await asyncio.to_thread(encode_question, *asked)
                return await self._look(*question)
        finally:
            self._lookers -= 1

    async def _look(self, request: Request, answer: np.ndarray) -> list[Look]:
        async with self._looking:
            try:
                return await self.runner.ask(lambda engine: look(engine, request, answer))
            except NoPagesError as error:
                raise overloaded(str(error), 2) from error

    async def _ids_at_once(self, conversation: Conversation) -> tuple[np.ndarray, int]:
        """As `ids`; a thread reads what is long, so that others need not wait."""
        length = sum(len(message["content"]) for message in conversation.messages)
        if length <= SHORT_TEXT:
            return self.ids(conversation)
        return await asyncio.to_thread(self.ids, conversation)

    def ids(self, conversation: Conversation) -> tuple[np.ndarray, int]:
        """int32[n] of a prompt, -200 where an image stands, and the most tokens its answer may have.

        Raises:
          ApiError: it leaves no room for an answer.
        """
        length = sum(len(message["content"]) for message in conversation.messages)
        if length > self._most_text:
            raise self._too_long(f"{length} characters")
        model, count = self.model, len(conversation.images)
        with about("messages"):
            found = encode_prompt(conversation.messages, self._prompt_format, model.tokenizer, count)
        positions = len(found.ids) + count * (model.config.tokens_per_image - 1)
        room = model.config.decoder.max_length - positions
        if room < 1:
            raise self._too_long(f"{positions} tokens ({count} images included)")
        return found.ids, room

    def _too_long(self, found: str) -> ApiError:
        most = self.model.config.decoder.max_length
        return ApiError(
            f"the conversation has {found}; the model takes {most} tokens, those of the answer included",
            code="context_length_exceeded",
            param="messages",
        )

    def close(self) -> None:
        """Ends all threads."""
        self.runner.stop()
        self.images.close()
        self._form_threads.shutdown(wait=False, cancel_futures=True)


def _most_text(model: LoadedModel) -> int:
    """No prompt of more characters than this can fit: saves the work of counting its tokens."""
    longest = max(len(model.tokenizer.token_bytes(token)) for token in range(model.tokenizer.vocab_size))
    return longest * model.config.decoder.max_length
