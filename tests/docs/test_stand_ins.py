"""What a page says of pods, clusters and installs runs in a real shell, with the real launch scripts.

Programs of `tests.docs.stand_ins` stand in for the machines; what they are told is compared with
what they would take.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, TEXTS, blocks_of, joined_lines
from tests.docs.stand_ins import shell_in, why_refused
from tests.docs.test_examples import refusal


def lines_of(path: Path) -> list[str]:
    """Lines of marked blocks that do not begin with `owl2`; what a sweep writes is run by its own tests."""
    marked = [block.text for block in blocks_of(path) if block.language == "bash" and block.why]
    lines = [line for text in marked for line in joined_lines(text)]
    return [line for line in lines if not line.startswith(("owl2 ", "bash jobs/"))]


PATHS = [path for path in TEXTS if lines_of(path)]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_line_for_other_machines_runs_and_starts_what_exists(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "page"
    folder.mkdir()
    for name in ("launch", "configs", "setup.py"):
        (folder / name).symlink_to(ROOT / name)
    shell = shell_in(folder, tmp_path)
    for line in lines_of(path):
        for words in shell.run(line):
            assert why_refused(words, refusal) is None, line


def test_what_a_stand_in_would_not_take_is_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert why_refused(["pip", "install", "owl2_jax[fitt]"], refusal) == "there are no extras ['fitt']"
    assert why_refused(["owl2", "fit", "--no-such-flag"], refusal) is not None
    assert why_refused(["sbatch", "launch/slurm.sbatch", "--no-such-flag"], refusal) is not None
    assert why_refused(["gcloud", "ssh", "--command=x owl2 train --no-such-flag >>log"], refusal) is not None
    assert why_refused(["python", "-m", "tests.end_to_end.kill_run", "--kill=5.5"], refusal) is not None
    assert why_refused(["pytest", "tests/no_such"], refusal) == "there is no tests/no_such"
