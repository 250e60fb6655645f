from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.sweeps.collect import collect
from owl2_jax.sweeps.table_files import write_table
from owl2_jax.sweeps.table_reading import read_differences
from tests.sweeps.conftest import pretend_scores


def test_differences_come_back_as_they_were_written(make_sweep, folder, tmp_path):
    sweep = make_sweep(seeds=[0, 1, 2])
    scores = {"queries-4": [8.0, 9.0, 7.0], "queries-2": [1.0, 2.2, 0.1], "queries-8": [9.0]}
    pretend_scores(sweep, folder, scores)
    table = collect(sweep, folder)
    found = read_differences(write_table(table, tmp_path)[0], "easy_vqa")
    written = table.differences("easy_vqa")
    assert list(found) == ["queries-2", "queries-8"]
    for point, one in found.items():
        assert one.text() == written[point].text()
        assert (one.low, one.high, one.is_seen) == (
            written[point].low, written[point].high, written[point].is_seen
        )  # fmt: skip


def test_a_table_of_means_is_compared_as_of_no_pairs_with_its_first_point(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("point,seeds,a,a_deviation\nbase,3,80,1\nx,3,90,1\ny,1,81,\n")
    found = read_differences(path, "a")
    assert found["x"].is_seen
    assert found["x"].text() == "+10.0 (7.7 to 12.3)"
    assert found["y"].text() == "+1.0 (one seed)"
    with pytest.raises(Owl2Error, match=r"unknown measure in .* 'b'"):
        read_differences(path, "b")
