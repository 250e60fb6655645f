"""`owl2 sweep` as a user runs it: killed and started again, collected, and refused."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from owl2_jax.cli.main import main
from owl2_jax.sweeps import processes
from owl2_jax.training.logging.metrics import read_metrics
from tests.environment import environment
from tests.sweeps import fake_owl2
from tests.training import runs

ROOT = Path(__file__).parents[2]
# So many steps take longer than writing a checkpoint beside them.
SAVE_EVERY = 20
STEPS = 60


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    runs.write_config(tmp_path / "small.py")
    values = {
        "base": "small.py",
        "axes": {"queries": {"2": ["model.abstractor.num_queries=2"]}},
        "overrides": [
            f"train.total_steps={STEPS}", f"train.save_every_steps={SAVE_EVERY}", "train.log_every_steps=1",
        ],
        "benchmarks": ["easy_vqa"],
        "max_questions": 4,
    }  # fmt: skip
    path = tmp_path / "queries.py"
    path.write_text(f"def get_config():\n    return {values!r}\n")
    return path


def start(sweep_file: Path, workdir: Path, *options: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "owl2_jax.cli.main", "sweep"]
    command = [*program, str(sweep_file), f"--workdir={workdir}", *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def saved_steps(run: Path) -> list[int]:
    return [int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()]


@pytest.mark.slow
def test_killed_sweep_goes_on_from_the_last_checkpoint_of_the_running_point(sweep_file, tmp_path, capsys):
    workdir = tmp_path / "results"
    run = workdir / "points/queries-2/seed-0/run"
    first = start(sweep_file, workdir)
    while not saved_steps(run) or len(read_metrics(run)) < SAVE_EVERY + 2:
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.01)
    first.kill()
    first.communicate()

    # Nothing outlives the sweep, and what the point had reached is on the disk.
    with processes.locked(run.parent / "lock", lambda: None, lambda: False):
        reached = read_metrics(run)[-1]["step"]
        saved = max(saved_steps(run))
    assert saved >= reached - SAVE_EVERY
    assert reached < STEPS

    second = start(sweep_file, workdir, "--jobs=1")  # training and evaluation in one process
    said, _ = second.communicate(timeout=600)
    assert second.returncode == 0, said
    assert "[1/1] queries-2/seed-0: goes on training" in said
    assert [line["step"] for line in read_metrics(run)] == list(range(1, STEPS + 1)), "no step twice"
    assert len(json.loads((run / "run.json").read_text())["starts"]) == 2

    third = start(sweep_file, workdir)
    said, _ = third.communicate(timeout=60)
    assert said.splitlines()[0].startswith("1 of 1 runs are done"), "what is finished is skipped"

    assert main(["sweep", str(sweep_file), f"--workdir={workdir}", "--collect"]) == 0
    assert "| queries-2 | 2 | 1 |" in capsys.readouterr().out
    rows = list(csv.DictReader((workdir / "table.csv").open()))
    assert [row["tokens_per_image"] for row in rows] == ["3"]
    assert (workdir / "plots/easy_vqa_by_queries.svg").is_file()


def test_list_shows_every_run_and_makes_nothing(sweep_file, tmp_path, capsys):
    assert main(["sweep", str(sweep_file), f"--workdir={tmp_path}/results", "--list"]) == 0
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [["queries-2/seed-0", "open"]]
    assert not (tmp_path / "results").exists()


@pytest.fixture
def refused(sweep_file, tmp_path, capsys):
    """The error line of a refused command."""

    def call(*arguments: str) -> str:
        assert main(["sweep", str(sweep_file), f"--workdir={tmp_path}/results", *arguments]) == 2
        said = capsys.readouterr()
        assert said.err.startswith("error: ")
        assert (said.out, said.err.count("\n")) == ("", 1)
        return said.err

    return call


def test_refuses_what_cannot_run(sweep_file, tmp_path, refused):
    assert re.search("point queries-2 .*unknown field of train 'total_step'", refused("train.total_step=1"))
    assert re.search("no run in .*results is finished", refused("--collect"))
    assert not (tmp_path / "results").exists()
    assert "unknown run of this sweep 'queries-5/seed-0'" in refused("--only=queries-5/seed-0")
    other = refused("train.total_steps=5")
    assert re.search(r"holds results of another grid \(overrides: .*total_steps=5", other)
    sweep_file.write_text(sweep_file.read_text().replace("num_queries=2", "num_queries=3"))
    assert re.search("results holds results of another grid .*num_queries=2 -> .*num_queries=3", refused())


def test_refuses_a_point_that_this_machine_cannot_hold(refused):
    said = refused("model.decoder.mlp_dim=1048576", "model.decoder.num_layers=4096")
    assert re.match(r"error: point queries-2 cannot fit: its .* GiB, this machine has 1 x .* GiB", said)


def test_what_the_grid_can_see_is_told_before_the_first_run_and_in_the_table(
    sweep_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(processes, "PROGRAM", (sys.executable, fake_owl2.__file__))
    text = sweep_file.read_text().replace(
        "'axes': {'queries': {", "'seeds': [0, 1], 'axes': {'queries': {'4': [], "
    )
    sweep_file.write_text(text.replace(f"total_steps={STEPS}", f"total_steps={fake_owl2.STEPS}"))
    earlier = tmp_path / "earlier.csv"
    earlier.write_text("point,seeds,easy_vqa,easy_vqa_deviation\nbase,3,80,1\n")
    command = ["sweep", str(sweep_file), f"--workdir={tmp_path}/results"]
    assert main([*command, "--list", f"--spread-from={earlier}"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert main([*command, "--collect", f"--spread-from={earlier}"]) == 2
    assert "has no meaning with --collect; leave one of them out, or give --list" in capsys.readouterr().err
    assert main([*command, f"--spread-from={earlier}"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(
        "smallest difference to queries-4 that 2 seeds can see, 8 times in 10, among 1 comp"
    )
    assert said[0].endswith(f"(spread: {earlier}):")
    assert re.fullmatch(r"  easy_vqa: 16 or more; 4.6 with 3, 2.4 with 5, .*", said[1])
    assert said[2] == "[1/4] queries-4/seed-0: trains"
    assert listed[4:] == said[:2]
    assert main(command) == 0
    assert "not known: no two seeds of two points differ" in capsys.readouterr().out
    assert main([*command, "--collect"]) == 0
    assert "| none (the same on 2 seeds) |" in capsys.readouterr().out
    assert main([*command, f"--spread-from={sweep_file}"]) == 2
    assert "is no table.csv of a sweep" in capsys.readouterr().err


def test_halving_stops_the_worse_half_says_why_and_differences_are_to_the_base_that_was_chosen(
    sweep_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(processes, "PROGRAM", (sys.executable, fake_owl2.__file__))
    axes = {name: [f"model.abstractor.num_queries={name}"] for name in ("2", "3", "4", "5")}
    claim = {
        "point": "queries-2", "than": "queries-5", "expect": "lower", "measures": ["easy_vqa"],
        "says": "fewer",
    }  # fmt: skip
    given = f"'seeds': [0, 1, 2], 'claims': {{'few': {claim!r}}}, 'axes': {{'queries': {axes!r}}}"
    text = re.sub("'axes': {.*?}}", given, sweep_file.read_text())
    sweep_file.write_text(text.replace(f"total_steps={STEPS}", f"total_steps={fake_owl2.STEPS}"))
    command = ["sweep", str(sweep_file), f"--workdir={tmp_path}/results", "--base=queries-5"]
    assert main([*command, "--halving=easy_vqa"]) == 0
    said = capsys.readouterr().out.splitlines()
    # All score alike: the first two stay, and the base.
    assert "queries-4: stopped after 2 seeds: easy_vqa 80.5, the 3 that went on had 80.5 or better" in said
    assert said[-1].startswith("11 of 11 runs are done; ")
    assert main([*command, "--list"]) == 0
    assert re.search("queries-4/seed-2 +stopped", capsys.readouterr().out)
    assert main([*command, "--collect"]) == 0
    table = capsys.readouterr().out
    assert "Differences are to queries-5, " in table
    assert "| stopped after 2 seeds: " in table
    assert "not finished" not in table
    assert (
        "| fewer |  | queries-2 less queries-5 | easy_vqa | none (the same on 3 seeds) | not told |" in table
    )
    assert f"wrote {tmp_path}/results/claims.md" in table
    assert f"wrote {tmp_path}/results/plots/claims.png" in table
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib.figure", None)
        assert main([*command, "--collect"]) == 2
    said = capsys.readouterr()
    assert "plots need matplotlib" in said.err
    assert f"wrote {tmp_path}/results/claims.md" in said.out
    # Without the option all points get all seeds.
    assert main(command) == 0
    assert "12 of 12 runs are done" in capsys.readouterr().out


def test_halving_and_base_refuse_what_they_cannot_do(sweep_file, refused):
    assert "the sweep has 1; give it more seeds, or leave --halving out" in refused("--halving=easy_vqa")
    sweep_file.write_text(sweep_file.read_text().replace("'axes'", "'seeds': [0, 1, 2], 'axes'"))
    assert "unknown measure for --halving 'easyvqa'" in refused("--halving=easyvqa")
    assert "has no meaning with --slurm" in refused("--halving=easy_vqa", "--slurm=jobs")
    assert "unknown point of this sweep 'queries-3'" in refused("--base=queries-3")


def test_jobs_refuse_what_starts_nothing_here(refused):
    assert "--slurm starts none; leave one of them out" in refused("--jobs=2", "--slurm=jobs")
    assert "--collect starts none" in refused("--jobs=2", "--collect")
