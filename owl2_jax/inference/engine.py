"""Continuous batching: requests in, answers out.

Every call of `step` asks the scheduler what comes next and has the model runner do it:
pieces of prompts first, then some tokens of every answer. A request never waits for
others to end, only for a free row and pages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import jax
import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.detokenizer import Answer
from owl2_jax.inference.engine_config import EngineConfig
from owl2_jax.inference.feature_pool import FeaturePool
from owl2_jax.inference.inputs import Prompt, matcher_of, read_request, whole_form
from owl2_jax.inference.loaded_model import LoadedModel
from owl2_jax.inference.model_runner import ModelRunner
from owl2_jax.inference.prefix_cache import PrefixCache
from owl2_jax.inference.program_sizes import Sizes
from owl2_jax.inference.request import Event, Request, Result
from owl2_jax.inference.scheduler import Budget, Plan, Scheduler
from owl2_jax.inference.sequence import Sequence
from owl2_jax.inference.step_results import parts_of
from owl2_jax.model.rotary import doublings

__all__ = ["Engine", "EngineConfig"]


class Engine:
    """Answers requests with one model; not thread-safe, `step` belongs to one thread.

    Attributes:
      model: what answers.
      config: sizes.
      runner: the model on its devices.
      scheduler: what runs next.
      pool: pages of the cache.
      prefix_cache: what they hold.
      passes: through the model so far, with tokens of however many sequences.
    """

    def __init__(self, model: LoadedModel, config: EngineConfig | None = None, sizes: Sizes | None = None):
        """`sizes` are those of an engine before, which need no other programs; None measures the device."""
        self.model = model
        self.config = config or EngineConfig()
        self.runner = ModelRunner(model, self.config, sizes)
        self._longest = model.config.decoder.max_length
        self._next_id = 0
        self.passes = 0
        self._going_on: tuple[Plan, Any] | None = None  # what the device decodes since the last call
        sizes = self.runner.sizes
        self.pool = self.runner.pool
        self.prefix_cache = PrefixCache(self.pool, self.config.prefix_cache)
        budget = Budget(
            sequences=self.config.sequences,
            tokens=sizes.chunks[-1].tokens,
            rows=sizes.chunks[-1].rows,
            images=sizes.images[-1],
            features=sizes.features,
            decode_steps=self.config.decode_steps,
        )
        self.scheduler = Scheduler(self.pool, self.prefix_cache, budget, self.runner.features.__contains__)

    def compile(self) -> None:
        """Compiles all that requests can need; see `ModelRunner.compile`."""
        self.runner.compile()

    def forget(self) -> None:
        """Lets go of all that earlier requests left: features, and what pages hold.

        What comes next then runs exactly as in a new engine, to the last bit of
        every log-probability; what is shared decides over sizes of batches, and these over that.

        Raises:
          Owl2Error: requests wait or run.
        """
        if self.pending:
            raise Owl2Error(f"{self.pending} requests wait or run; an engine forgets when all have ended")
        self.runner.features.forget()
        self.prefix_cache.clear()

    @property
    def features(self) -> FeaturePool:
        """Features of images; one seen before is not encoded again."""
        return self.runner.features

    # Requests ----------------------------------------------------------------

    def submit(self, request: Request) -> int:
        """Puts a request at the end of the queue and returns its number.

        Raises:
          Owl2Error: the request cannot be answered; see `read_request`.
        """
        sequence = self.sequence(request)
        self.scheduler.add(sequence)
        self._next_id += 1
        return sequence.request_id

    def sequence(self, request: Request, more: int = 0) -> Sequence:
        """A request as it waits, with room for `more` tokens than its answer may have."""
        prompt = self._read(request)
        room = self._longest - len(prompt)
        limit = room if request.max_new_tokens is None else min(request.max_new_tokens, room)
        tokenizer, matcher = self.model.tokenizer, matcher_of(request, self.model)
        answer = Answer(request, tokenizer, len(prompt), whole_form(matcher, request, tokenizer))
        # Prompts beyond the trained length may be rotated otherwise: their keys are others.
        root = bytes([doublings(self.model.config.decoder, len(prompt))])
        return Sequence(self._next_id, request, prompt, limit + more, answer, matcher, root)

    def fault(self, request: Request) -> Owl2Error | None:
        """Why a request cannot be answered; None when it can."""
        try:
            self._read(request)
            matcher_of(request, self.model)
        except Owl2Error as error:
            return error
        return None

    def _read(self, request: Request) -> Prompt:
        """A broken image is refused here, before anything runs."""
        prompt = read_request(request, self.model)
        for image in prompt.images:
            if image not in self.runner.features:
                image.pixels()
        return prompt

    def cancel(self, request_id: int) -> None:
        """Ends a request early; the next step tells of its end.

        Nothing happens to a request that has ended already.
        """
        for sequence in self.scheduler:
            if sequence.request_id == request_id:
                sequence.answer.end("cancelled")

    @property
    def pending(self) -> int:
        """Requests that wait or run."""
        return len(self.scheduler.waiting) + len(self.scheduler.running)

    def tokens_of(self, request_id: int) -> list[int]:
        """The answer so far of a request that waits or runs."""
        return next(s.answer.result.token_ids for s in self.scheduler if s.request_id == request_id)

    def run(self, request_id: int) -> Iterator[Event]:
        """Steps until a submitted request ends, and yields its events."""
        ended = False
        while not ended:
            for event in self.step():
                if event.request_id == request_id:
                    ended = event.result is not None
                    yield event

    def stop(self, request_id: int) -> Result:
        """Ends a request early and returns the answer so far."""
        self.cancel(request_id)
        *_, last = self.run(request_id)
        assert last.result is not None
        return last.result

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """Answers requests; results come in the order of the requests, as soon as they are ready.

        Requests are drawn only a little ahead of what runs, so they may be many.

        Raises:
          Owl2Error: at a request that cannot be answered.
        """
        with closing(self.answers(requests)) as answers:
            for answer in answers:
                if isinstance(answer, Owl2Error):
                    raise answer
                yield answer

    def answers(self, requests: Iterable[Request]) -> Iterator[Result | Owl2Error]:
        """As `generate`, with the error in the place of a request that cannot be answered."""
        source, order = iter(requests), deque[int | Owl2Error]()
        done: dict[int, Result] = {}
        exhausted = False
        try:
            while order or not exhausted:
                while not exhausted and self.pending < 2 * self.config.sequences:
                    request = next(source, None)
                    exhausted = request is None
                    if request is not None:
                        order.append(self._try_submit(request))
                done |= {event.request_id: event.result for event in self.step() if event.result}
                while order and (isinstance(order[0], Owl2Error) or order[0] in done):
                    first = order.popleft()
                    yield first if isinstance(first, Owl2Error) else done.pop(first)
        finally:  # whoever stops reading has no use for the others
            for sequence in [one for one in self.scheduler if one.request_id in order]:
                self.scheduler.remove(sequence)

    def _try_submit(self, request: Request) -> int | Owl2Error:
        try:
            return self.submit(request)
        except Owl2Error as error:
            return error

    # One step ----------------------------------------------------------------

    def step(self) -> list[Event]:
        """Runs a piece of the prompts that wait and up to `decode_steps` tokens of every answer.

        First tokens are told while the device goes on with those behind them, of which the next
        call tells.
        """
        if self._going_on is not None:
            plan, rest = self._going_on
            self._going_on = None
            told = self._tell(plan, None, jax.device_get(rest))
            if told:
                return told
        ended = self._drop_ended()
        plan = self.scheduler.plan()
        first, rest = self._dispatch(plan)
        if not plan.chunks and not plan.decoding:
            self._wait_for_forms()
        if rest is not None and any(chunk.last for chunk in plan.chunks):
            self._going_on, rest = (plan, rest), None
        # One transfer for everything: the host waits here and above, and nowhere else.
        return ended + self._tell(plan, *jax.device_get((first, rest)))

    def _tell(self, plan: Plan, first: Any, rest: Any) -> list[Event]:
        """Gives sequences their new tokens; one that ended at its first has no row any more."""
        self.passes += (first is not None) + (0 if rest is None else int(rest[1].max()))
        parts = [(sequence, part) for sequence, part in parts_of(plan, first, rest) if sequence.row >= 0]
        for sequence, part in parts:
            if len(part.tokens):
                sequence.append(part.tokens)
                sequence.answer.extend(part)
        touched = dict.fromkeys(sequence for sequence, _ in parts)
        return [event for sequence in touched for event in self._event(sequence)]

    def _dispatch(self, plan: Plan) -> tuple[Any, Any]:
        """Tells the device what to do, and returns what it will have chosen: chunks, and decoding."""
        runner = self.runner
        if plan.copies:
            runner.copy_pages(plan.copies)
        for sequence in plan.admitted:
            runner.admit(sequence)
        for sequence in (*plan.decoding, *(chunk.sequence for chunk in plan.chunks if chunk.last)):
            if sequence.matcher is not None:
                runner.rows.mask(sequence.row, sequence.matcher.allowed)
        first = runner.run_chunks(plan.chunks) if plan.chunks else None
        self.scheduler.ran(plan)
        began = {chunk.sequence for chunk in plan.chunks}
        rows = np.array([sequence.row for sequence in plan.decoding], np.int32)
        steps = 1 if runner.rows.single_step(rows) else self.config.decode_steps
        if not plan.decoding:
            return first, None
        ahead = [int(sequence in began) for sequence in plan.decoding]
        return first, runner.decode(plan.decoding, ahead, steps)

    def _wait_for_forms(self) -> None:
        """Waits for masks of answers of a given form; of use when nothing else can run meanwhile."""
        for sequence in self.scheduler.running:
            if sequence.matcher is not None:
                sequence.matcher.wait()

    def _event(self, sequence: Sequence) -> list[Event]:
        """What a sequence has to tell; one that ended gives back its row and pages."""
        answer = sequence.answer
        if not sequence.left:
            answer.end("length")
        text = answer.new_text()
        if answer.ended:
            self.scheduler.remove(sequence)
        return [answer.event(sequence.request_id, text)] if text or answer.ended else []

    def _drop_ended(self) -> list[Event]:
        """Takes out what was cancelled, has nothing to run or cannot get its form, before it is planned."""
        for sequence in self.scheduler:
            if not sequence.end:
                sequence.answer.end("length")
            if not sequence.waits and sequence.failed:
                sequence.answer.fail(f"{sequence.request.structured.name}: {sequence.matcher.error}")
        gone = [sequence for sequence in self.scheduler if sequence.answer.ended]
        return [event for sequence in gone for event in self._event(sequence)]
