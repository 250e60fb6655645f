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
from owl2_jax.sweeps.sampling import sampling_of
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


def _files(sweep, folder, point="queries-4"):
    return [folder.run(Run(sweep.find_point(point), seed)) for seed in sweep.config.seeds]


def test_variance_by_questions_is_that_of_independent_answers(asked, folder):
    right = np.random.default_rng(0).random((40, 300)) < 0.3
    found = sampling_of(_files(asked({"queries-4": right}), folder), "easy_vqa", 100 * right.mean(1))
    assert found.questions == 300
    assert found.variance == pytest.approx(0.3 * 0.7 / 300 * 1e4, rel=0.05)
    assert found.variance == pytest.approx(np.var(100 * right.mean(1), ddof=1), rel=0.4)


def test_seeds_that_are_better_as_a_whole_spread_beyond_their_questions(asked, folder):
    chance = np.linspace(0.2, 0.6, 5)[:, None]
    right = np.random.default_rng(0).random((5, 2000)) < chance
    found = sampling_of(_files(asked({"queries-4": right}), folder), "easy_vqa", 100 * right.mean(1))
    assert found.variance < 0.02 * np.var(100 * right.mean(1), ddof=1)


def test_one_seed_other_questions_and_other_scores_tell_nothing(asked, folder):
    right = np.array([[1, 0, 1, 1], [0, 0, 1, 0]])
    files = _files(asked({"queries-4": right}), folder)
    assert sampling_of(files, "easy_vqa", [75.0, 25.0]).variance == pytest.approx(625)
    assert sampling_of(files[:1], "easy_vqa", [75.0]) is None
    assert sampling_of(files, "easy_vqa", [75.0, 30.0]) is None, "the score is no mean over the questions"
    assert sampling_of(files, "facts", [75.0, 25.0]) is None, "no results"
    path = files[1].scores / "easy_vqa" / "results.jsonl"
    kept = path.read_text()
    path.write_text(kept.replace("q3", "q4"))
    assert sampling_of(files, "easy_vqa", [75.0, 25.0]) is None, "not the same questions"
    path.write_text(kept.replace('"score": 1.0', '"score": null'))
    assert sampling_of(files, "easy_vqa", [75.0, 25.0]) is None, "a judge has yet to score"
    path.write_text(kept.replace('"id"', '"name"'))
    with pytest.raises(
        Owl2Error, match=r"results.jsonl holds no results \(KeyError: 'id'\); delete .*scores"
    ):
        sampling_of(files, "easy_vqa", [75.0, 25.0])


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
    assert math.hypot(*(float(row["easy_vqa_sampled"]) for row in (base, other))) == pytest.approx(
        level.sampled
    )
