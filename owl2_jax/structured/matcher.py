"""Where an answer stands in the form it is to have, and which tokens may come next.

llguidance walks through the form token by token. `Matcher.advance_all` has that done in a thread,
where llguidance needs no lock of Python: the engine goes on with texts, new requests and their
prompts, and waits for the masks only when it starts the next step.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from owl2_jax.core.errors import Owl2Error

_PLACE: Final = re.compile(r"^at 1\(\d+\): ")


class Matcher:
    """Where an answer stands in its form.

    Attributes:
      error: why the answer cannot go on, or None.
    """

    def __init__(self, walker: Any, words: int, first: np.ndarray | None = None):
        self.error: str | None = None
        self._walker = walker
        self._words = words
        self._work: Future[None] | None = None
        self._allowed = np.zeros((words,), np.uint32)
        if first is None:
            self._look()
        else:
            self._allowed = first

    def copy(self) -> Matcher:
        """Another one that stands at the same place."""
        with panics_as_errors():
            return Matcher(self._walker.deep_copy(), self._words, self.allowed.copy())

    def after(self, token: int) -> Matcher:
        """Another one that stands behind a token."""
        following = self.copy()
        following._take(token)
        return following

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Whether an answer may go on with these tokens and then end; it stays where it is."""
        try:
            walker = self._walker.deep_copy()
            return walker.try_consume_tokens(list(tokens)) == len(tokens) and walker.is_accepting()
        except BaseException as error:  # see `_take`
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            return False

    @property
    def allowed(self) -> np.ndarray:
        """uint32[W], bit i % 32 of word i // 32 for token i; waits until it is known."""
        self.wait()
        return self._allowed

    def wait(self) -> None:
        """Returns when it is known what may come next."""
        if self._work is not None:
            self._work.result()
            self._work = None

    @property
    def ready(self) -> bool:
        """Whether it is known already."""
        return self._work is None or self._work.done()

    @property
    def failed(self) -> bool:
        """Whether the answer cannot go on; waits until it is known."""
        return not self.allowed.any()

    @staticmethod
    def advance_all(matchers: Sequence[Matcher], tokens: Sequence[int]) -> None:
        """Takes the newest token of each answer; the thread finds what may come after it."""

        def walk() -> None:
            for matcher, token in zip(matchers, tokens, strict=True):
                matcher._take(token)

        work = _thread().submit(walk)
        for matcher in matchers:
            matcher._work = work

    def _take(self, token: int) -> None:
        try:
            self._walker.consume_token(token)
            self._look()
        except BaseException as error:  # a panic of Rust is no Exception, and ends this answer alone
            self._fail(str(error))

    def _look(self) -> None:
        bits = np.frombuffer(self._walker.compute_bitmask(), np.uint32)[: self._words]
        self._allowed = np.zeros((self._words,), np.uint32)
        self._allowed[: len(bits)] = bits
        if not self._allowed.any() or self._walker.is_error():
            self._fail(self._walker.get_error())

    def _fail(self, reason: str) -> None:
        self.error = one_line(reason)
        self._allowed = np.zeros((self._words,), np.uint32)


@functools.cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "masks")


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """A panic of Rust, which is no Exception, becomes an error of the one form that it is about."""
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise Owl2Error(f"llguidance failed: {one_line(str(error))}") from None


def one_line(text: str) -> str:
    """What llguidance says, without the lines around it that were added to what the user wrote."""
    text = " ".join(text.replace("<non-verbose/>", "").split())
    if text in ("", "NoExtension", "NoExtensionBias"):
        return "nothing that may follow leads to an end"
    return _PLACE.sub("", text.partition(" 1 | start:")[0])[:300]
