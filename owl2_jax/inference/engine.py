"""Continuous batching: requests in, answers out, over a fixed number of slots.

Every call of `step` fills free slots from the queue (images encoded, prompts
prefilled, both in batches of a few static sizes), decodes all slots together
for some tokens, and frees the slots that are done. A request never waits for
others to end, only for a slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference import generate
from owl2_jax.inference.admission import Admission, plan
from owl2_jax.inference.answer import Answer
from owl2_jax.inference.beam import beam_search
from owl2_jax.inference.buckets import bucket, power_buckets
from owl2_jax.inference.images import FeaturePool
from owl2_jax.inference.inputs import Prompt, read_request
from owl2_jax.inference.jobs import Job
from owl2_jax.inference.loaded import LoadedModel
from owl2_jax.inference.prefixes import SlotTable
from owl2_jax.inference.programs import Programs
from owl2_jax.inference.request import Event, Request, Result
from owl2_jax.inference.scoring import score_options
from owl2_jax.inference.sizes import EngineConfig
from owl2_jax.parallel.shardings import batch_ways

__all__ = ["Engine", "EngineConfig"]


class Engine:
    """Answers requests with one model; not thread-safe, `step` belongs to one thread.

    Attributes:
      model: what answers.
      config: sizes.
      features: features of images; one seen before is not encoded again.
      programs: the compiled functions.
      row_counts: prompts that a batch is padded to.
      admission: runs prompts.
    """

    def __init__(self, model: LoadedModel, config: EngineConfig | None = None):
        self.model = model
        self.config = config = config or EngineConfig()
        self._longest = model.config.decoder.max_length
        self._cache_lengths = config.cache_lengths(self._longest)
        ways = 1 if model.mesh is None else batch_ways(model.mesh)
        if config.slots % ways:
            raise Owl2Error(
                f"engine slots {config.slots} do not divide over the {ways} batch pieces of the mesh"
            )
        self.row_counts = power_buckets(max(min(config.prefill_rows, config.slots), ways), 8, ways)
        self.programs = Programs(model)
        self.features = FeaturePool(model.config, self._pool_rows(), self.programs.encode_images, ways)
        self.admission = Admission(model.config, self.programs, self.features, self.row_counts)
        self._waiting: deque[Job] = deque()
        self._running: dict[int, Job] = {}  # by slot
        self._next_id = 0
        self._empty_slots()

    def forget(self) -> None:
        """Lets go of all that earlier requests left behind: features, slots' contents, their length.

        What comes next then runs exactly as in a new engine, to the last bit of
        every log-probability; sizes of batches and of the cache decide over those.

        Raises:
          Owl2Error: requests wait or run.
        """
        if self.pending:
            raise Owl2Error(f"{self.pending} requests wait or run; an engine forgets when all have ended")
        self.features.forget()
        self._empty_slots()

    def _empty_slots(self) -> None:
        self._slots = self.programs.empty_slots(self.config.slots, self._cache_lengths[0])
        self._table = SlotTable(self.config.slots, self.config.reuse_from)

    # Requests ----------------------------------------------------------------

    def submit(self, request: Request) -> int:
        """Puts a request at the end of the queue and returns its number.

        Raises:
          Owl2Error: the request cannot be answered; see `read_request`.
        """
        prompt = self._read(request)
        room = self._longest - len(prompt)
        answer = Answer(request, self.model.tokenizer, len(prompt))
        job = Job(self._next_id, request, prompt, min(request.max_new_tokens or room, room), answer)
        self._next_id += 1
        self._waiting.append(job)
        return job.request_id

    def fault(self, request: Request) -> Owl2Error | None:
        """Why a request cannot be answered; None when it can."""
        try:
            self._read(request)
        except Owl2Error as error:
            return error
        return None

    def _read(self, request: Request) -> Prompt:
        """A broken image is refused here, before anything runs."""
        prompt = read_request(request, self.model)
        for image in prompt.images:
            if image not in self.features:
                image.pixels()
        return prompt

    def cancel(self, request_id: int) -> None:
        """Ends a request early; the next step tells of its end and frees its slot.

        Nothing happens to a request that has ended already.
        """
        for job in [*self._waiting, *self._running.values()]:
            if job.request_id == request_id:
                job.answer.end("cancelled")

    @property
    def pending(self) -> int:
        """Requests that wait or run."""
        return len(self._waiting) + len(self._running)

    def tokens_of(self, request_id: int) -> list[int]:
        """The answer so far of a request that runs."""
        return next(
            job.answer.result.token_ids for job in self._running.values() if job.request_id == request_id
        )

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

        Requests are drawn only a little ahead of the slots, so they may be many.

        Raises:
          Owl2Error: at a request that cannot be answered.
        """
        for answer in self.answers(requests):
            if isinstance(answer, Owl2Error):
                raise answer
            yield answer

    def answers(self, requests: Iterable[Request]) -> Iterator[Result | Owl2Error]:
        """As `generate`, with the error in the place of a request that cannot be answered."""
        source, order = iter(requests), deque[int | Owl2Error]()
        done: dict[int, Result] = {}
        exhausted = False
        while order or not exhausted:
            while not exhausted and self.pending < 2 * self.config.slots:
                request = next(source, None)
                exhausted = request is None
                if request is not None:
                    order.append(self._try_submit(request))
            done |= {event.request_id: event.result for event in self.step() if event.result}
            while order and (isinstance(order[0], Owl2Error) or order[0] in done):
                first = order.popleft()
                yield first if isinstance(first, Owl2Error) else done.pop(first)

    def _try_submit(self, request: Request) -> int | Owl2Error:
        try:
            return self.submit(request)
        except Owl2Error as error:
            return error

    # One step ----------------------------------------------------------------

    def step(self) -> list[Event]:
        """Fills free slots, decodes up to `decode_steps` tokens, and tells what happened."""
        cancelled = self._drop_cancelled_waiting()
        batches = self._admit()
        if not self._running:
            return cancelled
        columns = self._decode()
        # One transfer for everything: the host waits here, and only here.
        first, columns = jax.device_get(([chosen for _, chosen in batches], columns))
        for (jobs, _), chosen in zip(batches, first, strict=True):
            for row, job in enumerate(jobs):
                job.answer.extend(jax.tree.map(lambda part, row=row: part[row : row + 1], chosen))
        return cancelled + self._collect(*columns)

    def _admit(self) -> list[tuple[list[Job], generate.Chosen]]:
        """Moves jobs from the queue into free slots and runs their prompts."""
        count = min(self._table.num_free, len(self._waiting))
        jobs = [self._waiting.popleft() for _ in range(count)]
        if not jobs:
            return []
        self._make_room(max(job.positions for job in jobs))
        self._table.assign(jobs)
        self._running |= {job.slot: job for job in jobs}
        self._slots, batches = self.admission.admit(self._slots, jobs)
        return batches

    def _decode(self) -> tuple[generate.Chosen, Any]:
        """Starts the decode loop; with a queue it stops when half of the slots are free."""
        wanted = np.zeros((self.config.slots,), bool)
        wanted[[slot for slot, job in self._running.items() if not job.answer.ended]] = True
        enough = self.config.slots // 2 if self._waiting else 0
        self._slots, chosen, counts = self.programs.decode(
            self._slots,
            wanted,
            np.int32(self.config.decode_steps),
            np.int32(enough),
            width=self.config.decode_steps,
            **plan(list(self._running.values())),
        )
        return chosen, counts

    def _collect(self, chosen: generate.Chosen, counts: np.ndarray) -> list[Event]:
        """Gives every job its tokens; frees the slots of those that ended."""
        events = []
        for slot, job in list(self._running.items()):
            count = counts[slot]
            if count:
                job.answer.extend(jax.tree.map(lambda part, s=slot, n=count: part[s, :n], chosen))
            if len(job.answer.result.token_ids) >= job.limit:
                job.answer.end("length")
            text = job.answer.new_text()
            if job.answer.ended:
                del self._running[slot]
                self._table.release(job)
            if text or job.answer.ended:
                events.append(job.answer.event(job.request_id, text))
        return events

    def _drop_cancelled_waiting(self) -> list[Event]:
        gone = [job for job in self._waiting if job.answer.ended]
        if gone:
            self._waiting = deque(job for job in self._waiting if not job.answer.ended)
        return [Event(job.request_id, "", job.answer.result) for job in gone]

    def score_options(
        self, requests: Iterable[Request], options: Iterable[Sequence[str]]
    ) -> Iterator[tuple[float, ...]]:
        """Log-likelihoods of given continuations; see `scoring.score_options`."""
        return score_options(self, requests, options)

    def beam_search(
        self, requests: Iterable[Request], beams: int, length_penalty: float = 1.0
    ) -> Iterator[list[Result]]:
        """The best answers of each request instead of one; see `beam.beam_search`."""
        return beam_search(self, requests, beams, length_penalty)

    # Sizes -------------------------------------------------------------------

    def cache_length(self, positions: int) -> int:
        """Positions per slot of the cache that holds requests of `positions`."""
        return bucket(positions, self._cache_lengths)

    def _make_room(self, positions: int) -> None:
        length = self.cache_length(positions)
        if length > self._slots.length:
            self._slots = self.programs.lengthen(self._slots, length)

    def _pool_rows(self) -> int:
        """As many images as the memory holds, but at least those of the fullest prompt."""
        config = self.model.config
        item = config.tokens_per_image * config.decoder.width * np.dtype(config.dtype).itemsize
        fullest = self._longest // config.tokens_per_image
        return max(fullest, min(self.config.feature_bytes // item, 4096), 1)
