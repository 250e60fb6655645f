import subprocess
import sys
import textwrap

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.parallel import multihost


@pytest.fixture(autouse=True)
def no_tpu(monkeypatch):
    monkeypatch.setattr(multihost, "has_tpu", lambda: False)


def variables(coordinator="host:1", processes="2", process="1"):
    return {"OWL2_COORDINATOR": coordinator, "OWL2_PROCESSES": processes, "OWL2_PROCESS": process}


def test_plain_start_is_a_single_process():
    assert multihost.detect({}) is None
    assert multihost.detect({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) is None


def test_own_variables_win():
    slurm = {"SLURM_NTASKS": "8", "SLURM_PROCID": "3"}
    assert multihost.detect(variables() | slurm) == multihost.Cluster("environment", "host:1", 2, 1)


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
        multihost.detect(environment)


def test_slurm_step_with_one_task_per_node_uses_all_its_devices():
    environment = {
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
        "SLURM_JOB_ID": "4097",
        "SLURM_STEP_NODELIST": "gpu[07-10]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    }
    assert multihost.detect(environment) == multihost.Cluster("slurm", "gpu07:61441", 4, 2)
    shared = environment | {"SLURM_STEP_TASKS_PER_NODE": "8(x4)", "SLURM_LOCALID": "5"}
    assert multihost.detect(shared).local_devices == (5,)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("gpu[07-09,12],x1", "gpu07"), ("gpu[3,5]", "gpu3"), ("a1,b[1-2]", "a1")],
)
def test_first_host_of_a_node_list(nodes, first):
    assert multihost.first_host(nodes) == first


def test_tpu_machine_is_detected_unless_another_platform_is_asked_for(monkeypatch):
    monkeypatch.setattr(multihost, "has_tpu", lambda: True)
    assert multihost.detect({}) == multihost.Cluster("tpu")
    assert multihost.detect({"JAX_PLATFORMS": "cpu"}) is None


def test_disagreements_name_field_value_and_process():
    config = {"train": {"seed": 0, "steps": 10}}
    other = {"train": {"seed": 1, "steps": 10}}
    assert multihost.disagreements([config, config]) == []
    assert multihost.disagreements([config, other, config]) == [
        "train.seed 0 on process 0, 2; 1 on process 1"
    ]
    assert multihost.disagreements([3, 4]) == ["3 on process 0; 4 on process 1"]
    assert multihost.disagreements([{"a": 1}, {}]) == ["a 1 on process 0; absent on process 1"]


def test_one_process_agrees_with_itself():
    multihost.agree("config", {"seed": 0})


def run(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )


def test_watch_ends_a_process_that_hangs_and_says_where():
    result = run("""
        import time
        from owl2_jax.parallel.multihost import watch
        with watch("a step took more than 0.5 s", 0.5) as alive:
            for _ in range(4):
                time.sleep(0.3)
                alive.feed()
            print("went on", flush=True)
            time.sleep(60)
    """)
    assert result.returncode == 3
    assert result.stdout == "went on\n"
    assert "error: a step took more than 0.5 s" in result.stderr
    assert "most recent call first" in result.stderr


def test_watch_leaves_a_block_that_ends_alone():
    result = run("""
        import time
        from owl2_jax.parallel.multihost import watch
        with watch("never", 0.2):
            pass
        time.sleep(0.5)
        print("done")
    """)
    assert (result.returncode, result.stdout) == (0, "done\n")


def test_process_that_is_alone_stops_with_a_message_in_time():
    result = run("""
        from owl2_jax.parallel import multihost
        cluster = {"OWL2_COORDINATOR": "127.0.0.1:1", "OWL2_PROCESSES": "2", "OWL2_PROCESS": "1"}
        multihost.initialize(2, cluster)
    """)
    assert result.returncode == 3
    assert (
        "error: process 1 of 2: not all processes met at coordinator 127.0.0.1:1 within 2 s" in result.stderr
    )
