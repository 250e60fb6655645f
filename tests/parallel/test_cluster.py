"""Which processes belong together, by variables alone."""

from __future__ import annotations

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.parallel import cluster


@pytest.fixture(autouse=True)
def no_tpu(monkeypatch):
    monkeypatch.setattr(cluster, "has_tpu", lambda: False)


def variables(coordinator="host:1", processes="2", process="1"):
    return {"OWL2_COORDINATOR": coordinator, "OWL2_PROCESSES": processes, "OWL2_PROCESS": process}


def test_plain_start_is_a_single_process():
    assert cluster.detect({}) is None
    assert cluster.detect({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) is None


def test_own_variables_win():
    slurm = {"SLURM_NTASKS": "8", "SLURM_PROCID": "3"}
    assert cluster.detect(variables() | slurm) == cluster.Cluster("environment", "host:1", 2, 1)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OWL2_PROCESSES": "2"}, "OWL2_COORDINATOR, OWL2_PROCESS not set"),
        (variables(processes="two"), "OWL2_PROCESSES='two' .* must be numbers"),
        (variables(process="2"), r"OWL2_PROCESS=2 must be from 0 to OWL2_PROCESSES - 1 = 1"),
        (variables(coordinator="host"), "has no port"),
    ],
)
def test_incomplete_variables_are_refused(environment, message):
    with pytest.raises(Owl2Error, match=message):
        cluster.detect(environment)


def test_slurm_step_with_one_task_per_node_uses_all_its_devices():
    environment = {
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
        "SLURM_JOB_ID": "4097",
        "SLURM_STEP_NODELIST": "gpu[07-10]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    }
    assert cluster.detect(environment) == cluster.Cluster("slurm", "gpu07:61441", 4, 2)
    shared = environment | {"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_LOCALID": "5"}
    assert cluster.detect(shared).local_devices == (5,)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("gpu[07-09,12],x1", "gpu07"), ("gpu[3,5]", "gpu3"), ("a1,b[1-2]", "a1")],
)
def test_first_host_of_a_node_list(nodes, first):
    assert cluster.first_host(nodes) == first


def test_tpu_machine_is_detected_unless_another_platform_is_asked_for(monkeypatch):
    monkeypatch.setattr(cluster, "has_tpu", lambda: True)
    assert cluster.detect({}) == cluster.Cluster("tpu")
    assert cluster.detect({"JAX_PLATFORMS": "cpu"}) is None


STEP = {"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n1"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"SLURM_NTASKS": "4(x2)"},
            r"SLURM_NTASKS is '4\(x2\)', it should be a whole number; start .*srun",
        ),
        ({"SLURM_NTASKS": ""}, "SLURM_NTASKS is ''"),
        ({"SLURM_PROCID": "-1"}, "SLURM_PROCID is '-1'"),
        ({"SLURM_PROCID": "4"}, r"SLURM_PROCID=4 should be from 0 to SLURM_NTASKS - 1 = 3"),
        ({"SLURM_JOB_ID": "12_3"}, "SLURM_JOB_ID is '12_3'"),
        ({"SLURM_JOB_ID": None}, "SLURM_JOB_ID is not set"),
        ({"SLURM_STEP_NODELIST": None}, "SLURM_STEP_NODELIST is not set, it should name the nodes"),
        ({"SLURM_STEP_TASKS_PER_NODE": "8"}, "SLURM_LOCALID is not set"),
        ({"SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_LOCALID": "9" * 19}, "SLURM_LOCALID is '9999"),
    ],
)
def test_variables_of_slurm_that_are_no_numbers_are_named(changed, message):
    environment = {name: value for name, value in (STEP | changed).items() if value is not None}
    with pytest.raises(Owl2Error, match=message):
        cluster.detect(environment)


def test_a_login_shell_with_odd_slurm_variables_is_one_process():
    assert cluster.detect({"SLURM_NTASKS": "4(x2)", "SLURM_JOB_ID": "interactive"}) is None
