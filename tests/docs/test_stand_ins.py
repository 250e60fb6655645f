"""Programs that stand in for machines find what the real ones would not take."""

from __future__ import annotations

import pytest

from tests.docs.blocks import ROOT
from tests.docs.stand_ins import shell_in, why_refused
from tests.docs.test_examples import refusal


def test_what_a_stand_in_would_not_take_is_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert why_refused(["pip", "install", "owl2_jax[fitt]"], refusal) == "there are no extras ['fitt']"
    assert why_refused(["owl2", "fit", "--no-such-flag"], refusal) is not None
    assert why_refused(["sbatch", "launch/slurm.sbatch", "--no-such-flag"], refusal) is not None
    assert why_refused(["gcloud", "ssh", "--command=x owl2 train --no-such-flag >>log"], refusal) is not None
    assert why_refused(["python", "-m", "tests.end_to_end.kill_run", "--kill=5.5"], refusal) is not None
    assert why_refused(["python", "launch/load_test.py", "--no-such-flag"], refusal) is not None
    assert why_refused(["python", "launch/no_such.py"], refusal) == "there is no launch/no_such.py"
    assert why_refused(["pytest", "tests/no_such"], refusal) == "there is no tests/no_such"


def test_a_shell_tells_every_word_of_every_program_and_a_line_that_fails_is_a_fault(tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    shell = shell_in(folder, tmp_path)
    shell.run("export NAME='my slice'")
    told = shell.run('gcloud ssh "$NAME" && docker build .')
    assert told == [["gcloud", "ssh", "my slice"], ["docker", "build", "."]]
    with pytest.raises(AssertionError, match="no_such_script"):
        shell.run("bash no_such_script.sh")
