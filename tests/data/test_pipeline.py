from __future__ import annotations

import collections
import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from owl2_jax.core import kept
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.batch import Batch, concatenate
from owl2_jax.data.pipeline import Pipeline, load_tokenizer, merge_states, open_mixture
from owl2_jax.data.record_counts import RejectedShareError
from tests.data import corpora
from tests.data.corpora import IMAGE_SIZE, TOKENS_PER_IMAGE, dialogue, llava

STEPS = 6


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return corpora.mixed_sets(tmp_path_factory.mktemp("sets"))


def open_pipeline(config, shard=(0, 1), state=None, quarantine=None) -> Pipeline:
    pipeline = Pipeline(config, IMAGE_SIZE, TOKENS_PER_IMAGE, shard, quarantine)
    if state is not None:
        pipeline.set_state(state)
    return pipeline


def run(config, hosts=1, steps=STEPS, state=None, quarantine=None) -> tuple[list[Batch], dict]:
    """Global batches of `hosts` hosts, and their merged state as it comes from a file."""
    pipelines = [open_pipeline(config, (host, hosts), state, quarantine) for host in range(hosts)]
    batches = [concatenate([next(pipeline) for pipeline in pipelines]) for _ in range(steps)]
    merged = merge_states([pipeline.get_state() for pipeline in pipelines])
    for pipeline in pipelines:
        pipeline.close()
    return batches, json.loads(json.dumps(merged))


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    for one, other in zip(found, expected, strict=True):
        for name, value in vars(one).items():
            np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


@pytest.fixture
def keeping():
    kept.keep()
    yield
    kept.forget()


# ---- the order -------------------------------------------------------------------


def test_batches_have_the_static_shape_and_both_sets(datasets):
    batches, _ = run(corpora.config(datasets))
    for batch in batches:
        assert batch.tokens.shape == (8, 96)
        assert batch.images.shape == (16, IMAGE_SIZE, IMAGE_SIZE, 3)
        assert batch.image_index.shape == (8, 3)
        assert batch.samples_by_set(2).min() > 0


def test_the_seed_alone_decides_the_order(datasets):
    one, _ = run(corpora.config(datasets))
    again, _ = run(corpora.config(datasets))
    other, _ = run(corpora.config(datasets, seed=1))
    assert_equal(one, again)
    assert not np.array_equal(one[0].tokens, other[0].tokens)


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_any_number_of_hosts_makes_the_same_global_batches(datasets, hosts):
    config = corpora.config(datasets, shards=8, window=4)
    assert_equal(run(config, hosts)[0], run(config, 1)[0])


