"""A thousand mutated records, lines and shards; `tests.fuzz` runs more of them."""

from __future__ import annotations

from contextlib import closing
from itertools import islice

import numpy as np
import pytest

from tests.fuzz import records, webdataset


@pytest.mark.parametrize("fuzzer", [records, webdataset], ids=lambda one: one.__name__)
def test_a_thousand_inputs_are_read_as_written_or_refused(fuzzer):
    with closing(fuzzer.cases(np.random.default_rng(0))) as cases:
        for case in islice(cases, 1000):
            case()
