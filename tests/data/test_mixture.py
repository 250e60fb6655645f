from __future__ import annotations

import pickle
from collections import Counter

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data import mixture
from owl2_jax.data.mixture import Address, Mixture, round_shares, split


def addresses(mixed: Mixture, count: int, first: int = 0) -> list[Address]:
    return [mixed[position] for position in range(first, first + count)]


def test_each_round_of_epochs_reads_every_record_that_often(monkeypatch):
    monkeypatch.setattr(mixture, "BLOCK", 16)  # several blocks, the last one short
    lengths = [30, 7]
    mixed = Mixture(lengths, round_shares(["a", "b"], lengths, [1, 1], [1.0, 3.0]), seed=3)
    for number in range(2):
        counts = Counter((a.dataset, a.record) for a in addresses(mixed, 51, number * 51))
        assert counts == {**{(0, r): 1 for r in range(30)}, **{(1, r): 3 for r in range(7)}}


def test_half_an_epoch_goes_on_with_the_other_half():
    mixed = Mixture([10], round_shares(["a"], [10], [1], [0.5]), seed=0)
    first, second = ({a.record for a in addresses(mixed, 5, start)} for start in (0, 5))
    assert first | second == set(range(10))


def test_weights_give_their_shares_within_sampling_error():
    weights, lengths, count = [6.0, 3.0, 1.0], [100, 100, 5], 20_000
    mixed = Mixture(lengths, round_shares("abc", lengths, weights, [None] * 3), seed=1)
    counts = Counter(a.dataset for a in addresses(mixed, count))
    for dataset, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs(counts[dataset] - count * share) < 4 * (count * share * (1 - share)) ** 0.5


def test_shares_hold_exactly_after_a_round():
    assert sum(split(1234, [7, 5, 988])) == 1234
    lengths, weights = [100, 100], [2.0, 1.0]
    shares = round_shares("ab", lengths, weights, [None, None])
    assert shares == [666_667, 333_333]
    assert split(sum(shares), shares) == shares


def test_a_set_is_read_through_before_it_starts_again():
    mixed = Mixture([10, 4], [500, 500], seed=5)
    seen = [a for a in addresses(mixed, 100) if a.dataset == 1]
    for start in range(0, len(seen) - 4, 4):
        assert {a.record for a in seen[start : start + 4]} == set(range(4))
        assert {a.epoch for a in seen[start : start + 4]} == {start // 4}


def test_epochs_and_seeds_have_their_own_orders():
    orders = set()
    for seed in (0, 1):
        mixed = Mixture([50], [50], seed)
        orders |= {tuple(a.record for a in addresses(mixed, 50, 50 * epoch)) for epoch in range(3)}
    assert len(orders) == 6


def test_shards_get_all_sets_even_where_weights_would_alternate():
    mixed = Mixture([100, 100], [500, 500], seed=0)
    for shard in range(2):
        counts = Counter(mixed[place * 2 + shard].dataset for place in range(400))
        assert min(counts.values()) > 150


def test_order_never_changes():
    """A run that is resumed with a newer version must read what it would have read."""
    mixed = Mixture([10, 70_000], [500_000, 500_000], seed=0)
    found = [(a.dataset, a.record, a.epoch) for a in addresses(mixed, 8, 40)]
    assert found == [
        (0, 8, 2),
        (0, 7, 2),
        (1, 18919, 0),
        (1, 34866, 0),
        (0, 0, 2),
        (0, 6, 2),
        (0, 4, 2),
        (1, 48258, 0),
    ]


def test_travels_to_worker_processes_without_its_tables():
    mixed = Mixture([10**6], [10**6], seed=0)
    expected = mixed[123_456]
    data = pickle.dumps(mixed)
    assert len(data) < 2_000
    assert pickle.loads(data)[123_456] == expected


def test_hundreds_of_millions_of_records_need_no_table_of_them():
    lengths = [400_000_000, 1_000]
    mixed = Mixture(lengths, round_shares("ab", lengths, [1, 1], [1.0, 1.0]), seed=0)
    assert {mixed[position].dataset for position in (0, 10**8, 10**9)} == {0}
    assert mixed[10**9].epoch == 2


@pytest.mark.parametrize(
    ("lengths", "weights", "epochs", "message"),
    [
        ([5, 0], [1, 1], [None, None], "b has no records"),
        ([5, 5], [1, 1], [1.0, None], "b has no epochs"),
        ([5, 5], [1, 1e-9], [None, None], "b: its weight or epochs come to less than one record"),
    ],
)
def test_sets_that_cannot_be_mixed_are_named(lengths, weights, epochs, message):
    with pytest.raises(Owl2Error, match=message):
        round_shares("ab", lengths, weights, epochs)