def test_a_row_s_images_lie_in_the_part_of_its_shard(datasets):
    for batch in run(corpora.config(datasets, shards=4))[0]:
        for row, index in enumerate(batch.image_index):
            assert set(index[index >= 0] // 4) <= {row // 2}


def test_one_sample_a_row_without_packing(datasets):
    for batch in run(corpora.config(datasets, pack=False))[0]:
        np.testing.assert_array_equal(batch.segment_ids.max(axis=1), 1)


# ---- resuming --------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 8), (2, 4), (4, 2), (8, 1)])
def test_a_run_goes_on_exactly_on_another_number_of_hosts(datasets, before, after):
    config = corpora.config(datasets, shards=8, window=4)
    whole, end = run(config, 1, 2 * STEPS)
    _, state = run(config, before)
    rest, resumed_end = run(config, after, state=state)
    assert_equal(rest, whole[STEPS:])
    assert resumed_end == end


@pytest.mark.parametrize("stop", range(0, 5))
def test_a_run_can_go_on_after_any_step(datasets, stop):
    config = corpora.config(datasets)
    whole, _ = run(config)
    _, state = run(config, steps=stop)
    assert_equal(run(config, steps=STEPS - stop, state=state)[0], whole[stop:])


def test_a_pipeline_that_runs_can_be_set_back(datasets):
    config = corpora.config(datasets)
    pipeline = open_pipeline(config)
    next(pipeline)
    state = pipeline.get_state()
    expected = [next(pipeline) for _ in range(3)]
    pipeline.set_state(state)
    assert_equal([next(pipeline) for _ in range(3)], expected)
    pipeline.close()


def test_states_of_other_shards_or_other_data_are_refused(datasets, tmp_path):
    _, state = run(corpora.config(datasets, shards=4), steps=1)
    for shards in (2, 8):
        with pytest.raises(Owl2Error, match=r"data\.shards must be what it was"):
            open_pipeline(corpora.config(datasets, shards=shards), state=state)
    longer = corpora.mixed_sets(tmp_path, records=61)
    with pytest.raises(Owl2Error, match=r"imaged had 60 records .* and has 61 now"):
        open_pipeline(corpora.config(longer, shards=4), state=state)


def test_a_state_of_an_older_version_is_read(datasets):
    config = corpora.config(datasets, shards=4)
    _, state = run(config, steps=3)
    old = {"records": state["records"], "lanes": state["shards"]}
    again, same = run(config, steps=3, state=old), run(config, steps=3, state=state)
    assert again[1] == same[1]
    for one, other in zip(again[0], same[0], strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
    assert merge_states([old]) == state


def test_a_single_host_s_state_is_not_enough_for_more_shards(datasets):
    config = corpora.config(datasets, shards=4)
    pipeline = open_pipeline(config, (1, 2))
    with pytest.raises(Owl2Error, match="this host needs 0, 1, 2, 3 of 4"):
        open_pipeline(config, state=pipeline.get_state())


# ---- worker processes --------------------------------------------------------------


def test_worker_processes_make_the_same_batches_and_lose_none(datasets):
    """Also from a state that threads have left, and on to one that threads go on from."""
    threads = corpora.config(datasets, shards=4)
    whole, end = run(threads, steps=40)
    _, state = run(threads, steps=2)
    found, state = run(corpora.config(datasets, shards=4, workers=2), steps=36, state=state)
    assert_equal(found, whole[2:38])
    rest, resumed_end = run(threads, steps=2, state=state)
    assert_equal(rest, whole[38:])
    assert resumed_end == end


def test_an_error_in_a_worker_reaches_the_run(tmp_path):
    records = [dialogue(f"{i}", "yes", ["nowhere.png"]) for i in range(5)]
    datasets = {"broken": llava(corpora.write_set(tmp_path, "broken", records))}
    pipeline = open_pipeline(corpora.config(datasets, workers=1))
    with pytest.raises(RejectedShareError, match="broken/missing"):
        next(pipeline)
    pipeline.close()


def test_workers_and_hosts_must_divide_the_shards(datasets):
    with pytest.raises(Owl2Error, match=r"data\.workers 2 do not divide a host's 3 shards"):
        open_pipeline(corpora.config(datasets, rows=9, images=18, shards=3, workers=2))
    with pytest.raises(Owl2Error, match="shards 4 do not divide among 3 hosts"):
        open_pipeline(corpora.config(datasets, shards=4), (0, 3))


def test_too_little_shared_memory_is_said_before_it_runs_out(datasets, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(Owl2Error, match="MB of shared memory"):
        open_pipeline(corpora.config(datasets, workers=1))


# ---- what cannot be used -----------------------------------------------------------


def broken_sets(folder):
    """60 records, of which every sixth lacks its image."""
    names = corpora.write_images(folder, 4)
    records = [
        dialogue(f"r{i}", f"answer {i}", ["nowhere.png" if i % 6 == 5 else names[i % 4]]) for i in range(60)
    ]
    return {"repaired": llava(corpora.write_set(folder, "repaired", records))}


def quarantined(folder) -> list[int]:
    lines = [line for file in folder.glob("rejected*.jsonl") for line in file.read_text().splitlines()]
    return sorted(json.loads(line)["record"] for line in lines)


@pytest.mark.parametrize("hosts", [1, 2])
def test_each_unusable_record_is_written_down_once_also_across_resumes(tmp_path, hosts):
    config = corpora.config(broken_sets(tmp_path), shards=2, max_rejected_share=1.0, rows=4, images=8)
    path = tmp_path / "rejected.jsonl"
    _, state = run(config, hosts, steps=2, quarantine=path)
    run(config, hosts, steps=2, state=state, quarantine=path)  # these steps are taken again below
    for host_count in (1, hosts):
        _, end = run(config, host_count, steps=8, state=state, quarantine=path)
        assert quarantined(tmp_path) == [i for i in range(60) if i % 6 == 5]
    counts = [shard["rejected"]["repaired/missing"] for shard in end["shards"].values()]
    reads = [shard["next"] for shard in end["shards"].values()]
    assert sum(reads) > 100
    assert abs(sum(counts) / sum(reads) - 1 / 6) < 0.04


def test_a_run_started_again_starts_its_file_again(tmp_path):
    config = corpora.config(broken_sets(tmp_path), max_rejected_share=1.0)
    for _ in range(2):
        run(config, steps=8, quarantine=tmp_path / "rejected.jsonl")
        assert quarantined(tmp_path) == [i for i in range(60) if i % 6 == 5]


def test_too_many_unusable_records_stop_the_run(tmp_path):
    config = corpora.config(broken_sets(tmp_path))
    pipeline = open_pipeline(config, quarantine=tmp_path / "rejected.jsonl")
    with pytest.raises(RejectedShareError, match=r"repaired/missing \d+.*rejected\.jsonl"):
        collections.deque(itertools.islice(pipeline, 200), maxlen=0)
    pipeline.close()


def test_embedded_is_the_tokenizer_of_the_corpus(datasets):
    assert load_tokenizer(corpora.config(datasets)).vocab_size == 4096


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 9, "shards": 2}, "rows 9 does not divide into 2 shards"),
        ({"images": 0}, "both are 0"),
        ({"window": 0}, "window must be at least 1"),
        ({"seed": -1}, "seed must be from 0 to 4294967295"),
        ({"datasets": {}}, "datasets is empty"),
        ({"image_tag": "<img>"}, r"unknown data\.image_tag '<img>'; did you mean '<image>'"),
    ],
)
def test_settings_that_cannot_work_are_refused(datasets, changes, message):
    with pytest.raises(Owl2Error, match=message):
        corpora.config(**{"datasets": datasets, **changes})


