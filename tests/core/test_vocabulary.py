from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.vocabulary import MOST_SPARE, check_fit, why_no_fit


@pytest.mark.parametrize("rows", [32000, 32001, 32064, 32128, 32256, 32000 + MOST_SPARE])
def test_padded_embeddings_fit(rows: int) -> None:
    assert why_no_fit(32000, rows) is None


def test_fewer_rows_and_far_more_rows_are_another_models() -> None:
    for rows, message in ((31999, "has 32000 pieces, the model only 31999"), (64000, "more than 1024 spare")):
        with pytest.raises(Owl2Error, match=rf"{message}.*; take another"):
            check_fit(32000, rows, "take another")
