from __future__ import annotations

import shutil

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.sweeps.claims_notes import NOTES_FILE, note_claims, stated_late
from owl2_jax.sweeps.claims_table import answers, claims_markdown, write_claims
from owl2_jax.sweeps.collect import collect
from tests.sweeps.conftest import pretend_scores
from tests.sweeps.test_claims_table import FEWER, MORE, SCORES


def _take(sweep, folder):
    note_claims(sweep, folder, is_new=folder.take(sweep))
    return stated_late(folder, sweep.config.claims)


def test_claims_that_stood_before_the_runs_are_not_told(make_sweep, folder):
    sweep = make_sweep(seeds=[0, 1], claims={"fewer": FEWER})
    assert _take(sweep, folder) == {}
    pretend_scores(sweep, folder, SCORES)
    assert _take(sweep, folder) == {}


def test_a_claim_that_is_added_or_turned_after_results_is_told_with_the_seeds_there_were(make_sweep, folder):
    _take(make_sweep(seeds=[0, 1, 2], claims={"fewer": FEWER}), folder)
    pretend_scores(
        make_sweep(seeds=[0, 1]), folder, {name: SCORES[name] for name in ("queries-4", "queries-2")}
    )
    turned = {"fewer": {**FEWER, "expect": "higher"}, "again": FEWER, "more": MORE}
    sweep = make_sweep(seeds=[0, 1, 2], claims=turned)
    assert _take(sweep, folder) == {"fewer": 2, "again": 2}, "`more` has a point without runs"
    for point in sweep.points[:2]:
        shutil.rmtree(folder.path / "points" / point.name)
    pretend_scores(sweep, folder, SCORES)
    late = _take(sweep, folder)
    assert late == {"fewer": 2, "again": 2}, "as it was when they were first stated"
    found = answers(collect(sweep, folder), sweep.config.claims)
    text = claims_markdown(found, late)
    assert text.endswith("both of its points had been scored: fewer (2 seeds), again (2 seeds).\n")
    rows = write_claims(found, folder.path, late)[0].read_text().splitlines()
    assert [row.rpartition(",")[2] for row in rows] == ["seeds_before", "2", "2", ""]


def test_other_words_are_the_same_claim(make_sweep, folder):
    sweep = make_sweep(seeds=[0], claims={"fewer": FEWER})
    _take(sweep, folder)
    pretend_scores(sweep, folder, SCORES)
    assert (
        _take(make_sweep(seeds=[0], claims={"fewer": {**FEWER, "says": "less", "source": ""}}), folder) == {}
    )


def test_without_notes_it_is_told_that_nothing_says_when_a_claim_was_stated(make_sweep, folder):
    sweep = make_sweep(seeds=[0], claims={"fewer": FEWER})
    _take(sweep, folder)
    pretend_scores(sweep, folder, SCORES)
    (folder.path / NOTES_FILE).unlink()  # or of a version without
    late = _take(sweep, folder)
    assert late == {"fewer": None}
    found = answers(collect(sweep, folder), sweep.config.claims)
    assert claims_markdown(found, late).endswith("stated before the results: fewer.\n")
    rows = write_claims(found, folder.path, late)[0].read_text().splitlines()
    assert rows[1].rpartition(",")[2] == "unknown"
    assert _take(make_sweep(seeds=[0], claims={"fewer": {**FEWER, "expect": "same"}}), folder) == {"fewer": 1}


def test_scores_of_seeds_that_are_not_asked_for_now_count_too(make_sweep, folder):
    first = make_sweep(seeds=[0, 1])
    folder.take(first)
    _take(first, folder)
    pretend_scores(first, folder, SCORES)
    assert _take(make_sweep(seeds=[5, 6], claims={"fewer": FEWER}), folder) == {"fewer": 2}


def test_a_folder_that_cannot_be_listed_is_named(make_sweep, folder, monkeypatch):
    sweep = make_sweep(seeds=[0], claims={"fewer": FEWER})
    _take(sweep, folder)
    pretend_scores(sweep, folder, SCORES)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(Owl2Error, match=r"points/queries-\d cannot be listed: Permission denied"):
        folder.scored_seeds("queries-2")


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        '{"fewer": 1}',
        '{"fewer": {"asks": 1}}',
        '{"fewer": ["asks", "seeds_before"]}',
        '{"fewer": {"asks": {}, "seeds_before": "two"}}',
        "{",
    ],
)
def test_damaged_notes_are_named(make_sweep, folder, text):
    sweep = make_sweep(seeds=[0], claims={"fewer": FEWER})
    _take(sweep, folder)
    (folder.path / NOTES_FILE).write_text(text)
    with pytest.raises(Owl2Error, match=r"claims\.json"):
        _take(sweep, folder)
