from __future__ import annotations

import pytest

from tests.data import fuzz


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [fuzz.image_set, fuzz.record_set])
def test_every_mutated_record_is_used_or_counted(tmp_path, make):
    outcomes, slowest = fuzz.run(make(tmp_path, 500))
    assert outcomes.total() == 500
    assert 0 < outcomes["usable"] < 450
    assert slowest < 10
