"""The whole pipeline on Beam's DirectRunner."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from owl2_jax.cli import main as dispatcher
from owl2_jax.core.append_file import read_whole_lines
from owl2_jax.core.buckets import upload_folder
from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.sources import bucket_files
from owl2_jax.data.sources.arrayrecord import ArrayRecordSource
from owl2_jax.data_tools.prepare.run import prepare
from owl2_jax.data_tools.prepare.settings import PrepareConfig, PrepareSet, TextRules
from tests.data.corpora import dialogue, write_set
from tests.data_tools.prepare.images import file, scene

FLAGS = ["--runner=DirectRunner"]


@pytest.fixture
def source(tmp_path) -> Path:
    """25 captions: record 3 lacks its image, 5 is 4 again, 7 shows 6 again, 9 is empty."""
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(25):
        (folder / f"{number}.jpg").write_bytes(file(scene(number)))
    (folder / "6b.jpg").write_bytes(file(scene(6).resize((120, 90)), quality=60))
    records = [dialogue(f"r{i}", f"Caption number {i}.", [f"{i}.jpg"]) for i in range(25)]
    records[3]["image"] = ["nowhere.jpg"]
    records[5] = records[4]
    records[7] = dialogue("r7", "caption NUMBER 6", ["6b.jpg"])
    records[8] = dialogue("r8", "Another caption.", ["6b.jpg"])
    records[9] = dialogue("r9", "", ["9.jpg"])
    return write_set(folder, "captions", records)


def config(source, duplicates="near", **changes):
    sets = {"captions": PrepareSet("llava", {"path": str(source)}, duplicates=duplicates)}
    return PrepareConfig(datasets=sets, **{"records_per_shard": 4, "max_rejected_share": 0.1, **changes})


def ids(output):
    read = ArrayRecordSource(str(output / "captions" / "*.array_record"))
    return [read[i]["id"] for i in range(len(read))]


def checksums(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("duplicates", "gone"),
    [("keep", {3, 9}), ("exact", {3, 5, 9}), ("near", {3, 5, 7, 9}), ("image", {3, 5, 7, 8, 9})],
)
def test_output_holds_what_is_usable_once(source, tmp_path, duplicates, gone):
    manifest = prepare(config(source, duplicates), str(tmp_path / "out"), FLAGS)
    expected = [f"r{i}" if i != 5 else "r4" for i in range(25) if i not in gone]
    assert ids(tmp_path / "out") == expected
    about = manifest["sets"]["captions"]
    assert (about["read"], about["records"]) == (25, len(expected))
    assert sum(about["rejected"].values()) == len(gone)
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [line["record"] for line in lines] == sorted(gone)
    assert all(line["reason"] in about["rejected"] and line["detail"] for line in lines)


def test_manifest_tells_every_file_with_its_size_and_checksum(source, tmp_path):
    out = tmp_path / "out"
    manifest = prepare(config(source), str(out), FLAGS)
    found = checksums(out)
    shards = manifest["sets"]["captions"]["shards"]
    assert {shard["file"]: shard["sha256"] for shard in shards} == {
        name: digest for name, digest in found.items() if name.endswith(".array_record")
    }
    assert len(shards) == 7
    assert manifest["sets"]["captions"]["rejected"] == {
        "duplicate": 1, "missing": 1, "near_duplicate": 1, "text_length": 1,
    }  # fmt: skip
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_running_again_changes_nothing(source, tmp_path):
    out = tmp_path / "out"
    first = prepare(config(source), str(out), FLAGS)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert prepare(config(source), str(out), FLAGS) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_two_runs_give_the_same_bytes(source, tmp_path):
    for name in ("one", "two"):
        prepare(config(source), str(tmp_path / name), FLAGS)
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")


CONFIG = """
def get_config():
    return {{
        "datasets": {{
            "captions": {{"kind": "llava", "options": {{"path": {path!r}}}, "duplicates": "near"}},
        }},
        "records_per_shard": 4,
        "max_rejected_share": 0.1,
    }}
