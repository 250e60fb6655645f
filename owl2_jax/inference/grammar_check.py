"""Tries a grammar in a process of its own, which may be slow or large without harm.

Compiling a grammar takes a moment, but some are made so that it takes for ever. A thread cannot be
stopped, a process can: what does not compile there within its limits never gets into the server.
The process runs this file by itself; it knows llguidance and nothing else of this package.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

from owl2_jax.core.errors import Owl2Error

CPU_SECONDS: Final = 2
MEMORY: Final = 2**30  # bytes of address space
_WALL_SECONDS: Final = 30.0  # on a machine that has other things to do

_SCRIPT: Final = """
import json, resource, sys
seconds, memory, limits, grammar = json.load(sys.stdin)
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from llguidance import LLMatcher, LLParserLimits
print(json.dumps(LLMatcher.validate_grammar(grammar, limits=LLParserLimits(**limits))))
"""


class GrammarTooLarge(Owl2Error):
    """A grammar that does not compile within the limits."""


def fault(grammar: str, limits: dict[str, object]) -> str | None:
    """What llguidance says against a grammar; None when it compiles.

    Args:
      grammar: as `LLMatcher` takes it.
      limits: of `LLParserLimits`.

    Raises:
      GrammarTooLarge: it takes more than `CPU_SECONDS` or `MEMORY`.
    """
    given = json.dumps([CPU_SECONDS, MEMORY, limits, grammar]).encode()
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _SCRIPT],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_WALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode:
        raise GrammarTooLarge(
            f"it does not compile within {CPU_SECONDS} s and {MEMORY // 2**20} MiB; give a simpler one"
        )
    return json.loads(done.stdout) or None
