from __future__ import annotations

import json
import struct
import sys
import types

import pytest

from owl2_jax.core import buckets
from owl2_jax.core.errors import Owl2Error
from owl2_jax.training.config import WandbConfig
from owl2_jax.training.logging.events import EventWriter, _masked_crc
from owl2_jax.training.logging.metrics import MetricWriter, check_wandb, read_metrics


def records(path):
    """Payloads of a TFRecord file, checksums verified."""
    content, place = path.read_bytes(), 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        data = content[place + 12 : place + 12 + length]
        assert content[place + 8 : place + 12] == _masked_crc(content[place : place + 8])
        assert content[place + 12 + length : place + 16 + length] == _masked_crc(data)
        yield data
        place += length + 16


def test_checksum_is_the_published_one():
    # RFC 3720, section B.4: CRC-32C of 32 zero bytes is 8a9136aa.
    crc = 0x8A9136AA
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert _masked_crc(bytes(32)) == struct.pack("<I", masked)


def test_event_files_are_read_by_another_implementation(tmp_path):
    from tensorboardX.proto import event_pb2

    writer = EventWriter(tmp_path, 301)
    writer.write(301, {"loss": 0.5, "accuracy/facts": 0.25})
    writer.close()
    events = [event_pb2.Event.FromString(data) for data in records(next(tmp_path.iterdir()))]
    assert events[0].file_version == "brain.Event:2"
    assert (events[1].step, events[1].session_log.status) == (301, 1)
    assert events[2].step == 301
    assert {v.tag: v.simple_value for v in events[2].summary.value} == {"loss": 0.5, "accuracy/facts": 0.25}


def test_numbers_that_are_not_finite_are_null(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write(1, {"loss": float("nan"), "accuracy": 0.5})
    writer.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "accuracy": 0.5}


def test_a_resumed_run_goes_on_behind_its_step(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    MetricWriter(tmp_path, 2).close()
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]


def test_weights_and_biases_gets_every_reading_under_one_identity(tmp_path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("finish")
    )
    fake = types.ModuleType("wandb")
    fake.util = types.SimpleNamespace(generate_id=lambda: "abc")
    fake.init = lambda **settings: calls.append(settings) or run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (1, 2):
        writer = MetricWriter(tmp_path, step - 1, WandbConfig("owl", mode="offline"))
        writer.write(step, {"loss": 1.0, "accuracy": float("nan")})
        writer.close()
    assert [call["id"] for call in calls if isinstance(call, dict)] == ["abc", "abc"]
    assert [call for call in calls if isinstance(call, tuple)] == [(1, {"loss": 1.0}), (2, {"loss": 1.0})]


def test_weights_and_biases_is_asked_for_by_name_when_it_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Owl2Error, match="pip install wandb"):
        check_wandb(WandbConfig("owl"))
    check_wandb(None)


def test_blank_lines_do_not_end_the_readings(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'\xef\xbb\xbf{"step": 1}\r\n\r\n \n{"step": 2}\n')
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]


def test_in_a_bucket_readings_and_events_are_there_at_intervals_and_before_a_save(bucket, monkeypatch):
    from tensorboardX.proto import event_pb2

    def steps():
        files = list((bucket / "tensorboard").iterdir()) if (bucket / "tensorboard").exists() else []
        events = [event_pb2.Event.FromString(data) for file in files for data in records(file)]
        return [line["step"] for line in read_metrics(bucket)], [e.step for e in events if e.summary.value]

    writer = MetricWriter(bucket, 0)
    writer.write(1, {"loss": 1.0})
    assert steps() == ([], [])
    writer.flush()
    assert steps() == ([1], [1])
    monkeypatch.setattr(buckets, "_SECONDS", 0.0)
    monkeypatch.setattr(buckets, "_SHARE", 0)
    writer.write(2, {"loss": 1.0})
    writer.flush()
    writer.write(3, {"loss": 1.0})
    assert steps() == ([1, 2, 3], [1, 2, 3]), "the interval is over"
    writer.close()
