"""The examples of the pages and READMEs: commands parse, configs load, code and records can be read."""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from owl2_jax.cli import main as dispatcher
from owl2_jax.cli.parsing import parse
from owl2_jax.config import RunConfig, load_config
from owl2_jax.core.errors import Owl2Error
from owl2_jax.training.run_directory import FREE_FIELDS
from tests.docs.blocks import BLOCK, EXTRA, ROOT, TEXTS, blocks, lines_of
from tests.docs.names import fields_of, flags_of

IN_TEXT = re.compile(r"`(owl2 [a-z]+ [^`]*-[-][^`]*)`")
Command = tuple[str, list[str]]  # name of the page, words after "owl2"


def commands() -> list[Command]:
    """Every `owl2` command in blocks of shell, and those with flags inside a sentence."""
    found = [(block.page, words) for block in blocks("bash") for words in lines_of(block.text)]
    for path in TEXTS:
        sentences = BLOCK.sub("", path.read_text(encoding="utf-8"))
        found += [(path.name, words) for line in IN_TEXT.findall(sentences) for words in lines_of(line)]
    return [(page, words[words.index("owl2") + 1 :]) for page, words in found if "owl2" in words]


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its actions."""
    yield parser
    for group in parser._actions:
        if isinstance(group, argparse._SubParsersAction):
            yield from group.choices.values()


def refusal(words: list[str]) -> str | None:
    """Why a command is refused before it does anything; None if it is not.

    A sentence may name a flag by its command alone, as "owl2 sweep --slurm".
    """
    try:
        flags = {
            flag for one in parsers(dispatcher.parser_of(words[0])) for flag in one._option_string_actions
        }
        if len(words) == 2 and words[1] in flags:
            return None
        args = parse(dispatcher.parser_of(words[0]), words[1:])
        config = getattr(args, "config", None) or ""
        if config.startswith("configs/"):  # others stand for a reader's own
            load_config(config, args.overrides)
        files = re.findall(r"configs/[\w/]+\.py", " ".join(words))
        missing = [file for file in files if not (ROOT / file).is_file()]
        return f"there is no {missing[0]}" if missing else None
    except Owl2Error as error:
        return str(error)


def test_every_command_of_the_pages_parses_and_its_config_loads(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = commands()
    refused = {f"{name}: owl2 {shlex.join(words)}": refusal(words) for name, words in found}
    assert len(found) > 90
    assert {words[0] for _, words in found} >= set(dispatcher.COMMANDS) - {"report"}
    assert {command: why for command, why in refused.items() if why} == {}


def test_a_command_that_does_not_exist_would_be_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert refusal(["sweep", "--slurm"]) is None
    assert "unknown option of owl2 chat '--no-such-flag'" in (refusal(["chat", "--no-such-flag"]) or "")
    assert "train" in (refusal(["tran"]) or "")
    wrong = refusal(["train", "--config=configs/tiny/stage1.py", "--workdir=x", "train.total_step=5"])
    assert "total_steps" in (wrong or "")


def test_every_block_of_code_and_every_record_can_be_read():
    code, records = blocks("python"), blocks("json")
    assert len(code) >= 7
    assert len(records) >= 5
    assert all(ast.parse(block.text).body for block in code)
    assert all(isinstance(json.loads(block.text), dict | list) for block in records)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_of_shell_is_shell_and_every_script_in_it_is_there(path):
    shell = [block for block in blocks("bash") if block.page == str(path.relative_to(ROOT))]
    text = "\n".join(block.text for block in shell)
    read = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert read.stderr == ""
    scripts = set(re.findall(r"(?:launch|notebooks)/[\w/]+\.\w+", text))
    assert {script for script in scripts if not (ROOT / script).is_file()} == set()


NAMES = re.compile(r"`([^`\n]+)`")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]+")
FIELD = re.compile(r"(?<![\w.])(?:model|data|train|heldout)\.[a-z_.]+[a-z_](?![\w/])")
OTHERS = ("python ", "pip ", "tensorboard ", "XLA_FLAGS")  # programs with flags of their own


def test_every_flag_and_field_that_a_sentence_names_is_there():
    flags = set().union(*(flags_of(dispatcher.parser_of(name)) for name in dispatcher.COMMANDS))
    scripts = (path.read_text(encoding="utf-8") for path in (ROOT / "launch").glob("*.py"))
    flags.update(flag for text in scripts for flag in re.findall(r'"(--[a-z][\w-]+)"', text))
    fields = {name.replace(".NAME", "") for name in fields_of(RunConfig)}
    named, wrong = 0, []
    for path in TEXTS:
        theirs = path.name == "pytorch.md"  # whose first column is that of others
        for words in NAMES.findall(BLOCK.sub("", path.read_text(encoding="utf-8"))):
            found = [] if theirs or words.startswith(OTHERS) else FLAG.findall(words)
            missing = [flag for flag in found if flag not in flags]
            dotted = [name for name in FIELD.findall(words) if not name.endswith((".json", ".py"))]
            missing += [name for name in dotted if name not in fields and "NAME" not in words]
            named += len(found) + len(dotted)
            wrong += [f"{path.name}: {name}" for name in missing]
    assert named > 150
    assert wrong == []


def test_the_fields_that_may_change_in_a_resumed_run_are_those_of_the_page():
    text = (ROOT / "docs/pages/explain/determinism.md").read_text(encoding="utf-8")
    rows = text[text.index("| may change |") :].splitlines()[2:4]
    named, room = set(), ""
    for name in NAMES.findall("".join(row.split(" | ")[0] for row in rows)):
        room = name.rpartition(".")[0] if "." in name else room
        named.add(name if "." in name or name in ("mesh", "heldout", "evaluators") else f"{room}.{name}")
    assert named == FREE_FIELDS


def test_every_extra_is_on_the_front_page():
    page = (ROOT / "docs/pages/index.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    extras = set(EXTRA.findall((ROOT / "setup.py").read_text(encoding="utf-8")))
    assert extras - set(NAMES.findall("".join(rows))) == set()
    assert {"s3", "serve", "fit"} <= extras


def test_every_file_of_the_repository_that_a_page_names_is_there():  # scripts/ are the release's
    named = {
        (str(path.relative_to(ROOT)), file)
        for path in TEXTS
        for file in re.findall(
            r"`(?!scripts/)((?:[\w-]+/)+[\w.-]+\.(?:py|sh|yaml|sbatch|ipynb))`",
            path.read_text(encoding="utf-8"),
        )
    }
    folders = (ROOT, ROOT / "owl2_jax", ROOT / "tests", ROOT / "tests" / "parity")
    assert len(named) > 30
    assert {one for one in named if not any((folder / one[1]).is_file() for folder in folders)} == set()
