from __future__ import annotations

import csv

import pytest

from owl2_jax.core.errors import UnknownNameError
from owl2_jax.sweeps.claims_table import answers, claims_markdown, write_claims
from owl2_jax.sweeps.collect import collect
from tests.sweeps.conftest import pretend, pretend_scores

SCORES = {
    "queries-4": [80.0, 84.0, 82.0, 81.0, 83.0],
    "queries-2": [74.1, 78.0, 75.9, 75.1, 77.0],
    "queries-8": [80.5, 83.0, 83.0, 80.5, 84.5],
}
FEWER = {
    "point": "queries-2", "than": "queries-4", "expect": "lower", "measures": ["easy_vqa"],
    "says": "fewer queries are worse", "source": "a paper: 80 to 70",
}  # fmt: skip
MORE = {**FEWER, "point": "queries-8", "expect": "higher", "says": "more are better", "source": ""}


def _verdicts(sweep, folder):
    return {one.name: one.verdict for one in answers(collect(sweep, folder), sweep.config.claims)}


def test_each_claim_gets_its_verdict(make_sweep, folder):
    claims = {
        "fewer": FEWER,
        "fewer_better": {**FEWER, "expect": "higher"},
        "fewer_same": {**FEWER, "expect": "same"},
        "more": MORE,
        "more_same": {**MORE, "expect": "same"},
        # Not against the base: 8 queries against 2.
        "much_more": {**MORE, "than": "queries-2"},
    }
    sweep = make_sweep(seeds=[0, 1, 2, 3, 4], claims=claims)
    pretend_scores(sweep, folder, SCORES)
    assert _verdicts(sweep, folder) == {
        "fewer": "as claimed",
        "fewer_better": "the contrary",
        "fewer_same": "the contrary",
        "more": "not told",
        "more_same": "no difference seen",
        "much_more": "as claimed",
    }


def test_a_claim_of_points_that_have_not_run_is_not_run(make_sweep, folder):
    sweep = make_sweep(seeds=[0, 1, 2], claims={"fewer": FEWER, "more": MORE})
    pretend_scores(sweep, folder, {name: SCORES[name] for name in ("queries-4", "queries-2")})
    assert _verdicts(sweep, folder) == {"fewer": "as claimed", "more": "not run"}


def test_one_seed_tells_nothing_whatever_was_expected(make_sweep, folder):
    claims = {expect: {**FEWER, "expect": expect} for expect in ("lower", "higher", "same")}
    sweep = make_sweep(seeds=[0], claims=claims)
    pretend_scores(sweep, folder, SCORES)
    assert set(_verdicts(sweep, folder).values()) == {"not told"}


def test_a_difference_that_is_the_same_on_every_seed_was_not_tested(make_sweep, folder):
    claims = {expect: {**FEWER, "expect": expect} for expect in ("lower", "higher", "same")}
    sweep = make_sweep(seeds=[0, 1, 2], claims=claims)
    pretend_scores(sweep, folder, {"queries-4": [80.0, 84.0, 82.0], "queries-2": [75.0, 79.0, 77.0]})
    assert set(_verdicts(sweep, folder).values()) == {"not told"}


def test_none_on_every_seed_is_no_difference(make_sweep, folder):
    sweep = make_sweep(seeds=[0, 1, 2], claims={"same": {**FEWER, "expect": "same"}})
    pretend_scores(sweep, folder, {"queries-4": SCORES["queries-4"], "queries-2": SCORES["queries-4"]})
    assert _verdicts(sweep, folder) == {"same": "no difference seen"}


def test_points_that_share_no_seed_are_told_so(make_sweep, folder):
    sweep = make_sweep(seeds=[0, 1], claims={"fewer": FEWER})
    pretend(sweep, folder, [sweep.find("queries-4/seed-0"), sweep.find("queries-2/seed-1")])
    assert _verdicts(sweep, folder) == {"fewer": "no seeds in common"}


def test_words_of_a_claim_cannot_break_the_table(make_sweep, folder):
    sweep = make_sweep(seeds=[0], claims={"fewer": {**FEWER, "says": "a | b\nc"}})
    pretend_scores(sweep, folder, SCORES)
    assert "| a \\| b c | a paper" in claims_markdown(answers(collect(sweep, folder), sweep.config.claims))


def test_measures_of_a_claim_are_corrected_for_each_other_and_claims_are_not(make_sweep, folder):
    both = {**FEWER, "measures": ["easy_vqa", "easy_vqa - easy_vqa/shape"]}
    sweep = make_sweep(seeds=[0, 1, 2, 3, 4], claims={"one": FEWER, "two": both})
    pretend_scores(sweep, folder, SCORES)
    alone, first, second = answers(collect(sweep, folder), sweep.config.claims)
    # Shapes are the same at both points, so that the second measure has the first's difference.
    assert second.difference.mean == pytest.approx(first.difference.mean) == pytest.approx(-5.98)
    assert first.difference.p_corrected == pytest.approx(2 * alone.difference.p_corrected)
    assert first.means == pytest.approx((76.02, 82.0))
    assert second.means[1] < first.means[1], "less those of shapes"


def test_files_say_claim_source_difference_and_verdict(make_sweep, folder, tmp_path):
    sweep = make_sweep(seeds=[0, 1, 2, 3, 4], claims={"fewer": FEWER, "more": MORE})
    pretend_scores(sweep, folder, SCORES)
    table = collect(sweep, folder)
    path, text = write_claims(answers(table, sweep.config.claims), tmp_path)
    fewer, more = csv.DictReader(path.open())
    assert (fewer["verdict"], fewer["source"], fewer["seeds"]) == ("as claimed", "a paper: 80 to 70", "5")
    assert float(fewer["point_mean"]) - float(fewer["than_mean"]) == pytest.approx(float(fewer["difference"]))
    assert float(more["low"]) < 0 < float(more["high"])
    assert text.read_text() == claims_markdown(answers(table, sweep.config.claims))
    assert (
        "| fewer queries are worse | a paper: 80 to 70 | queries-2 less queries-4 | easy_vqa "
        "| -6.0 (-6.1 to -5.9) | as claimed |"
    ) in text.read_text()
    assert "2 claims are made" in text.read_text()
    assert write_claims([], tmp_path) == []
    assert not any(file.exists() for file in (path, text)), "the sweep claims nothing any more"


def test_a_kind_of_question_that_the_runs_lack_is_named(make_sweep, folder):
    sweep = make_sweep(seeds=[0], claims={"fewer": {**FEWER, "measures": ["easy_vqa/shapes"]}})
    pretend_scores(sweep, folder, SCORES)
    with pytest.raises(UnknownNameError, match=r"(?s)claim 'fewer'.*easy_vqa/shapes.*easy_vqa/shape"):
        answers(collect(sweep, folder), sweep.config.claims)