"""


def test_a_killed_run_leaves_nothing_that_looks_finished_and_is_gone_on_with(source, tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "config.py"
    file.write_text(CONFIG.format(path=str(source)))
    command = ["data", "prepare", str(file), "--output", str(out)]
    killed = subprocess.Popen([sys.executable, "-m", "owl2_jax.cli.main", *command], start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".out.partial-*/cleaned/captions/*.json")):
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.005)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not out.exists()

    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".out.partial-*/cleaned/captions/*.json")}
    assert dispatcher.main(command) == 0
    assert "captions: 21 of 25 records in 7 shards" in capsys.readouterr().out
    prepare(config(source), str(tmp_path / "straight"), FLAGS)
    assert checksums(out) == checksums(tmp_path / "straight")
    assert made
    assert not list(tmp_path.glob(".out.partial-*"))


@pytest.mark.parametrize("limit", [0, 2000, 30_000])
def test_a_full_disk_is_one_line_and_the_run_is_gone_on_with(source, tmp_path, capsys, limit):
    """A limit on file sizes stands in for the disk."""
    (tmp_path / "prepare.py").write_text(
        "def get_config():\n"
        f"    options = {{'path': {str(source)!r}}}\n"
        "    return {'datasets': {'captions': {'kind': 'llava', 'options': options}},\n"
        "            'max_rejected_share': 0.1, 'records_per_shard': 8}\n"
    )
    output = tmp_path / "out"
    command = ["data", "prepare", f"{tmp_path}/prepare.py", f"--output={output}"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        assert dispatcher.main(command) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"error: no space left while writing /.*; make room and run it again", said)
    assert not output.exists()
    assert not list(tmp_path.rglob("*.tmp*"))
    assert dispatcher.main(command) == 0
    assert ids(output)


def test_shards_that_are_done_are_not_made_again(source, tmp_path, monkeypatch):
    from owl2_jax.data_tools.prepare import shards

    cleaned = []
    original = shards.clean

    def counted(example, *rest):
        cleaned.append(example["id"])
        if len(cleaned) == 11:
            raise OSError("disk full")
        return original(example, *rest)

    monkeypatch.setattr(shards, "clean", counted)
    with pytest.raises(Exception, match="disk full"):
        prepare(config(source), str(tmp_path / "out"), FLAGS)
    assert not (tmp_path / "out").exists()
    prepare(config(source), str(tmp_path / "out"), FLAGS)
    assert len(cleaned) < 24 + 11
    assert len(ids(tmp_path / "out")) == 21


def test_an_output_of_another_config_is_refused(source, tmp_path):
    out = str(tmp_path / "out")
    prepare(config(source), out, FLAGS)
    with pytest.raises(Owl2Error, match="another config"):
        prepare(config(source, "exact"), out, FLAGS)
    (tmp_path / "out" / "captions" / "part-00002-of-00007.array_record").write_bytes(b"cut")
    with pytest.raises(Owl2Error, match=r"part-00002-of-00007\.array_record has 3 of"):
        prepare(config(source), out, FLAGS)
    (tmp_path / "foreign").mkdir()
    with pytest.raises(Owl2Error, match="has no manifest"):
        prepare(config(source), str(tmp_path / "foreign"), FLAGS)


def test_too_many_faults_publish_nothing(source, tmp_path):
    with pytest.raises(Owl2Error, match=r"1 of 25 records have faults.*captions/missing 1.*rejected\.jsonl"):
        prepare(config(source, max_rejected_share=0.01), str(tmp_path / "out"), FLAGS)
    assert not (tmp_path / "out").exists()


def test_filters_are_no_faults(source, tmp_path):
    changed = config(source, text=TextRules(min_characters=18), max_rejected_share=0.05)
    manifest = prepare(changed, str(tmp_path / "out"), FLAGS)
    assert manifest["sets"]["captions"]["rejected"]["text_length"] > 5


def test_several_processes_give_the_same_bytes(source, tmp_path):
    several = [*FLAGS, "--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    prepare(config(source), str(tmp_path / "several"), several)
    prepare(config(source), str(tmp_path / "one"), FLAGS)
    assert checksums(tmp_path / "several") == checksums(tmp_path / "one")


def test_sets_are_prepared_from_a_bucket_into_a_bucket(tmp_path, bucket, bucket_server, monkeypatch):
    monkeypatch.setenv(bucket_files.FOLDER, str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    for number in range(2):
        (tmp_path / "set" / f"{number}.jpg").write_bytes(file(scene(number)))
    records = [dialogue(f"r{i}", f"Caption number {i}.", [f"{i}.jpg"]) for i in (0, 1, 7)]
    write_set(tmp_path / "set", "captions", records)
    upload_folder(tmp_path / "set", bucket / "source")
    remote = config(bucket / "source" / "captions.json", duplicates="keep", max_rejected_share=0.5)
    manifest = prepare(remote, str(bucket / "set"), FLAGS)
    found = ArrayRecordSource(str(bucket / "set" / "captions" / "*.array_record"))
    assert [example["id"] for example in (found[i] for i in range(len(found)))] == ["r0", "r1"]
    assert manifest["sets"]["captions"]["rejected"] == {"missing": 1}
    (rejected,) = read_whole_lines(bucket / "set" / "rejected.jsonl")
    assert rejected["id"] == "r7"
    assert sorted(path.name for path in bucket.iterdir()) == ["set", "source"]
    bucket_server.requests.clear()
    assert prepare(remote, str(bucket / "set"), FLAGS) == manifest, "it is whole"
    assert not [path for method, path in bucket_server.requests if method != "GET"]
    (bucket / "set" / "manifest.json").unlink()
    with pytest.raises(Owl2Error, match=r"has no manifest.json; choose another output or remove it"):
        prepare(remote, str(bucket / "set"), FLAGS)
    bucket_files.let_go()
