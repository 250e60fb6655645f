"""A thousand mutated requests; `tests.fuzz` runs more of them."""

from __future__ import annotations

from itertools import islice

import numpy as np

from tests.fuzz.requests import cases


def test_a_thousand_mutated_requests_are_read_or_refused():
    for case in islice(cases(np.random.default_rng(0)), 1000):
        case()
