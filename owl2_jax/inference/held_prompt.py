"""A prompt in pages of the cache beside all requests that wait and run, to be looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.inference.engine import Engine
from owl2_jax.inference.request import Request
from owl2_jax.inference.scheduler import Chunk
from owl2_jax.inference.sequence import Sequence


class NoPagesError(Owl2Error):
    """What is asked for beside the requests finds no room beside them."""


@contextlib.contextmanager
def held(engine: Engine, request: Request, answer: np.ndarray) -> Iterator[Sequence]:
    """Runs a prompt but for its last position; its pages are free again at the end.

    Args:
      engine: between two of its steps.
      request: of which the prompt is used alone.
      answer: int32[n], what stands behind it; there are pages for it, and nothing in them yet.

    Raises:
      Owl2Error: the prompt cannot be run, or pages for it are not free just now.
    """
    runner, pool, cache = engine.runner, engine.pool, engine.prefix_cache
    sequence = engine.sequence(replace(request, max_new_tokens=None), len(answer))
    sequence.append(answer)
    until = len(sequence.prompt) - 1
    found = cache.match(sequence.signature[: until + 1], sequence.root)
    pages = pool.take(pool.pages_for(sequence.length) - len(found.pages))
    sequence.pages = found.pages + (pages or [])
    try:
        if pages is None:
            raise NoPagesError("all pages of the cache are in use; try again when fewer answers run")
        runner.borrow(sequence)
        if found.extra:
            runner.copy_pages([(found.source, pages[0])])
        start, most = len(found.pages) * engine.config.page_size + found.extra, runner.sizes.chunks[-1]
        for at in range(start, until, most.tokens):
            runner.run_chunks([Chunk(sequence, at, min(at + most.tokens, until), last=False)])
        yield sequence
    finally:
        pool.release(sequence.pages, cache.__contains__)
        if found.extra:
            pool.release([found.source])
