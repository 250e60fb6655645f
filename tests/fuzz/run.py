"""Runs mutated inputs through every reader and counts what goes wrong.

    python -m tests.fuzz.run [--count 100000] [--only NAME ...] [--seed N]

Every module of this folder with a `cases(rng)` takes part. It yields calls without
an end; a call that raises is a finding: a traceback where an `Owl2Error` belongs,
or an input that was silently read as something else. The tests run a small share.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import pkgutil
import sys
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np

import tests.fuzz

Case = Callable[[], None]


def fuzzers() -> dict[str, Callable[[np.random.Generator], Iterator[Case]]]:
    """{module name: its `cases`}."""
    found = {}
    for module in pkgutil.iter_modules(tests.fuzz.__path__):
        if module.name != "run" and not module.name.startswith("test_"):
            cases = getattr(importlib.import_module(f"tests.fuzz.{module.name}"), "cases", None)
            if cases is not None:
                found[module.name] = cases
    return found


def run(name: str, count: int, seed: int = 0, most: int = 5) -> list[str]:
    """Runs `count` inputs of one module; returns what at most `most` of them raised, with their numbers."""
    findings = []
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    with closing(fuzzers()[name](rng)) as cases:
        for number, case in enumerate(itertools.islice(cases, count)):
            try:
                case()
            except Exception:  # whatever it is, it is what we look for
                findings.append(f"{name}, seed {seed}, input {number}:\n{traceback.format_exc()}")
                if len(findings) == most:
                    break
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=100_000, help="inputs over all modules")
    parser.add_argument("--only", nargs="*", metavar="NAME", help=f"of {', '.join(fuzzers())}")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    names = args.only or list(fuzzers())
    each, wrong = -(-args.count // len(names)), 0
    warnings.simplefilter("ignore")  # libraries warn of damaged files; the readers' errors are what counts
    for name in names:
        start = time.perf_counter()
        findings = run(name, each, args.seed)
        wrong += len(findings)
        print(
            f"{name:24} {each:8} inputs {time.perf_counter() - start:8.1f} s {len(findings):4} findings",
            flush=True,
        )
        print("\n".join(findings), end="\n" if findings else "", flush=True)
    print(f"{each * len(names)} inputs, {wrong} findings")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