def test_a_set_has_a_weight_or_epochs():
    for settings, message in [
        ({"weight": 0.0}, "weight must be above 0"),
        ({"epochs": -1.0}, "epochs must be above 0"),
        ({"weight": 2.0, "epochs": 1.0}, "give it one of the two"),
    ]:
        with pytest.raises(Owl2Error, match=message):
            corpora.DatasetConfig("llava", **settings)


# ---- runs after one another in a process --------------------------------------------


def test_a_second_run_of_a_process_reads_no_record_again_and_gets_the_same_batches(datasets, keeping):
    config = corpora.config(datasets, cache_samples=True)
    alone, _ = run(corpora.config(datasets))
    run(dataclasses.replace(config, seed=1))
    again, _ = run(config)
    assert_equal(again, alone)
    first, second = (open_mixture(config, IMAGE_SIZE, TOKENS_PER_IMAGE).sets[0] for _ in range(2))
    assert first.get(0, 0)[0] is second.get(0, 0)[0]


@pytest.mark.parametrize(
    "other", [({"max_targets": 9}, IMAGE_SIZE), ({"template": "plain"}, IMAGE_SIZE), ({}, 2 * IMAGE_SIZE)]
)
def test_what_changes_a_sample_makes_another_one(datasets, keeping, other):
    changes, size = other
    config = corpora.config(datasets, cache_samples=True)
    first = open_mixture(config, IMAGE_SIZE, TOKENS_PER_IMAGE).sets[0].get(0, 0)[0]
    second = open_mixture(dataclasses.replace(config, **changes), size, TOKENS_PER_IMAGE).sets[0]
    assert second.get(0, 0)[0] is not first


def test_samples_of_files_that_changed_between_two_runs_are_read_again(tmp_path, keeping):
    config = dataclasses.replace(corpora.config(corpora.mixed_sets(tmp_path)), cache_samples=True)
    (file, *_), sizes = open_mixture(config, IMAGE_SIZE, TOKENS_PER_IMAGE).files["text"], (IMAGE_SIZE, 5)
    first = open_mixture(config, *sizes).sets[-1].get(0, 0)[0]
    path = Path(file)
    path.write_bytes(path.read_bytes() + b"\n")
    assert open_mixture(config, *sizes).sets[-1].get(0, 0)[0] is not first
