"""Every block of every page is run, in the page's order, in a folder of its own (`tests.docs.world`).

An `owl2` command runs in this process on a tiny model. Every other line of shell runs in a
real shell in which programs stand in for machines and installers (`tests.docs.stand_ins`);
what they are told to start is parsed. Blocks with a title become that file, and a block of
text that begins with a command shows what the command must print.
"""

from __future__ import annotations

import functools
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from owl2_jax.config import RunConfig
from owl2_jax.core import kept
from tests.docs import world as worlds
from tests.docs.blocks import PAGES, ROOT, TEXTS, Block, blocks_of, joined_lines
from tests.docs.blocks import lines_of as commands_of
from tests.docs.servers import Servers, started_servers
from tests.docs.stand_ins import Shell, shell_in, why_refused
from tests.docs.test_examples import refusal
from tests.training import runs

SERVED = "http://127.0.0.1:8000"  # where the pages say that `owl2 serve` is


@functools.cache
def lines_to_run(path: Path) -> list[str]:
    """Lines of a page's shell blocks; `owl2` commands of README.md that a page has, too, run there alone."""
    lines = [
        line for block in blocks_of(path) if block.language == "bash" for line in joined_lines(block.text)
    ]
    if path != ROOT / "README.md":
        return lines
    there = [words for page in PAGES.rglob("*.md") for words in map(commands_of, lines_to_run(page))]
    return [line for line in lines if not line.startswith("owl2 ") or commands_of(line) not in there]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[Path]:
    """What all pages read and none writes; meanwhile runs that are alike compile once."""
    folder = tmp_path_factory.mktemp("made")
    worlds.make(folder)
    kept.keep()
    yield folder
    kept.forget()


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Servers]:
    """Servers that pages start; each runs until the last page is done."""
    with started_servers(tmp_path_factory.mktemp("served")) as servers:
        yield servers


@pytest.fixture
def world(made: Path, path: Path, tmp_path: Path, monkeypatch) -> Path:
    """An empty folder but for what the page takes for granted, which is nothing that its commands write."""
    written = re.findall(r"--(?:output|workdir)[= ](\S+)", "\n".join(lines_to_run(path)))
    folder = tmp_path / "page"
    folder.mkdir()
    worlds.furnish(folder, made, set(written))
    monkeypatch.chdir(folder)
    worlds.patch(monkeypatch)
    return folder


class Reader:
    """Follows a page.

    Attributes:
      folder: where its commands run.
      lines: those of its shell blocks that are to run.
      shell: what runs all but `owl2`.
      places: what stands in for a name that the page has, as that of a bucket.
      start_server: takes the words after `owl2 serve`; returns where it answers.
    """

    def __init__(
        self, folder: Path, lines: list[str], shell: Shell, places: dict[str, str],
        start_server: Callable[[list[str]], str], capsys, monkeypatch,
    ) -> None:  # fmt: skip
        self.folder, self.lines, self.shell, self.places = folder, lines, shell, places
        self.start_server = start_server
        self._capsys, self._monkeypatch = capsys, monkeypatch
        self._names: dict[str, Any] = {}

    def follow(self, block: Block) -> None:
        """Writes or runs one block. Fails with the command that failed."""
        if block.title:
            (self.folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / block.title).write_text(block.text)
        elif block.language == "bash":
            for line in joined_lines(block.text):
                if line in self.lines:
                    self._run(line)
        elif block.language == "text":
            self._compare(block.text)
        elif block.language == "python":
            self._run_python(block)

    def _run(self, line: str) -> None:
        for name, place in self.places.items():
            line = line.replace(name, place)
        if not line.startswith("owl2 "):
            for words in self.shell.run(line):
                assert why_refused(words, refusal) is None, line
            return
        (words,) = commands_of(line)
        if words[1] == "serve":
            self.places[SERVED] = self.start_server(words[2:])
            return
        self._monkeypatch.setattr(sys, "stdin", io.StringIO("What is this?\n"))
        assert worlds.run(words[1:]) == 0, line

    def _compare(self, text: str) -> None:
        """Runs "$ COMMAND" and looks for the lines below it, in their order; "..." stands for any."""
        first, *shown = text.splitlines()
        assert first.startswith("$ "), f"{first}: a block of text begins with its command"
        self._capsys.readouterr()
        self._run(first.removeprefix("$ "))
        printed = iter(self._capsys.readouterr().out.splitlines())
        missing = [line for line in shown if line.strip() != "..." and line not in printed]
        assert missing == [], first

    def _run_python(self, block: Block) -> None:
        """Runs a block of Python; what it sets in `config` must make a config."""
        self._names["config"] = ConfigDict(runs.VALUES)
        text = block.text
        for name, place in self.places.items():
            text = text.replace(name, place)
        exec(compile(text, block.page, "exec"), self._names)
        RunConfig.from_dict(self._names["config"].to_dict())


