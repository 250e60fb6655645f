import subprocess
import sys
import textwrap

import pytest

from owl2_jax.parallel import multihost


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


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (["", ""], ""),
        (["no room"], "no room"),
        (["no room", "no room"], "no room"),
        (["", "no room"], "host 1: no room"),
        (["no room", "", "damaged"], "no room; host 2: damaged"),
    ],
)
def test_trouble_of_one_process_is_told_alike_on_all(monkeypatch, told, wanted):
    monkeypatch.setattr(multihost, "all_gather", lambda own: told)
    assert {multihost.any_trouble(own) for own in told} == {wanted}


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
