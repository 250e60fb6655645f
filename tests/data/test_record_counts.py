from __future__ import annotations

import pytest

from owl2_jax.data.record_counts import RecordCounts, RejectedShareError


def state(read: int, **rejected: int) -> dict:
    return {"next": read, "waiting": [], "rejected": rejected, "cut": {}}


def test_shards_add_up():
    counts = RecordCounts(max_share=1.0)
    counts.update(0, state(100, missing=2))
    counts.update(0, state(150, missing=3))
    counts.update(1, {**state(50, missing=1, corrupt=1), "cut": {"truncated": 4}})
    assert counts.read == 200
    assert counts.rejected == {"missing": 4, "corrupt": 1}
    assert counts.cut == {"truncated": 4}


def test_a_run_stops_above_the_share_and_says_what_was_wrong():
    counts = RecordCounts(max_share=0.001, where="runs/a/rejected.jsonl")
    counts.update(0, state(2000, **{"coco/missing": 2}))
    counts.check()
    counts.update(0, state(2000, **{"coco/missing": 2, "vqa/corrupt": 1}))
    with pytest.raises(
        RejectedShareError, match=r"3 of 2000 .* 0\.10%\): coco/missing 2, vqa/corrupt 1.*runs/a"
    ):
        counts.check()


def test_a_share_of_few_records_stops_nothing():
    counts = RecordCounts(max_share=0.001)
    counts.update(0, state(999, missing=5))
    counts.check()
    counts.update(0, state(1000, missing=5))
    with pytest.raises(RejectedShareError):
        counts.check()


def test_cut_samples_are_no_rejects():
    counts = RecordCounts(max_share=0.0)
    counts.update(0, {**state(5000), "cut": {"text/truncated": 900}})
    counts.check()