PATHS = [path for path in TEXTS if any(one.language in ("bash", "python", "text") for one in blocks_of(path))]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_of_a_page_runs(path, world, made, served, monkeypatch, capsys, request, tmp_path):
    text = path.read_text(encoding="utf-8")
    places = {"/scratch": str(world / "scratch")}
    (world / "scratch").mkdir()
    if re.search("^owl2.*gs://BUCKET", text, re.MULTILINE):
        bucket = request.getfixturevalue("bucket")
        places["gs://BUCKET"] = str(bucket)
        if "--checkpoint=gs://BUCKET" in text:
            worlds.put_a_model(made / "stage2", bucket)
    reader = Reader(
        world, lines_to_run(path), shell_in(world, tmp_path), places, served.url_of, capsys, monkeypatch
    )
    for block in blocks_of(path):
        reader.follow(block)


def test_every_language_of_a_block_is_run_or_read():
    assert {block.language for path in TEXTS for block in blocks_of(path)} == {
        "bash",
        "python",
        "json",
        "text",
    }
    fences = {path.name: path.read_text(encoding="utf-8").count("\n```") for path in TEXTS}
    assert fences == {path.name: 2 * len(blocks_of(path)) for path in TEXTS}


@pytest.mark.parametrize("path", [ROOT / "README.md"], ids=["python"])
def test_the_example_of_the_python_api_runs(path, world, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "docs" / "generated")
    from python_pages import EXAMPLE

    exec(EXAMPLE.removeprefix("```python\n").removesuffix("```"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 3


def undescribed(*names: str) -> set[str]:
    """Those of the names that `reference/files.md` does not have."""
    text = (PAGES / "reference" / "files.md").read_text(encoding="utf-8")
    return {name for name in names if f"`{name}" not in text}


def lines_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("path", [PAGES / "reference" / "files.md"], ids=["files"])
def test_every_file_that_commands_leave_and_every_key_in_it_is_described(path, world):
    (world / "my.json").write_text(json.dumps([worlds.RECORD, {**worlds.RECORD, "image": "gone.png"}]))
    config = "configs/finetune_7b.py:data=my.json,image_folder=images,examples=40"
    command = ["train", f"--config={config}", "--workdir=run", "data.max_rejected_share=0.9"]
    assert worlds.run(command) == 0
    run = {path.name for path in (world / "run").iterdir()}
    assert {"config.json", "model.json", "run.json", "metrics.jsonl", "rejected.jsonl", "checkpoints"} <= run
    items = [path.name for path in (world / "run" / "checkpoints" / "2").iterdir() if path.is_dir()]
    starts = json.loads((world / "run" / "run.json").read_text()).keys()
    assert undescribed(*run, *items, *starts) == set()
    assert undescribed(*json.loads((world / "run" / "model.json").read_text())) == set()
    assert undescribed(*lines_in(world / "run" / "rejected.jsonl")[0]) == set()

    assert worlds.run(["evaluate", "--checkpoint=DIR", "--benchmarks=facts", "--output=scores"]) == 0
    scores = world / "scores"
    of_one = {f"NAME/{path.name}".replace("-0", "-N") for path in (scores / "facts").iterdir()}
    assert undescribed(*of_one, *(path.name for path in scores.iterdir() if path.is_file())) == set()
    assert undescribed(*lines_in(scores / "facts" / "results.jsonl")[0]) == set()
    assert undescribed(*lines_in(scores / "facts" / "times.jsonl")[0]) == set()
    entry = json.loads((scores / "scores.json").read_text())["scores"][0]
    assert undescribed(*entry) == set()

    generate = ["generate", "--checkpoint=DIR", "--input=prompts.jsonl", "--output=answers.jsonl"]
    assert worlds.run(generate) == 0
    assert undescribed(*lines_in(world / "answers.jsonl")[0]) == set()
    assert (world / "answers.jsonl.settings.json").is_file()
