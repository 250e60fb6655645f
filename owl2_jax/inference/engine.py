"""Continuous batching: requests in, answers out, over a fixed number of slots.

Every call of `step` fills free slots from the queue (pictures encoded, prompts
prefilled, both in batches of a few static sizes), decodes all slots together
for some tokens, and frees the slots that are done. A request never waits for
others to end, only for a slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference import generate
from owl2_jax.inference.answer import Answer
from owl2_jax.inference.buckets import bucket, length_buckets, power_buckets
from owl2_jax.inference.inputs import Prompt, image_slots, pad_tokens, read_request
from owl2_jax.inference.loaded import LoadedModel
from owl2_jax.inference.pictures import FeaturePool
from owl2_jax.inference.programs import Programs, PromptShape
from owl2_jax.inference.request import MAX_TOP_LOGPROBS, Event, Request, Result
from owl2_jax.inference.sampling import stack_settings


@dataclass(frozen=True)
class EngineConfig:
    """Sizes of the engine; answers do not depend on them.

    Attributes:
      slots: requests decoded together.
      prefill_rows: most prompts in one prefill.
      decode_steps: most tokens per slot between two looks at the queue.
      feature_bytes: device memory for features of pictures.
      shortest_cache: positions per slot at first; the cache grows when a
        request needs more.
    """

    slots: int = 32
    prefill_rows: int = 64
    decode_steps: int = 8
    feature_bytes: int = 64 * 2**20
    shortest_cache: int = 64

    def __post_init__(self) -> None:
        for name in ("slots", "prefill_rows", "decode_steps", "feature_bytes", "shortest_cache"):
            if getattr(self, name) < 1:
                raise Owl2Error(f"engine {name} is {getattr(self, name)}; expected at least 1")


@dataclass
class _Job:
    """A request from submission to its result."""

    request_id: int
    request: Request
    prompt: Prompt
    limit: int
    answer: Answer = field(init=False)
    slot: int = -1

    @property
    def positions(self) -> int:
        """Cache positions it may need."""
        return len(self.prompt) + self.limit


class Engine:
    """Answers requests with one model; not thread-safe, `step` belongs to one thread."""

    def __init__(self, model: LoadedModel, config: EngineConfig = EngineConfig()):
        self.model = model
        self.config = config
        self._longest = model.config.decoder.max_length
        self._prompt_lengths = length_buckets(self._longest)
        self._cache_lengths = power_buckets(self._longest, smallest=config.shortest_cache)
        self._row_counts = power_buckets(min(config.prefill_rows, config.slots), 8)
        self._programs = Programs(model.config, model.tokenizer.eos_id)
        self._slots = generate.empty_slots(model.config, config.slots, self._cache_lengths[0])
        self._pool = FeaturePool(model.config, self._pool_rows(), self._encode_images)
        self._waiting: deque[_Job] = deque()
        self._running: dict[int, _Job] = {}  # by slot
        self._free = list(range(config.slots))[::-1]
        self._next_id = 0

    # Requests ----------------------------------------------------------------

    def submit(self, request: Request) -> int:
        """Puts a request at the end of the queue and returns its number.

        Raises:
          Owl2Error: the request cannot be answered; see `read_request`.
        """
        prompt = read_request(request, self.model)
        for picture in prompt.pictures:
            if picture not in self._pool:
                picture.pixels()  # a broken picture is refused here, before anything runs
        room = self._longest - len(prompt)
        job = _Job(self._next_id, request, prompt, min(request.max_new_tokens or room, room))
        job.answer = Answer(request, self.model.tokenizer, len(prompt))
        self._next_id += 1
        self._waiting.append(job)
        return job.request_id

    def cancel(self, request_id: int) -> None:
        """Ends a request; its slot is free at the next step, which tells of its end. Ended ones stay."""
        for job in [*self._waiting, *self._running.values()]:
            if job.request_id == request_id:
                job.answer.end("cancelled")

    @property
    def pending(self) -> int:
        """Requests that wait or run."""
        return len(self._waiting) + len(self._running)

    @property
    def programs(self) -> int:
        """Different compiled programs used so far."""
        return len(self._programs.used)

    @property
    def pictures_encoded(self) -> int:
        """Pictures that went through the vision encoder; one seen before is not encoded again."""
        return self._pool.encoded

    def generate(self, requests: Iterable[Request]) -> Iterator[Result]:
        """Answers requests; results come in the order of the requests, as soon as they are ready.

        Requests are drawn only a little ahead of the slots, so they may be many.

        Raises:
          Owl2Error: at a request that cannot be answered.
        """
        source, done, order = iter(requests), {}, deque[int]()
        exhausted = False
        while order or not exhausted:
            while not exhausted and self.pending < 2 * self.config.slots:
                request = next(source, None)
                exhausted = request is None
                if request is not None:
                    order.append(self.submit(request))
            done |= {event.request_id: event.result for event in self.step() if event.result}
            while order and order[0] in done:
                yield done.pop(order.popleft())

    # One step ----------------------------------------------------------------

    def step(self) -> list[Event]:
        """Fills free slots, decodes up to `decode_steps` tokens, and tells what happened."""
        cancelled = self._drop_cancelled_waiting()
        first = self._admit()
        if not self._running:
            return cancelled
        columns = self._decode()
        # One transfer for everything: the host waits here, and only here.
        first, columns = jax.device_get((first, columns))
        for jobs, chosen in first:
            for row, job in enumerate(jobs):
                job.answer.extend(jax.tree.map(lambda part, row=row: part[row : row + 1], chosen))
        return cancelled + self._collect(*columns)

    def _admit(self) -> list[tuple[list[_Job], generate.Chosen]]:
        """Moves jobs from the queue into free slots and prefills them."""
        count = min(len(self._free), len(self._waiting))
        jobs = [self._waiting.popleft() for _ in range(count)]
        if not jobs:
            return []
        self._make_room(max(job.positions for job in jobs))
        for job in jobs:
            job.slot = self._free.pop()
            self._running[job.slot] = job
        return [(group, self._prefill(group)) for group in self._groups(jobs)]

    def _groups(self, jobs: Sequence[_Job]) -> Iterator[list[_Job]]:
        """Jobs that share a prefill: of like length, and pictures that fit into the pool."""
        by_shape: dict[tuple[int, int], list[_Job]] = {}
        for job in jobs:
            length = bucket(len(job.prompt), self._prompt_lengths)
            by_shape.setdefault((length, _width(len(job.prompt.pictures))), []).append(job)
        for alike in by_shape.values():
            group: list[_Job] = []
            keys: set[bytes] = set()
            for job in alike:
                more = keys | {picture.key for picture in job.prompt.pictures}
                if group and (len(group) == self._row_counts[-1] or len(more) > self._pool.rows):
                    yield group
                    group, more = [], {picture.key for picture in job.prompt.pictures}
                group.append(job)
                keys = more
            yield group

    def _prefill(self, jobs: Sequence[_Job]) -> generate.Chosen:
        """Encodes the pictures of some jobs that the pool lacks, and runs their prompts."""
        self._pool.make_ready(picture for job in jobs for picture in job.prompt.pictures)
        plan = self._plan(jobs)
        rows, length, width = self._programs.prompt_shape(
            PromptShape(
                bucket(len(jobs), self._row_counts),
                bucket(max(len(job.prompt) for job in jobs), self._prompt_lengths),
                _width(len(jobs[0].prompt.pictures)),
            ),
            self._slots,
            plan,
        )
        padding = rows - len(jobs)
        index, starts = image_slots(
            [[self._pool.row(picture) for picture in job.prompt.pictures] for job in jobs],
            [job.prompt.image_starts for job in jobs],
            rows,
            width,
        )
        batch = generate.PromptBatch(
            tokens=pad_tokens(
                [job.prompt.tokens for job in jobs], rows, length, self.model.config.decoder.vocab_size
            ),
            lengths=_column([len(job.prompt) for job in jobs], padding, 0),
            image_index=index,
            image_starts=starts,
            slots=_column([job.slot for job in jobs], padding, self.config.slots),
            floors=_column([job.request.min_new_tokens for job in jobs], padding, 0),
            limits=_column([job.limit for job in jobs], padding, 1),
            settings=stack_settings([job.request.sampling for job in jobs], rows),
        )
        pool = self._pool.features if width else None
        self._slots, chosen = self._programs.prefill(self.model.params, self._slots, pool, batch, **plan)
        return chosen

    def _decode(self) -> tuple[generate.Chosen, Any]:
        """Starts the decode loop; with a queue it stops when half of the slots are free."""
        wanted = np.zeros((self.config.slots,), bool)
        wanted[[slot for slot, job in self._running.items() if not job.answer.ended]] = True
        enough = self.config.slots // 2 if self._waiting else 0
        self._slots, chosen, counts = self._programs.decode(
            self.model.params,
            self._slots,
            wanted,
            np.int32(self.config.decode_steps),
            np.int32(enough),
            width=self.config.decode_steps,
            **self._plan(list(self._running.values())),
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
                self._free.append(slot)
                events.append(Event(job.request_id, text, job.answer.result))
            elif text:
                events.append(Event(job.request_id, text))
        return events

    def _drop_cancelled_waiting(self) -> list[Event]:
        gone = [job for job in self._waiting if job.answer.ended]
        if gone:
            self._waiting = deque(job for job in self._waiting if not job.answer.ended)
        return [Event(job.request_id, "", job.answer.result) for job in gone]

    # Sizes -------------------------------------------------------------------

    def _plan(self, jobs: Sequence[_Job]) -> dict[str, Any]:
        """Static choices: two programs of each kind without and two with listed tokens."""
        return {
            "plain": all(job.request.sampling.plain for job in jobs),
            "top": MAX_TOP_LOGPROBS if any(job.request.top_logprobs for job in jobs) else 0,
        }

    def _make_room(self, positions: int) -> None:
        length = bucket(positions, self._cache_lengths)
        if length > self._slots.cache.keys.shape[2]:
            self._slots = generate.lengthen(self._slots, length)

    def _pool_rows(self) -> int:
        """As many pictures as the memory holds, but at least those of the fullest prompt."""
        config = self.model.config
        item = config.tokens_per_image * config.decoder.width * np.dtype(config.dtype).itemsize
        fullest = self._longest // config.tokens_per_image
        return max(fullest, min(self.config.feature_bytes // item, 4096), 1)

    def _encode_images(self, pool: jax.Array, images: np.ndarray, rows: np.ndarray) -> jax.Array:
        return self._programs.encode_images(self.model.params, pool, images, rows)


def _width(pictures: int) -> int:
    """Image slots of a row: 0, 1, 2, 4, 8, ..."""
    return 0 if pictures == 0 else 1 << (pictures - 1).bit_length()


def _column(values: Sequence[int], padding: int, filler: int) -> np.ndarray:
    return np.array([*values, *[filler] * padding], np.int32)
