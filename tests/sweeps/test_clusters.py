"""What is written for a cluster is free of shell mistakes, well-formed, and starts what it should."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from string import Template

import pytest
import yaml

from owl2_jax.checkpoint.param_files import model_json, write_model_directory
from owl2_jax.core.errors import Owl2Error
from owl2_jax.sweeps.clusters import write_jobsets, write_slurm
from tests.launch.test_gke_jobset import JOBSET, check
from tests.launch.test_scripts import executable

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sweep(make_sweep, tmp_path, monkeypatch, tiny_config, tiny_params, toy_tokenizer):
    monkeypatch.chdir(ROOT)
    start = tmp_path / "start"
    write_model_directory(start, model_json(tiny_config.to_dict()), tiny_params, toy_tokenizer.bytes)
    return make_sweep(seeds=[0, 1], start_from=str(start), max_questions=5)


def test_slurm_scripts_have_no_shell_mistakes_and_ask_for_the_machines_of_launch(sweep, folder, tmp_path):
    paths = write_slurm(sweep, folder, tmp_path / "jobs")
    assert [path.name for path in paths] == ["submit.sh", "starts.sbatch", "train.sbatch", "evaluate.sbatch"]
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    done = subprocess.run([shellcheck, "--shell=bash", *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    train = (tmp_path / "jobs/train.sbatch").read_text()
    for line in (ROOT / "launch/slurm.sbatch").read_text().splitlines():
        assert not line.startswith("#SBATCH") or line in train
    assert "#SBATCH --array=0-5\n" in train
    with pytest.raises(Owl2Error, match="exists"):
        write_slurm(sweep, folder, tmp_path / "jobs")


def test_tasks_of_the_array_start_their_own_run(sweep, folder, tmp_path):
    write_slurm(sweep, folder, tmp_path / "jobs")
    here = tmp_path / "cluster"
    executable(here / ".venv/bin/activate", f"PATH={here}/bin:$PATH")
    executable(here / "bin/owl2", 'printf "[%s]" "$@"\n')
    executable(here / "launch/slurm.sbatch", 'printf "[train]"; printf "[%s]" "$@"\n')

    def task(script: str, number: int) -> str:
        environment = {**os.environ, "SLURM_SUBMIT_DIR": str(here), "SLURM_ARRAY_TASK_ID": str(number)}
        command = ["bash", str(tmp_path / "jobs" / script)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    run = folder.run(sweep.runs[4])
    assert task("train.sbatch", 4) == (
        f"[train][--config={sweep.base}][--workdir={run.training}][model.abstractor.num_queries=2][train.seed=1]"
        f"[data.seed=1][train.start_from={folder.path}/starts/28px_2q_full]"
    )
    assert task("evaluate.sbatch", 4) == (
        f"[evaluate][--checkpoint={run.training}][--output={run.scores}][--benchmarks=easy_vqa]"
        "[--data-root=data][--limit=5]"
    )
    starts = task("starts.sbatch", 0)
    assert starts.count("[convert][resize]") == 2
    assert f"[--output={folder.path}/starts/28px_8q_full][--image-size=28][--num-queries=8]" in starts


def test_submission_chains_the_three_jobs(sweep, folder, tmp_path):
    write_slurm(sweep, folder, tmp_path / "jobs")
    sbatch = executable(tmp_path / "bin/sbatch", f'echo "$*" >>{tmp_path}/calls; wc -l <{tmp_path}/calls\n')
    environment = {**os.environ, "PATH": f"{sbatch.parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", tmp_path / "jobs/submit.sh", "--nodes=2"], env=environment, check=True)
    jobs = tmp_path / "jobs"
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"--parsable {jobs}/starts.sbatch",
        f"--parsable --dependency=afterok:1 --nodes=2 {jobs}/train.sbatch",
        f"--dependency=aftercorr:2 {jobs}/evaluate.sbatch",
    ]


def test_jobsets_are_those_of_launch_with_names_and_commands_of_their_own(sweep, folder, tmp_path):
    paths = write_jobsets(sweep, folder, tmp_path / "jobs")
    assert len(paths) == 1 + 2 * len(sweep.runs)
    names = set()
    for path in paths[1:]:
        text = Template(path.read_text()).substitute(IMAGE="registry/owl2:1")
        jobset = yaml.safe_load(text)
        check(jobset, JOBSET)
        names.add(jobset["metadata"]["name"])
        pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        assert pod["containers"][0]["command"][:2] == ["owl2", path.name.split(".")[-2]]
    assert len(names) == len(paths) - 1
    assert max(map(len, names)) <= 49
    command = json.loads(
        (tmp_path / "jobs/queries-2_seed-1.train.yaml").read_text().split("command: ")[1].split("\n")[0]
    )
    assert "model.abstractor.num_queries=2" in command
    starts = (tmp_path / "jobs/starts.sh").read_text()
    assert starts.count("owl2 convert resize") == 2


def test_launch_that_is_not_there_is_named(sweep, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        Owl2Error, match=r"slurm.sbatch is not here; run this in the folder that holds launch/"
    ):
        write_slurm(sweep, folder, tmp_path / "jobs")
