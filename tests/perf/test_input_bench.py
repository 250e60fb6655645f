from __future__ import annotations

import json

import pytest
from PIL import Image

from owl2_jax.core.errors import Owl2Error
from owl2_jax.perf import input_bench
from owl2_jax.perf.input_bench import bench_data
from tests.data import corpora


def test_a_report_has_rates_per_core_and_per_number_of_workers(tmp_path):
    config = corpora.config(corpora.mixed_sets(tmp_path), prefetch=1, shards=2, window=4)
    report = json.loads(json.dumps(bench_data(config, 28, 5, count=24, batches=3, workers=(0, 1))))
    assert report["images_per_core_second"] > 0
    assert report["share_of_bare"] == pytest.approx(
        report["images_per_core_second"] / report["bare_images_per_core_second"]
    )
    assert [row["workers"] for row in report["pipeline"]] == [0, 1]
    assert all(row["samples_per_second"] >= row["batches_per_second"] > 0 for row in report["pipeline"])
    assert 0.5 < report["pipeline"][0]["packing_efficiency"] <= 1


def test_images_that_cannot_be_used_are_left_out(tmp_path):
    names = corpora.write_images(tmp_path, 5)
    (tmp_path / names[0]).write_bytes(b"no image")
    (tmp_path / names[1]).write_bytes((tmp_path / names[1]).read_bytes()[:60])
    Image.new("F", (30, 30)).save(tmp_path / names[2], "TIFF")
    records = [corpora.dialogue(str(i), "yes", [names[i % 5]]) for i in range(40)]
    config = corpora.config({"a": corpora.llava(corpora.write_set(tmp_path, "a", records))}, prefetch=1)
    report = bench_data(config, 28, 5, count=8, batches=1)
    assert report["bare_images_per_core_second"] > 0


def test_text_alone_has_no_image_rates():
    sets = {"facts": corpora.DatasetConfig("embedded", {"dataset": "facts"})}
    config = corpora.config(sets, images_per_row=0, images=0, prefetch=1)
    report = bench_data(config, 28, 5, batches=2)
    assert "share_of_bare" not in report
    assert report["pipeline"][0]["images_per_second"] == 0


def test_workers_that_cannot_share_the_shards_are_refused_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(input_bench, "_core", lambda *_: pytest.fail("timed already"))
    config = corpora.config(corpora.mixed_sets(tmp_path), shards=2)
    with pytest.raises(Owl2Error, match="workers 3 do not divide"):
        bench_data(config, 28, 5, workers=(1, 3))
