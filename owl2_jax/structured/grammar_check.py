"""Tries a grammar in a process of its own, which may be slow or large without harm.

Compiling a grammar takes a moment, but some are made so that it takes for ever. A thread cannot be
stopped, a process can: what does not compile there within its limits never gets into the server.
The process runs a few lines that know llguidance and nothing of this package.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

from owl2_jax.core.errors import Owl2Error

CPU_SECONDS: Final = 2
MEMORY: Final = 2**30  # bytes of address space
_WALL_SECONDS: Final = 30.0  # on a machine that has other things to do

_LIMITED: Final = """
import json, resource, sys
seconds, memory, given = json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""
_FAULT: Final = """
from llguidance import LLMatcher, LLParserLimits
grammar, limits = given
print(json.dumps(LLMatcher.validate_grammar(grammar, limits=LLParserLimits(**limits))))
"""
_TO_LARK: Final = """
from llguidance.gbnf_to_lark import any_to_lark
try:
    print(json.dumps([any_to_lark(given), None]))
except Exception as error:  # of many kinds, all about the text
    print(json.dumps([None, str(error) or type(error).__name__]))
"""


class GrammarTooLarge(Owl2Error):
    """A grammar that does not compile within the limits."""


class GrammarTimeout(GrammarTooLarge):
    """One that had no result within the wall time: of a busy machine that says nothing for the next time."""


def fault(grammar: str, limits: dict[str, object]) -> str | None:
    """What llguidance says against a grammar; None when it compiles.

    Args:
      grammar: as `LLMatcher` takes it.
      limits: of `LLParserLimits`.

    Raises:
      GrammarTooLarge: it takes more than `CPU_SECONDS` or `MEMORY`.
    """
    return _run(_FAULT, [grammar, limits]) or None


def to_lark(text: str) -> str:
    """A grammar in Lark's notation, which it may have already, or GBNF's.

    Raises:
      GrammarTooLarge: as `fault`.
      Owl2Error: it has neither notation.
    """
    lark, error = _run(_TO_LARK, text)
    if error is not None:
        raise Owl2Error(error)
    return lark


def _run(script: str, given: Any) -> Any:
    """What a script prints about `given`, as JSON; raises `GrammarTooLarge`."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _LIMITED + script],
            input=json.dumps([CPU_SECONDS, MEMORY, given]).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_WALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise GrammarTimeout(
            f"it did not compile within {_WALL_SECONDS:g} s; try again, or give a simpler one"
        ) from None
    if done.returncode:
        raise GrammarTooLarge(
            f"it does not compile within {CPU_SECONDS} s and {MEMORY // 2**20} MiB; give a simpler one"
        )
    return json.loads(done.stdout)
