from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.sweeps.claims import terms

CLAIM = {
    "point": "queries-2", "than": "queries-4", "expect": "lower", "measures": ["easy_vqa"], "says": "worse",
}  # fmt: skip


def test_a_measure_is_one_term_or_what_one_has_beyond_another():
    assert terms("easy_vqa/shape") == ["easy_vqa/shape"]
    assert terms("easy_vqa/shape - easy_vqa/color-name") == ["easy_vqa/shape", "easy_vqa/color-name"]


def test_a_sweep_reads_its_claims(make_sweep):
    claim = make_sweep(claims={"fewer": CLAIM}).config.claims["fewer"]
    assert (claim.point, claim.than, claim.measures, claim.source) == (
        "queries-2", "queries-4", ("easy_vqa",), "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"point": "queries-3"}, "point in claim 'fewer' 'queries-3'.*queries-"),
        ({"than": "base"}, "point in claim 'fewer' 'base'"),
        ({"than": "queries-2"}, "itself"),
        ({"measures": ["easy_vga/shape"]}, "measure in claim 'fewer' 'easy_vga/shape'.*easy_vqa"),
        ({"measures": ["easy_vqa - facts"]}, "measure in claim 'fewer' 'facts'"),
        ({"measures": ["easy_vqa/"]}, "measure in claim 'fewer' 'easy_vqa/'"),
        ({"measures": ["loss/shape"]}, "measure in claim 'fewer' 'loss/shape'"),
        ({"measures": ["easy_vqa - easy_vqa"]}, "claim 'fewer': 'easy_vqa - easy_vqa' tells nothing"),
        ({"measures": ["easy_vqa - loss"]}, "tells nothing; a difference is of two benchmarks"),
        ({"measures": []}, "sweep.claims.*none"),
        ({"measures": ["loss", "loss"]}, "twice"),
        ({"expect": "better"}, "better.*higher"),
        ({"say": "worse"}, "say.*says"),
    ],
)
def test_a_claim_that_cannot_be_answered_is_refused_before_anything_runs(make_sweep, changed, message):
    with pytest.raises((Owl2Error, UnknownNameError), match=f"(?s){message}"):
        make_sweep(claims={"fewer": {**CLAIM, **changed}})
