"""From the queue into slots: prompts in batches of few static sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from owl2_jax.inference import generate
from owl2_jax.inference.buckets import bucket, length_buckets
from owl2_jax.inference.images import FeaturePool
from owl2_jax.inference.inputs import pad_column, stack_prompts, stack_tokens
from owl2_jax.inference.jobs import Job
from owl2_jax.inference.programs import Programs
from owl2_jax.inference.request import MAX_TOP_LOGPROBS
from owl2_jax.inference.sampling import stack_settings
from owl2_jax.model.config import Owl2Config


class Admission:
    """Runs the prompts of jobs that have been given slots.

    Attributes:
      positions: prompt positions run so far; copied ones are not counted.
    """

    def __init__(
        self, config: Owl2Config, programs: Programs, features: FeaturePool, row_counts: Sequence[int]
    ):
        """`row_counts` are the numbers of prompts that a batch is padded to."""
        self.positions = 0
        self._padding_token = config.decoder.vocab_size
        # What is left of a prompt is often one short question; many of them run together.
        self._lengths = {
            False: length_buckets(config.decoder.max_length),
            True: length_buckets(config.decoder.max_length, shortest=4)[1:],
        }
        self._row_counts = row_counts
        self._programs = programs
        self._features = features

    def admit(
        self, slots: generate.Slots, jobs: Sequence[Job]
    ) -> tuple[generate.Slots, list[tuple[list[Job], generate.Chosen]]]:
        """Fills the slots of `jobs`.

        Returns:
          The slots, and for every batch its jobs and their first tokens (on the device).
        """
        batches = []
        for group in self.groups(jobs):
            slots, chosen = self._prefill(slots, group)
            batches.append((group, chosen))
        return slots, batches

    def groups(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Jobs that share a batch: of one wave, alike in what they need, and of like length."""

        def kind(job: Job) -> tuple[int, bool, bool]:
            return job.wave, job.kept > 0, bool(job.rest.images)

        for _, alike in groupby(sorted(jobs, key=kind), kind):
            left = sorted(alike, key=lambda job: -len(job.rest))
            while left:
                count = self._group_size(left)
                yield left[:count]
                left = left[count:]

    def _group_size(self, jobs: Sequence[Job]) -> int:
        """How many of `jobs`, longest first, go into the next batch.

        Those that need the same length, and shorter ones where rows would else
        be padding; no more than the pool has room for their images.
        """
        length = self._length(jobs[0])
        alike = sum(self._length(job) == length for job in jobs)
        count = min(len(jobs), bucket(min(alike, self._row_counts[-1]), self._row_counts))
        keys: set[bytes] = set()
        for number, job in enumerate(jobs[:count]):
            keys |= {image.key for image in job.rest.images}
            if len(keys) > self._features.rows:
                return number  # at least 1: the pool holds the images of any one prompt
        return count

    def _prefill(self, slots: generate.Slots, jobs: Sequence[Job]) -> tuple[generate.Slots, generate.Chosen]:
        """One batch; encodes the images that the pool lacks."""
        prompts = [job.rest for job in jobs]
        self._features.make_ready(image for prompt in prompts for image in prompt.images)
        self.positions += sum(map(len, prompts))
        rows = bucket(len(jobs), self._row_counts)
        length = self._length(jobs[0])
        arrivals = generate.Arrivals(
            prompts=stack_prompts(prompts, rows, length, self._padding_token, self._features.row),
            slots=self._column([job.slot for job in jobs], rows, slots.count),
            floors=self._column([job.request.min_new_tokens for job in jobs], rows, 0),
            limits=self._column([job.limit for job in jobs], rows, 1),
            settings=stack_settings([job.request.sampling for job in jobs], rows),
        )
        pool = self._features.array if prompts[0].images else None
        if not jobs[0].kept:
            return self._programs.prefill(slots, pool, arrivals, **plan(jobs))
        copies = generate.Copies(
            sources=self._column([job.source for job in jobs], rows, 0),
            lengths=self._column([job.kept for job in jobs], rows, 0),
            tokens=stack_tokens([job.prompt for job in jobs], rows, slots.length, self._padding_token),
        )
        return self._programs.prefill_rest(slots, pool, arrivals, copies, **plan(jobs))

    def _length(self, job: Job) -> int:
        """What the prompt of a job, or the rest of it, is padded to."""
        return bucket(len(job.rest), self._lengths[job.kept > 0])

    def _column(self, values: Sequence[int], rows: int, filler: int) -> np.ndarray:
        return pad_column(values, rows - len(values), filler)


def plan(jobs: Sequence[Job]) -> dict[str, Any]:
    """Static choices of a program: two of each kind without listed tokens, and two with."""
    return {
        "plain": all(job.request.sampling.plain for job in jobs),
        "top": MAX_TOP_LOGPROBS if any(job.request.top_logprobs for job in jobs) else 0,
    }
