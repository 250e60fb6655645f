"""Structured output: forms of answers compiled by llguidance; a `Matcher` then walks through one."""

from __future__ import annotations

import functools
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.tokenizer import Tokenizer
from owl2_jax.structured.form import Structured
from owl2_jax.structured.grammar_check import GrammarTimeout, GrammarTooLarge, fault, to_lark
from owl2_jax.structured.matcher import Matcher, one_line, panics_as_errors

_KEPT: Final = 64  # compiled grammars, and verdicts on those that cannot be compiled
# Of a step, a few milliseconds; of the lexer, some 40 MB. Reached, they end the one answer.
_LIMITS: Final = {
    "max_grammar_size": 100_000,
    "max_lexer_states": 20_000,
    "max_items_in_row": 2000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
# A model that is not sure may like blanks best, for ever.
_JSON_OPTIONS: Final = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{0,40}"}


class Grammars:
    """Compiles forms for one tokenizer; may be called from several threads.

    Args:
      tokenizer: of the model.
      vocab_size: V, of the logits, spare ids included.

    Raises:
      Owl2Error: llguidance is not installed.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int):
        self._library = _llguidance()
        self._tokenizer = tokenizer
        self._words = -(-vocab_size // 32)
        self._vocabulary = self._library.LLTokenizer(self._library.TokenizerWrapper(_Vocabulary(tokenizer)))
        self._compiled: OrderedDict[tuple[str, str, bool], Matcher | Owl2Error] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, structured: Structured, continues: bool = False) -> Matcher:
        """A matcher at the beginning of an answer.

        Args:
          structured: the form.
          continues: the space of a word boundary in front of the answer is part of it.

        Raises:
          Owl2Error: no such form can be had; the message begins with the setting's name.
        """
        matcher = self.known(structured, continues)
        if matcher is not None:
            return matcher
        found = self._compile(structured, continues)
        if not isinstance(found, GrammarTimeout):
            with self._lock:
                self._compiled[structured.kind, structured.text, continues] = found
                while len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
        return _opened(found, structured)

    def known(self, structured: Structured, continues: bool = False) -> Matcher | None:
        """As `open`, for a form that was compiled before; None for another. Takes no time."""
        key = (structured.kind, structured.text, continues)
        with self._lock:
            found = self._compiled.get(key)
            if found is not None:
                self._compiled.move_to_end(key)
        return None if found is None else _opened(found, structured)

    def _compile(self, structured: Structured, continues: bool) -> Matcher | Owl2Error:
        try:
            grammar = _grammar(structured, continues)
            wrong = None if structured.kind in ("json_object", "choice") else fault(grammar, _LIMITS)
            if wrong is None:
                limits = self._library.LLParserLimits(**_LIMITS)
                with panics_as_errors():
                    walker = self._library.LLMatcher(self._vocabulary, grammar, log_level=0, limits=limits)
                    matcher = Matcher(walker, self._words)
                    wrong = walker.get_error() or matcher.error or self._dead_end(matcher)
        except GrammarTooLarge as error:
            return error
        except Owl2Error as error:
            wrong = str(error)
        return matcher if wrong is None else Owl2Error(one_line(wrong))

    def _dead_end(self, matcher: Matcher) -> str | None:
        """What is wrong when nothing may come behind the space that stands in front of an answer."""
        allowed = np.flatnonzero(np.unpackbits(matcher.allowed.view(np.uint8), bitorder="little"))
        is_space = len(allowed) == 1 and self._tokenizer.token_bytes(int(allowed[0])) == b" "
        return matcher.after(int(allowed[0])).error if is_space else None


def _opened(found: Matcher | Owl2Error, structured: Structured) -> Matcher:
    if isinstance(found, Owl2Error):
        raise type(found)(f"{structured.name}: {found}")
    return found.copy()


@functools.lru_cache(maxsize=4)
def grammars_of(tokenizer: Tokenizer, vocab_size: int) -> Grammars:
    """The same compiler, and what it has compiled, for all who use a tokenizer."""
    return Grammars(tokenizer, vocab_size)


class _Vocabulary:
    """The pieces of a tokenizer as llguidance takes them: what each adds to a text, in bytes."""

    def __init__(self, tokenizer: Tokenizer):
        ids = range(tokenizer.vocab_size)
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, None
        self.special_token_ids = [token for token in ids if tokenizer.is_special(token)]
        # A space that is a byte piece would be kept in front of an answer, where that of a word
        # boundary is not; there is always the other.
        self.tokens = [
            b"" if tokenizer.piece(token) == "<0x20>" else tokenizer.token_bytes(token) for token in ids
        ]
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        """Of use for forced bytes alone, which are not looked for."""
        text = text.decode() if isinstance(text, bytes) else text
        return self._tokenizer.encode(text, control_tokens=False)


def _grammar(structured: Structured, continues: bool) -> str:
    """The form in llguidance's notation; raises `Owl2Error` for a grammar that cannot be read.

    An answer to a question begins with a word boundary that is no part of its text. Forced
    bytes are not looked for: they would be spelt in one way, and there may be a million of them.
    """
    start = "@form" if continues else '" " @form'
    outer = f'%llguidance {{"no_forcing": true}}\nstart: {start}'
    return json.dumps({"grammars": [{"lark_grammar": outer}, {"name": "form", **_form(structured)}]})


def _form(structured: Structured) -> Mapping[str, Any]:
    kind, text = structured.kind, structured.text
    if kind in ("json_object", "json_schema"):
        schema = json.loads(text) if kind == "json_schema" else {"type": "object"}
        schema = {} if schema is True else schema
        return {"json_schema": {**schema, "x-guidance": _JSON_OPTIONS}}
    if kind == "choice":
        return {"lark_grammar": "start: " + " | ".join(map(json.dumps, json.loads(text)))}
    if kind == "regex":
        # A text is matched as a whole, which is what these two ask for.
        expression = re.sub(r"(?<!\\)((?:\\\\)*)\$$", r"\1", text.removeprefix("^"))
        expression = _llguidance().regex_to_lark(expression, "")
        return {"lark_grammar": f"start: /{expression}/"}
    return {"lark_grammar": to_lark(text)}


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise Owl2Error(
            "structured output needs llguidance, which is not installed; "
            "run pip install 'owl2_jax[structured]'"
        ) from None
    return llguidance
