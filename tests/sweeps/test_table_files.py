from __future__ import annotations

import csv

import pytest

from owl2_jax.sweeps.collect import collect
from owl2_jax.sweeps.table_files import markdown, write_table
from tests.sweeps.conftest import pretend, pretend_scores

SCORES = {
    "queries-4": [80.0, 84.0, 82.0, 81.0, 83.0],
    "queries-2": [74.1, 78.0, 75.9, 75.1, 77.0],
    "queries-8": [80.5, 83.0, 83.0, 80.5, 84.5],
}


def test_markdown_has_means_differences_and_what_can_be_seen(make_sweep, folder):
    sweep = make_sweep(seeds=[0, 1, 2, 3, 4])
    pretend_scores(sweep, folder, SCORES)
    text = markdown(collect(sweep, folder))
    assert "| easy vqa (accuracy) | easy vqa: difference to queries-4 |" in text
    assert "| queries-4 | 4 | 5 | 82.0 ± 1.6 |  | 2.500 ± 1.581 | 5 |" in text
    assert "| 76.0 ± 1.5 | -6.0 (-6.1 to -5.8) |" in text
    assert "| 82.3 ± 1.8 | no difference seen (at most 1.6) |" in text
    assert "GiB per chip" not in text, "a column without any figure is left out"
    assert "differ in model, from random parameters" in text
    assert "| benchmark | spread of a difference | from its questions alone | 3 seeds | 5 seeds | 8" in text
    assert "among 2 comparisons:" in text


def test_csv_has_interval_deviation_and_corrected_p_of_every_measure(make_sweep, folder, tmp_path):
    sweep = make_sweep(seeds=[0, 1, 2, 3, 4])
    pretend_scores(sweep, folder, SCORES)
    base, fewer, more = csv.DictReader(write_table(collect(sweep, folder), tmp_path)[0].open())
    assert base["base"] == fewer["base"] == "queries-4"
    assert base["easy_vqa_difference"] == base["loss_difference_p"] == ""
    assert float(fewer["easy_vqa_difference"]) == pytest.approx(-5.98)
    assert float(fewer["easy_vqa_difference_low"]) < -5.98 < float(fewer["easy_vqa_difference_high"]) < 0
    assert float(fewer["easy_vqa_difference_p"]) < 0.001 < 0.5 < float(more["easy_vqa_difference_p"])
    assert float(more["easy_vqa_difference_deviation"]) == pytest.approx(1.0368, abs=1e-3)
    assert more["easy_vqa_difference_seeds"] == "5"
    # The same loss on each seed: nothing to be tested.
    assert (float(more["loss_difference"]), more["loss_difference_p"]) == (0.0, "")
    assert float(more["easy_vqa/shape_difference"]) == 0.0


def test_a_base_that_is_not_finished_and_seeds_that_are_not_shared_are_told(make_sweep, folder):
    sweep = make_sweep(seeds=[0, 1])
    pretend_scores(sweep, folder, {"queries-2": [1.0, 2.0], "queries-8": [3.0]})
    text = markdown(collect(sweep, folder))
    assert "No differences: no run of the point queries-4" in text
    assert "difference to" not in text
    pretend(sweep, folder, [sweep.find("queries-4/seed-1")])
    text = markdown(collect(sweep, folder))
    assert "| 1.5 ± 0.7 | -79.0 (one seed) |" in text
    assert "| 3.0 | no seed in common |" in text


def test_a_single_point_has_nothing_to_be_compared_with(make_sweep, folder):
    sweep = make_sweep(axes={"queries": {"4": []}}, seeds=[0, 1])
    pretend(sweep, folder)
    assert "ifference" not in markdown(collect(sweep, folder))
