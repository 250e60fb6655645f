"""The runner, with an `owl2` that only pretends; `tests/cli/test_sweep.py` has the true one."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.core.processes import usable_cores
from owl2_jax.sweeps.collect import collect
from owl2_jax.sweeps.folder import SweepFolder
from owl2_jax.sweeps.processes import locked
from owl2_jax.sweeps.run import run_sweep
from owl2_jax.sweeps.table_files import write_table
from owl2_jax.sweeps.table_reading import read_rows


@pytest.fixture
def go(make_sweep, folder, pretended):
    """Runs a sweep; returns its outcome and the lines it said."""

    def run(retries: int = 1, jobs: int | None = None, **changes):
        sweep, said = make_sweep(**changes), []
        return run_sweep(sweep, folder, sweep.runs, retries=retries, say=said.append, jobs=jobs), said

    return run


def test_runs_one_after_the_other_and_skips_what_is_finished(go, folder):
    outcome, said = go()
    assert outcome.finished == ["queries-4/seed-0", "queries-2/seed-0", "queries-8/seed-0"]
    assert [line.split(" (")[0] for line in said[:3]] == [
        f"[1/3] queries-4/seed-0: {what}" for what in ("trains", "evaluates", "done")
    ]
    log = (folder.path / "points/queries-2/seed-0/log.txt").read_text()
    assert "$ owl2 train --config=" in log
    assert "model.abstractor.num_queries=2 train.seed=0 data.seed=0" in log
    outcome, said = go()
    assert (len(outcome.finished), said) == (3, [])


def test_failed_run_is_tried_again_reported_and_the_others_go_on(go, folder, pretended):
    pretended.write_text("train num_queries=2 1\ntrain num_queries=2 -9")
    outcome, said = go()
    assert outcome.finished == ["queries-4/seed-0", "queries-8/seed-0"]
    assert (
        "owl2 train ended with code 247 (error: told to end with -9); see "
        in outcome.failed["queries-2/seed-0"]
    )
    assert sum("tries again" in line for line in said) == 1
    failure = json.loads((folder.path / "points/queries-2/seed-0/failed.json").read_text())
    assert failure["command"] == "train"
    # The next time it is tried again, alone.
    outcome, said = go()
    assert len(outcome.finished) == 3
    assert all("queries-2" in line for line in said)
    assert not (folder.path / "points/queries-2/seed-0/failed.json").exists()


def test_mistake_is_not_tried_again_at_once(go, pretended):
    pretended.write_text("train num_queries=2 2\nevaluate queries-8 1")
    outcome, said = go()
    assert list(outcome.failed) == ["queries-2/seed-0"]
    assert [line for line in said if "tries again" in line] == ["[3/3] queries-8/seed-0: tries again"]
    assert sum("queries-8/seed-0: trains" in line for line in said) == 1, "only the evaluation is done again"


def test_copies_of_the_start_are_shared_by_the_seeds(
    go, folder, tmp_path, tiny_config, tiny_params, toy_tokenizer
):
    from owl2_jax.checkpoint.param_files import model_json, write_model_directory

    start = tmp_path / "start"
    write_model_directory(start, model_json(tiny_config.to_dict()), tiny_params, toy_tokenizer.bytes)
    _, said = go(start_from=str(start), seeds=[0, 1])
    made = [line for line in said if "makes" in line]
    assert made == [
        f"[{number}/6] queries-{q}/seed-0: makes {folder.path}/starts/28px_{q}q_full"
        for number, q in ((2, 2), (3, 8))
    ]
    same = (folder.path / "points/queries-4/seed-0/log.txt").read_text()
    other = (folder.path / "points/queries-2/seed-1/log.txt").read_text()
    assert f"train.start_from={start}\n" in same
    assert f"train.start_from={folder.path}/starts/28px_2q_full\n" in other


def test_a_point_can_start_elsewhere_and_has_a_copy_of_its_own_there(
    go, folder, tmp_path, tiny_config, tiny_params, toy_tokenizer
):
    from owl2_jax.checkpoint.param_files import model_json, write_model_directory

    for name in ("start", "other"):
        json_text = model_json(tiny_config.to_dict())
        write_model_directory(tmp_path / name, json_text, tiny_params, toy_tokenizer.bytes)
    other = f"train.start_from={tmp_path / 'other'}"
    axes = {"start": {"ours": [], "theirs": [other], "resized": [other, "model.abstractor.num_queries=2"]}}
    go(start_from=str(tmp_path / "start"), axes=axes)
    logs = {
        name: (folder.path / f"points/start-{name}/seed-0/log.txt").read_text().splitlines()
        for name in ("ours", "theirs", "resized")
    }
    assert logs["ours"][0].endswith(f" train.start_from={tmp_path / 'start'}")
    assert logs["theirs"][0].endswith(f" train.start_from={tmp_path / 'other'}")
    assert (
        f"resize --checkpoint={tmp_path / 'other'} --output={folder.path}/starts/28px_2q_full_"
        in logs["resized"][0]
    )


def test_start_that_is_missing_is_named_before_anything_runs(go, folder):
    with pytest.raises(Owl2Error, match="start_from of the sweep: checkpoint nowhere is not a directory"):
        go(start_from="nowhere")
    assert not (folder.path / "points").exists()


def test_point_that_fit_has_refused_is_not_started(go, make_sweep, folder):
    path = folder.fit(make_sweep().points[1])
    path.parent.mkdir(parents=True)
    report = {"fits": False, "topology": "v5e:2x2", "memory": {"needed": 20 * 2**30, "capacity": 16 * 2**30}}
    path.write_text(json.dumps(report))
    with pytest.raises(
        Owl2Error, match=r"point queries-2 cannot fit: owl2 fit says 20.00 GiB per chip of v5e:2x2"
    ):
        go()


def test_request_to_stop_ends_the_command_and_the_sweep(go, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "60")
    started, before = time.perf_counter(), signal.getsignal(signal.SIGTERM)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    outcome, said = go()
    assert (outcome.signal, outcome.finished, outcome.failed) == (signal.SIGTERM, [], {})
    assert len(said) == 1
    assert time.perf_counter() - started < 30
    assert signal.getsignal(signal.SIGTERM) is before


def test_run_that_another_process_is_at_is_waited_for(go, make_sweep, folder):
    path = folder.run(make_sweep().runs[0]).path / "lock"
    held = threading.Event()

    def hold() -> None:
        with locked(path, lambda: None, lambda: False):
            held.set()
            time.sleep(1.0)

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    outcome, said = go()
    other.join()
    assert said[0] == "[1/3] queries-4/seed-0: another process is at this run; waiting for it"
    assert len(outcome.finished) == 3


def test_a_sweep_in_a_bucket_runs_goes_on_and_is_collected(make_sweep, pretended, bucket):
    sweep, folder, said = make_sweep(axes={"queries": {"4": []}}), SweepFolder(bucket / "results"), []
    folder.take(sweep)
    pretended.write_text("evaluate queries 1")
    outcome = run_sweep(sweep, folder, sweep.runs, retries=2, say=said.append)
    assert outcome.finished == ["queries-4/seed-0"]
    log = (folder.path / "points/queries-4/seed-0/log.txt").read_text()
    assert log.count("$ owl2 evaluate --checkpoint=gs://bucket/") == 2
    assert run_sweep(sweep, folder, sweep.runs, say=said.append).finished == outcome.finished
    assert said[-1].startswith("[1/1] queries-4/seed-0: done"), "nothing is done twice"
    folder.take(sweep)
    table = collect(sweep, folder)
    assert [path.name for path in write_table(table, folder.path)] == ["table.csv", "table.md"]
    assert [row["point"] for row in read_rows(folder.path / "table.csv")] == ["queries-4"]
    names = {path.name for path in (folder.path / "points/queries-4/seed-0").iterdir()}
    assert names == {"run", "scores", "log.txt"}


def test_jobs_share_the_runs_among_processes_that_do_run_after_run(go, folder, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "0.2")  # so that one process cannot be done before the other begins
    outcome, _ = go(jobs=2, seeds=[0, 1])
    assert len(outcome.finished) == 6
    logs = [path.read_text() for path in folder.path.glob("points/*/*/log.txt")]
    told = [line for log in logs for line in log.splitlines() if line.startswith("process")]
    assert len(told) == 12, "training and evaluation of each run"
    assert len({line.split()[1] for line in told}) == 2
    assert {line.split(" ", 2)[2] for line in told} == {f"threads {max(1, usable_cores() // 2)}"}


def test_a_run_that_fails_in_a_process_of_many_is_told_and_the_next_has_another_process(
    go, folder, pretended
):
    pretended.write_text("train queries-4 2\ntrain queries-2 1")
    outcome, said = go(jobs=1)
    assert "owl2 train ended with code 2 (error: told to end with 2)" in outcome.failed["queries-4/seed-0"]
    assert outcome.finished == ["queries-2/seed-0", "queries-8/seed-0"]
    assert sum("tries again" in line for line in said) == 1
    assert len(go(jobs=1)[0].finished) == 3, "the same call goes on"


def test_request_to_stop_ends_all_jobs(go, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "60")
    started = time.perf_counter()
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    outcome, said = go(jobs=2)
    assert (outcome.signal, outcome.finished, outcome.failed) == (signal.SIGTERM, [], {})
    assert len(said) == 2
    assert time.perf_counter() - started < 30
