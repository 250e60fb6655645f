from __future__ import annotations

import json
from dataclasses import replace

from owl2_jax.core.buckets import AwayError, GrowingObject
from owl2_jax.data.quarantine import Quarantine
from tests.data.samples import rejected


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_names_set_record_reason_and_detail(tmp_path):
    path = tmp_path / "run" / "rejected.jsonl"
    Quarantine(path, num_shards=1).write(0, [(17, rejected(3))])
    assert lines(path) == [
        {
            "dataset": "a",
            "record": 3,
            "id": "3",
            "reason": "corrupt",
            "detail": "found x, expected y",
            "used": False,
            "epoch": 0,
            "shard": 0,
            "place": 17,
        }
    ]


def test_a_record_has_one_line_in_all_epochs(tmp_path):
    quarantine = Quarantine(tmp_path / "r.jsonl", num_shards=1)
    for epoch in range(3):
        met = [(100 * epoch + record, replace(rejected(record), epoch=epoch)) for record in (3, 4)]
        quarantine.write(0, met)
    assert [line["record"] for line in lines(tmp_path / "r.jsonl")] == [3, 4]


def test_going_back_takes_back_the_lines_that_will_come_again(tmp_path):
    path = tmp_path / "r.jsonl"
    Quarantine(path, num_shards=1).write(0, [(n, rejected(n)) for n in range(10)])
    again = Quarantine(path, num_shards=1)
    again.rewind(0, 6)
    again.write(0, [(n, rejected(n)) for n in range(6, 10)])
    assert [line["record"] for line in lines(path)] == list(range(10))


def test_a_line_cut_by_the_interruption_is_dropped(tmp_path):
    path = tmp_path / "r.jsonl"
    Quarantine(path, num_shards=1).write(0, [(n, rejected(n)) for n in range(3)])
    path.write_text(path.read_text()[:-20])
    again = Quarantine(path, num_shards=1)
    again.rewind(0, 99)
    assert [line["record"] for line in lines(path)] == [0, 1]


def test_each_of_several_shards_has_its_own_file(tmp_path):
    quarantine = Quarantine(tmp_path / "rejected.jsonl", num_shards=8)
    quarantine.write(3, [(0, rejected(1))])
    quarantine.write(5, [(0, rejected(2))])
    assert [line["record"] for line in lines(tmp_path / "rejected-00003.jsonl")] == [1]
    assert [line["record"] for line in lines(tmp_path / "rejected-00005.jsonl")] == [2]


def test_without_a_path_nothing_is_written(tmp_path):
    quarantine = Quarantine(None, num_shards=2)
    quarantine.rewind(1, 0)
    quarantine.write(1, [(0, rejected(1))])
    assert quarantine.file(1) is None


def test_no_file_appears_without_rejects(tmp_path):
    quarantine = Quarantine(tmp_path / "r.jsonl", num_shards=1)
    quarantine.rewind(0, 0)
    quarantine.write(0, [])
    assert not list(tmp_path.iterdir())


def test_rejects_of_shards_lie_in_a_bucket_and_are_taken_back_there(bucket):
    quarantine = Quarantine(bucket / "rejected.jsonl", num_shards=2)
    quarantine.write(1, [(5, rejected(3))])
    quarantine.write(1, [(9, rejected(4))])
    assert [line["place"] for line in lines(bucket / "rejected-00001.jsonl")] == [5, 9]
    quarantine.rewind(0, 0)
    quarantine.rewind(1, 6)
    assert [line["place"] for line in lines(bucket / "rejected-00001.jsonl")] == [5]


def test_lines_in_a_bucket_wait_for_a_store_that_is_away(bucket, monkeypatch, capsys):
    quarantine, error = Quarantine(bucket / "r.jsonl", num_shards=1), OSError("503")

    def put(self):
        if error is not None and self._waiting:
            raise AwayError("the store is away")
        real(self)

    real = GrowingObject._put
    monkeypatch.setattr(GrowingObject, "_put", put)
    quarantine.write(0, [(1, rejected(1))])
    quarantine.write(0, [(2, rejected(2))])
    assert capsys.readouterr().err.count("the store is away") == 1
    error = None
    quarantine.write(0, [(3, rejected(3))])
    assert [line["record"] for line in lines(bucket / "r.jsonl")] == [1, 2, 3]
    error = OSError("503")
    quarantine.write(0, [(4, rejected(4))])
    capsys.readouterr()
    quarantine.close()
    assert "its last 1 record is missing in it" in capsys.readouterr().err
    quarantine.close()
    error = None
    quarantine.rewind(0, 3)
    assert [line["record"] for line in lines(bucket / "r.jsonl")] == [1, 2]
