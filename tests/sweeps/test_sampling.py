from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.sweeps.collect import collect
from owl2_jax.sweeps.grid import Run
from owl2_jax.sweeps.power import noise_of, seen_table
from owl2_jax.sweeps.sampling import answers_of
from owl2_jax.sweeps.table_files import write_table
from tests.sweeps import fake_owl2


@pytest.fixture
def asked(make_sweep, folder):
    """Makes finished runs of a benchmark from {point: bool[seeds, questions]}, and gives the sweep."""

    def make(answers):
        sweep = make_sweep(seeds=list(range(len(next(iter(answers.values()))))))
        for name, right in answers.items():
            for seed, one in enumerate(right):
                files = folder.run(Run(sweep.find_point(name), seed))
                fake_owl2.train(files.training, [f"train.seed={seed}"])
                fake_owl2.evaluate(files.scores, ["easy_vqa"], 100 * float(np.mean(one)) - seed)
                rows = [{"id": f"q{number}", "score": float(score)} for number, score in enumerate(one)]
                path = files.scores / "easy_vqa" / "results.jsonl"
                path.parent.mkdir()
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return sweep

    return make


def _answers(sweep, folder, point="queries-4", benchmark="easy_vqa", scores=None):
    runs = {seed: folder.run(Run(sweep.find_point(point), seed)) for seed in sweep.config.seeds}
    entries = {seed: run.read_scores()["easy_vqa"]["value"] for seed, run in runs.items()}
    return answers_of(runs, benchmark, scores or entries)


def test_variance_by_questions_is_that_of_independent_answers(asked, folder):
    right = np.random.default_rng(0).random((40, 300)) < 0.3
    found = _answers(asked({"queries-4": right}), folder)
    assert len(found.ids) == 300
    assert found.sampled() == pytest.approx(0.3 * 0.7 / 300 * 1e4, rel=0.05)
    assert found.sampled() == pytest.approx(np.var(100 * right.mean(1), ddof=1), rel=0.4)


def test_seeds_that_are_better_as_a_whole_spread_beyond_their_questions(asked, folder):
    chance = np.linspace(0.2, 0.6, 5)[:, None]
    right = np.random.default_rng(0).random((5, 2000)) < chance
    found = _answers(asked({"queries-4": right}), folder)
    assert found.sampled() < 0.02 * np.var(100 * right.mean(1), ddof=1)


def test_a_difference_counts_only_the_questions_that_two_points_answer_otherwise(asked, folder):
    base = np.random.default_rng(0).random((5, 600)) < 0.4
    other = base.copy()
    for seed in range(5):
        other[seed, 3 * seed : 3 * seed + 3] ^= True
    sweep = asked({"queries-4": base, "queries-2": other})
    points = [_answers(sweep, folder, point) for point in ("queries-4", "queries-2")]
    # Each of 15 questions differs for one of five seeds: a variance of 1/5 each.
    assert points[1].sampled_with(points[0]) == pytest.approx(1e4 * 15 * 0.2 / 600**2)
    assert points[1].sampled_with(points[0]) < points[0].sampled() / 40
    assert noise_of(collect(sweep, folder))["easy_vqa"].sampled == pytest.approx(100 * math.sqrt(3) / 600)


def test_one_seed_other_questions_and_other_scores_tell_nothing(asked, folder):
    right = np.array([[1, 0, 1, 1], [0, 0, 1, 0]])
    sweep = asked({"queries-4": right})
    assert _answers(sweep, folder).sampled() == pytest.approx(625)
    assert _answers(sweep, folder, scores={0: 75.0, 1: 30.0}) is None, (
        "the score is no mean over the questions"
    )
    assert _answers(sweep, folder, benchmark="facts") is None, "no results"
    path = folder.run(Run(sweep.find_point("queries-4"), 1)).scores / "easy_vqa" / "results.jsonl"
    kept = path.read_text()
    path.write_text(kept.replace("q3", "q4"))
    assert _answers(sweep, folder) is None, "not the same questions"
    path.write_text(kept.replace('"score": 1.0', '"score": null'))
    assert _answers(sweep, folder) is None, "a judge has yet to score"
    path.write_text(kept.replace('"id"', '"name"'))
    with pytest.raises(
        Owl2Error, match=r"results.jsonl holds no results \(KeyError: 'id'\); delete .*scores"
    ):
        _answers(sweep, folder)


def test_a_single_seed_has_no_spread(asked, folder):
    found = _answers(asked({"queries-4": np.ones((1, 4))}), folder)
    assert (found.sampled(), found.sampled_with(found)) == (None, None)


def test_the_table_of_what_can_be_seen_tells_how_much_the_questions_give(asked, folder, tmp_path):
    rng = np.random.default_rng(1)
    sweep = asked({name: rng.random((5, 200)) < 0.4 for name in ("queries-4", "queries-2")})
    table = collect(sweep, folder)
    level = noise_of(table)["easy_vqa"]
    # Both points are spread by nothing else: the root of 2 times 0.4 x 0.6 / 200.
    assert level.sampled == pytest.approx(100 * np.sqrt(2 * 0.24 / 200), rel=0.1)
    assert level.questions == 200
    text = "\n".join(seen_table(table))
    assert f"| easy vqa | {level.deviation:.1f} | {level.sampled:.1f} (200 questions) | " in text
    assert "`max_questions`" in text
    base, other = csv.DictReader(write_table(table, tmp_path)[0].open())
    for row in (base, other):
        assert float(row["easy_vqa_sampled"]) == pytest.approx(100 * np.sqrt(0.24 / 200), rel=0.1)
