"""The modality-adaptive module as a set: which parts of a decoder layer have a copy per modality.

    norms   both norms        q, k, v   queries, keys, values

A set is written as the name of one that has a name, or as names and parts with
"+" between them: "qkv", "norms+q", "full+q". Sets that are equal are spelt alike
after `canonical`.
"""

from __future__ import annotations

from typing import Final

from owl2_jax.core.errors import Owl2Error, unknown_name

PARTS: Final = ("norms", "q", "k", "v")
# "full" is mPLUG-Owl2's module, "qkv" that of mPLUG-Owl2.1, "none" a plain decoder.
SETS: Final[dict[str, frozenset[str]]] = {
    "full": frozenset(("norms", "k", "v")),
    "qkv": frozenset(("q", "k", "v")),
    "norms": frozenset(("norms",)),
    "kv": frozenset(("k", "v")),
    "q": frozenset(("q",)),
    "all": frozenset(PARTS),
    "none": frozenset(),
}
_LONGEST: Final = 100  # characters; every set fits


def parts(name: str) -> frozenset[str]:
    """The parts of `PARTS` that a set has.

    Raises:
      UnknownNameError: a name that is neither a set's nor a part's, with the nearest ones.
      Owl2Error: "none" together with something.
    """
    words = [word.strip() for word in name[:_LONGEST].split("+")]
    known = {**{part: frozenset((part,)) for part in PARTS}, **SETS}
    for word in words:
        if word not in known:
            raise unknown_name("model.decoder.adaptive", word, known)
    if "none" in words and len(words) > 1:
        raise Owl2Error(f"model.decoder.adaptive {name!r} joins none with something; leave one of them out")
    return frozenset().union(*(known[word] for word in words))


def canonical(name: str) -> str:
    """The one spelling of a set: its name, or its parts in the order of `PARTS`. Raises as `parts` does."""
    chosen = parts(name)
    named = next((known for known, members in SETS.items() if members == chosen), None)
    return named or "+".join(part for part in PARTS if part in chosen)
