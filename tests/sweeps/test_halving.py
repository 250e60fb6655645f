"""Successive halving, with an `owl2` that only pretends: every point scores 80 plus its seed unless told."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error, UnknownNameError
from owl2_jax.sweeps import halving
from owl2_jax.sweeps.collect import collect
from owl2_jax.sweeps.halving import run_halving, rungs, stopped
from owl2_jax.sweeps.stops import read_stops
from owl2_jax.sweeps.table_files import markdown, write_table
from tests.sweeps.conftest import pretend_scores

FOUR = {name: [f"model.abstractor.num_queries={name}"] for name in ("4", "2", "8", "16")}
SCORES = {
    "queries-4": (50, 51, 50, 51), "queries-2": (60, 61, 60, 61), "queries-8": (80, 81, 80, 81),
    "queries-16": (70, 71, 70, 71),
}  # fmt: skip


@pytest.fixture
def sweep(make_sweep):
    return make_sweep(axes={"queries": FOUR}, seeds=[0, 1, 2, 3])


def test_numbers_of_seeds_double_up_to_all_of_them():
    assert [rungs(n) for n in (3, 4, 5, 8, 10)] == [[2, 3], [2, 4], [2, 4, 5], [2, 4, 8], [2, 4, 8, 10]]


def test_the_worse_half_is_stopped_and_the_base_never():
    means = {"base": 1.0, "a": 4.0, "b": 3.0, "c": 2.0, "d": 5.0}
    found = stopped(means, "base", "easy_vqa", 2)
    assert list(found) == ["c"]
    assert found["c"].text() == ("stopped after 2 seeds: easy_vqa 2, the 4 that went on had 3 or better")
    assert stopped({"base": 1.0, "a": 4.0}, "base", "easy_vqa", 2) == {}


def test_a_lower_loss_is_better():
    means = {"base": 0.1, "a": 4.0, "b": 3.0, "c": 2.0}
    assert list(stopped(means, "base", "loss", 2)) == ["b", "a"]


def test_points_that_were_stopped_get_no_further_seeds(sweep, folder, pretended):
    pretend_scores(sweep, folder, {name: values[:2] for name, values in SCORES.items()})
    said = []
    outcome = run_halving(sweep, folder, "easy_vqa", say=said.append)
    # The base, although it is the worst, and the better two of four.
    assert {name.split("/")[0] for name in outcome.finished} == {"queries-4", "queries-8", "queries-16"}
    assert len(outcome.finished) == 12
    assert not (folder.path / "points/queries-2/seed-2").exists()
    assert said[0] == (
        "queries-2: stopped after 2 seeds: easy_vqa 60.5, the 3 that went on had 70.5 or better"
    )
    assert list(read_stops(folder)) == ["queries-2"]
    # Again: the same decisions, and nothing is run.
    assert run_halving(sweep, folder, "easy_vqa", say=said.append).finished == outcome.finished


def test_the_table_says_what_was_stopped_and_why(sweep, folder, pretended):
    pretend_scores(sweep, folder, {name: values[:2] for name, values in SCORES.items()})
    run_halving(sweep, folder, "easy_vqa", say=lambda text: None)
    table = collect(sweep, folder)
    assert table.missing == {}
    assert [row.seeds for row in table.rows] == [4, 2, 4, 4]
    text = "stopped after 2 seeds: easy_vqa 60.5, the 3 that went on had 70.5 or better"
    assert table.stopped == {"queries-2": text}
    assert f"| {text} |" in markdown(table)
    folder.path.mkdir(exist_ok=True)
    assert text in write_table(table, folder.path)[0].read_text()


def test_parts_of_a_benchmark_decide_too_and_unknown_ones_are_named(sweep, folder, pretended):
    assert run_halving(sweep, folder, "easy_vqa/shape", say=lambda text: None).failed == {}
    with pytest.raises(Owl2Error, match="have no easy_vqa/shapes; they have loss, easy_vqa/shape, easy_vqa"):
        run_halving(sweep, folder, "easy_vqa/shapes", say=lambda text: None)


def test_a_failed_run_ends_it_before_anything_is_stopped(sweep, folder, pretended):
    pretended.write_text("train num_queries=8 2")
    outcome = run_halving(sweep, folder, "easy_vqa", say=lambda text: None)
    assert list(outcome.failed) == ["queries-8/seed-0"]
    assert read_stops(folder) == {}
    assert not (folder.path / "points/queries-4/seed-2").exists()


def test_what_cannot_decide_is_refused_before_anything_runs(make_sweep):
    with pytest.raises(UnknownNameError, match="easy_vqa"):
        halving.check_measure(make_sweep(seeds=[0, 1, 2]), "easyvqa")
    with pytest.raises(Owl2Error, match="stops points after 2 seeds at the earliest, and the sweep has 2"):
        halving.check_measure(make_sweep(seeds=[0, 1]), "easy_vqa")
