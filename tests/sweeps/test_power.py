from __future__ import annotations

import math

import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.sweeps.collect import collect
from owl2_jax.sweeps.differences import corrected, paired
from owl2_jax.sweeps.folder import SweepFolder
from owl2_jax.sweeps.power import NoiseLevel, forecast, noise_before, noise_of, read_noise
from owl2_jax.sweeps.table_files import write_table
from tests.sweeps.conftest import pretend_scores

SCORES = {"queries-4": [80.0, 84.0, 82.0], "queries-2": [74.0, 77.0, 77.0], "queries-8": [80.5, 83.0]}


@pytest.fixture
def sweep(make_sweep, folder):
    sweep = make_sweep(seeds=[0, 1, 2])
    pretend_scores(sweep, folder, SCORES)
    return sweep


def test_noise_is_pooled_over_the_points_by_their_seeds(sweep, folder):
    # Differences -6, -7, -5 and 0.5, -1: variances 1 (two degrees of freedom) and 1.125 (one).
    noise = noise_of(collect(sweep, folder))
    assert noise["easy_vqa"].df == 3
    assert noise["easy_vqa"].deviation == pytest.approx(math.sqrt((2 * 1 + 1.125) / 3))
    assert set(noise) == {"easy_vqa"}, "what never varies tells nothing"


def test_smallest_difference_is_seen_eight_times_in_ten():
    level = NoiseLevel(2.0, 10)
    size = level.smallest_difference(5, 3)
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(1000):
        points = rng.normal([[size], [0.0], [0.0]], 2.0, (3, 5))
        found = corrected([paired(dict.fromkeys(range(5), 0.0), dict(enumerate(one))) for one in points])
        called += found[0].is_seen
    assert called / 1000 == pytest.approx(0.8, abs=0.04)
    assert level.smallest_difference(1, 3) is None
    assert level.smallest_difference(10, 3) < size < level.smallest_difference(5, 9)


def test_forecast_tells_the_planned_seeds_and_others():
    lines = forecast({"easy_vqa": NoiseLevel(1.0, 4)}, 5, 1)
    assert lines == ["easy_vqa: 1.7 or more; 3.3 with 3, 1.2 with 8, 1 with 10"]
    assert forecast({"easy_vqa": NoiseLevel(1.0, 4)}, 1, 1)[0].startswith("easy_vqa: one seed sees no diff")


def test_before_a_run_noise_comes_from_finished_seeds_or_an_earlier_table(sweep, folder, tmp_path):
    source, noise = noise_before(sweep, folder, None)
    assert (source, set(noise)) == ("finished seeds", {"easy_vqa"})
    table = write_table(collect(sweep, folder), tmp_path)[0]
    new = SweepFolder(tmp_path / "new")
    source, earlier = noise_before(sweep, new, table)
    assert source == str(table)
    assert earlier["easy_vqa"].deviation == pytest.approx(noise["easy_vqa"].deviation)
    source, noise = noise_before(sweep, new, None)
    assert source.startswith("no run is finished; give --spread-from=TABLE.csv")
    assert noise == {}


def test_a_table_that_cannot_be_collected_yet_stops_no_run(sweep, folder):
    (folder.run(sweep.runs[0]).training / "metrics.jsonl").write_text("")
    source, noise = noise_before(sweep, folder, None)
    assert "metrics.jsonl holds no readings" in source
    assert noise == {}


def test_a_table_without_differences_counts_seeds_as_no_pairs(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("point,seeds,easy_vqa,easy_vqa_deviation\na,3,80,1\nb,3,81,3\nc,1,82,\n")
    level = read_noise(path, ["easy_vqa", "loss"])["easy_vqa"]
    assert (level.df, level.deviation) == (4, pytest.approx(math.sqrt(2 * 5)))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is no table.csv of a sweep"), ("a,b\n1,2\n", "no columns point and seeds"),
     ("point,seeds,easy_vqas,easy_vqas_deviation\na,3,1,1\n",
      "unknown measure in .*'easy_vqa'; did you mean 'easy_vqas'"),
     ("point,seeds,easy_vqa,easy_vqa_deviation\na,3,1,much\n",
      "column easy_vqa_deviation of point a is 'much'"),
     ("point,seeds,easy_vqa,easy_vqa_deviation\na,3,1\n", "fewer cells than columns")],
)  # fmt: skip
def test_tables_that_tell_no_noise_are_named(tmp_path, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(Owl2Error, match=message):
        read_noise(path, ["easy_vqa"])
    with pytest.raises(Owl2Error, match="cannot be read"):
        read_noise(tmp_path / "none.csv", ["easy_vqa"])
