from __future__ import annotations

import re

from owl2_jax.data_tools.check.charts import histogram


def counts(svg: str) -> dict[str, int]:
    return {span: int(count) for span, count in re.findall(r"<title>(.*?): (\d+)</title>", svg)}


def test_few_whole_numbers_have_a_bar_each():
    assert counts(histogram([0, 0, 1, 3], "images")) == {"0": 2, "1": 1, "2": 0, "3": 1}


def test_many_whole_numbers_share_bars_and_none_is_lost():
    found = counts(histogram(list(range(1000)), "lengths", limit=2048))
    assert len(found) <= 32
    assert sum(found.values()) == 1000
    assert next(iter(found)) == "0 to 64"


def test_shares_have_even_bars():
    for shares in ([0.5, 0.75, 1.0], [0.5, 0.5]):
        found = re.findall(r": (\d+)</title>", histogram(shares, "filled"))
        assert sum(map(int, found)) == len(shares)


def test_one_value_and_none_at_all():
    assert counts(histogram([7], "x")) == {"7": 1}
    assert "none" in histogram([], "x")
