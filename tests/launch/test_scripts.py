"""Every launch script is free of shell mistakes, starts what it says, and starts it again after a failure."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


def run(*command, folder=ROOT, timeout=60, **environment):
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=os.environ | {"RESTART_DELAY": "0", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    result = run(shellcheck, "--external-sources", "--shell=bash", script)
    assert result.returncode == 0, result.stdout


# Fails twice with the given code, then succeeds; counts its starts in a file.
FLAKY = 'echo "$*" >>starts; [ "$(wc -l <starts)" -gt 2 ] || exit {code}'


@pytest.mark.parametrize(("code", "starts", "final"), [(134, 3, 0), (1, 3, 0), (2, 1, 2), (130, 1, 130)])
def test_host_starts_again_after_what_a_restart_may_cure(tmp_path, code, starts, final):
    flaky = executable(tmp_path / "flaky", FLAKY.format(code=code))
    result = run("bash", LAUNCH / "on_host.sh", flaky, "a b", "c=d", folder=tmp_path)
    assert result.returncode == final
    assert (tmp_path / "starts").read_text().splitlines() == ["a b c=d"] * starts


def test_host_gives_up_after_the_given_number_of_restarts(tmp_path):
    result = run("bash", LAUNCH / "on_host.sh", "bash", "-c", "exit 7", folder=tmp_path, RESTARTS="2")
    assert result.returncode == 7
    assert "gave up after 3 attempts; the last one ended with code 7" in result.stderr


def test_local_processes_get_their_numbers_and_start_again_together(tmp_path):
    script = executable(
        tmp_path / "process",
        'echo "$OWL2_PROCESS of $OWL2_PROCESSES at $OWL2_COORDINATOR: $*" >>"started by $OWL2_PROCESS"\n'
        # Process 1 fails at the first start; process 0 would run on for a minute.
        'if [ "$(wc -l <"started by $OWL2_PROCESS")" -eq 1 ]; then\n'
        '  if [ "$OWL2_PROCESS" = 1 ]; then sleep 0.3; exit 134; else exec sleep 60; fi\nfi\n',
    )
    result = run("bash", LAUNCH / "local_processes.sh", 2, script, "x y", folder=tmp_path, timeout=30)
    assert result.returncode == 0, result.stderr
    for process in (0, 1):
        lines = (tmp_path / f"started by {process}").read_text().splitlines()
        assert len(lines) == 2
        assert all(re.fullmatch(rf"{process} of 2 at 127\.0\.0\.1:\d+: x y", line) for line in lines)


def test_local_processes_share_the_gpus(tmp_path):
    script = executable(tmp_path / "process", 'echo "$CUDA_VISIBLE_DEVICES" >"gpus of $OWL2_PROCESS"')
    visible = {"CUDA_VISIBLE_DEVICES": "3,4,5,6"}
    assert run("bash", LAUNCH / "local_processes.sh", 2, script, folder=tmp_path, **visible).returncode == 0
    shares = [(tmp_path / f"gpus of {process}").read_text().strip() for process in (0, 1)]
    assert shares == ["3,4", "5,6"]
    odd = run("bash", LAUNCH / "local_processes.sh", 3, script, folder=tmp_path, **visible)
    assert odd.returncode == 2
    assert "4 GPUs do not divide into 3 processes" in odd.stderr


def test_local_processes_without_a_number_explains_itself():
    result = run("bash", LAUNCH / "local_processes.sh", "owl2", "train")
    assert (result.returncode, result.stderr[:6]) == (2, "usage:")


@pytest.fixture
def pod(tmp_path):
    """A gcloud that runs what it is told on this machine, in a home of its own."""
    home = tmp_path / "worker"
    (home / "owl2_jax" / "launch").mkdir(parents=True)
    for name in ("on_host.sh", "restarts.sh"):
        (home / "owl2_jax" / "launch" / name).write_text((LAUNCH / name).read_text())
    executable(
        home / "owl2_jax" / ".venv" / "bin" / "owl2",
        'printf "[%s]" "$@"; echo\nsleep 60 &\ntrap "echo saved; kill $!; exit 0" TERM\nwait $!\n',
    )
    executable(
        tmp_path / "bin" / "gcloud",
        f'echo "$*" >>{tmp_path}/calls\ncd {home}\n'
        'for word in "$@"; do case $word in --command=*) exec bash -c "${word#--command=}" ;; esac; done\n',
    )

    def call(*arguments):
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        result = run("bash", LAUNCH / "tpu_pod.sh", *arguments, PATH=path, TPU_NAME="slice", ZONE="zone")
        return result, (tmp_path / "calls").read_text().splitlines()

    return call, home / "owl2_jax" / "runs" / "train.log"


def wait_for(log, text):
    for _ in range(100):
        if log.exists() and text in log.read_text():
            return
        subprocess.run(["sleep", "0.05"], check=True)
    pytest.fail(f"{text!r} is not in {log}: {log.read_text() if log.exists() else 'no log'}")


def test_pod_trains_in_the_background_with_its_arguments_and_stops_after_saving(pod):
    call, log = pod
    result, calls = call("train", "--config=a b.py", "mesh={'fsdp': -1}")
    assert result.returncode == 0, result.stderr
    assert calls[0].startswith("compute tpus tpu-vm ssh slice --worker=all --command=")
    assert calls[0].endswith("--zone=zone")
    wait_for(log, "[train][--config=a b.py][mesh={'fsdp': -1}]")
    assert ": running" in call("status")[0].stdout
    assert call("stop")[0].returncode == 0
    wait_for(log, "saved")


@pytest.mark.parametrize("arguments", [(), ("train",), ("start",)])
def test_pod_explains_itself(arguments):
    result = run("bash", LAUNCH / "tpu_pod.sh", *arguments, TPU_NAME="slice", ZONE="zone")
    assert result.returncode == 2
    assert "Trains on all workers of one TPU pod slice" in result.stderr


@pytest.fixture
def cluster(tmp_path):
    """srun and scontrol that leave notes, and a virtual environment that has nothing in it."""
    (tmp_path / "launch").symlink_to(LAUNCH)
    executable(tmp_path / ".venv" / "bin" / "activate", f"PATH={tmp_path / 'bin'}:$PATH")
    executable(tmp_path / "bin" / "scontrol", f'echo "$*" >>{tmp_path}/scontrol')
    return tmp_path


def submit(folder, srun, *arguments):
    executable(folder / "bin" / "srun", srun)
    return run(
        "bash", LAUNCH / "slurm.sbatch", *arguments,
        folder=folder, SLURM_SUBMIT_DIR=str(folder), SLURM_JOB_ID="7",
    )  # fmt: skip


def test_slurm_step_starts_again_after_a_lost_node(cluster):
    result = submit(cluster, FLAKY.format(code=137), "--config=a b.py")
    assert result.returncode == 0, result.stderr
    starts = (cluster / "starts").read_text().splitlines()
    assert starts == ["--kill-on-bad-exit=1 owl2 train --config=a b.py"] * 3
    assert not (cluster / "scontrol").exists()


def test_slurm_job_saves_and_queues_itself_again_near_the_time_limit(cluster):
    signal = "(sleep 0.2; kill -USR1 $PPID) &\n"
    step = f'sleep 60 &\ntrap "echo saved >{cluster}/saved; kill $!; exit 0" TERM\nwait $!\n'
    result = submit(cluster, signal + step)
    assert result.returncode == 0, result.stderr
    assert (cluster / "saved").exists()
    assert (cluster / "scontrol").read_text() == "requeue 7\n"


def test_readme_names_every_script():
    text = (LAUNCH / "README.md").read_text()
    for name in (
        "local_processes.sh",
        "tpu_pod.sh",
        "gke_jobset.yaml",
        "slurm.sbatch",
        "quickstart.sh",
        "study.sh",
        "measure.sh",
    ):
        assert f"`{name}`" in text


def test_measuring_runs_the_bench_of_the_machine_and_names_its_file(tmp_path):
    executable(tmp_path / "owl2", f'echo "$*" >"{tmp_path}/called"')
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "OWL2_INSTALLED": "1"}
    result = subprocess.run(
        ["bash", str(LAUNCH / "measure.sh"), f"{tmp_path}/out.json"],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "called").read_text() == f"bench machine --output={tmp_path}/out.json\n"
    assert "measuring on: cpu" in result.stderr
