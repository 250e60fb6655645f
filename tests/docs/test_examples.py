"""The examples of the pages and READMEs: commands parse, configs load, code and records can be read."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

from owl2_jax.cli import main as dispatcher
from owl2_jax.config import load_config
from owl2_jax.core.errors import Owl2Error

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", ROOT / "launch" / "README.md", *sorted((ROOT / "docs" / "pages").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
IN_TEXT = re.compile(r"`(owl2 [a-z]+ [^`]*-[-][^`]*)`")
Command = tuple[str, list[str]]  # name of the file, words after "owl2"


def blocks(language: str) -> list[tuple[str, str]]:
    """(name of the file, text) of every block of a language."""
    return [
        (path.name, text)
        for path in TEXTS
        for name, text in BLOCK.findall(path.read_text(encoding="utf-8"))
        if name == language
    ]


def commands() -> list[Command]:
    """Every `owl2` command in blocks of shell, and those with flags inside a sentence."""
    lines = [(name, line) for name, text in blocks("bash") for line in text.replace("\\\n", " ").splitlines()]
    for path in TEXTS:
        sentences = BLOCK.sub("", path.read_text(encoding="utf-8"))
        lines += [(path.name, line) for line in IN_TEXT.findall(sentences)]
    split = [(name, shlex.split(_without_options(line), comments=True)) for name, line in lines]
    return [(name, words[words.index("owl2") + 1 :]) for name, words in split if "owl2" in words]


def _without_options(line: str) -> str:
    """A line without the brackets that mark what may be left out, "[--flag VALUE]"."""
    return re.sub(r"\[(--[^\]]*)\]", r"\1", line)


def refusal(words: list[str]) -> str | None:
    """Why a command is refused before it does anything; None if it is not."""
    try:
        args = dispatcher._parse(dispatcher.parser_of(words[0]), words[1:])
        config = getattr(args, "config", None) or ""
        if config.startswith("configs/"):  # others stand for a reader's own
            load_config(config, args.overrides)
        files = re.findall(r"configs/[\w/]+\.py", " ".join(words))
        missing = [file for file in files if not (ROOT / file).is_file()]
        return f"there is no {missing[0]}" if missing else None
    except SystemExit:
        return "its parser refuses it"
    except Owl2Error as error:
        return str(error)


def test_every_command_of_the_pages_parses_and_its_config_loads(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = commands()
    refused = {f"{name}: owl2 {shlex.join(words)}": refusal(words) for name, words in found}
    assert len(found) > 60
    assert {words[0] for _, words in found} >= set(dispatcher.COMMANDS) - {"report"}
    assert {command: why for command, why in refused.items() if why} == {}


def test_a_command_that_does_not_exist_would_be_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert refusal(["chat", "--no-such-flag"]) == "its parser refuses it"
    assert "train" in (refusal(["tran"]) or "")
    wrong = refusal(["train", "--config=configs/tiny/stage1.py", "--workdir=x", "train.total_step=5"])
    assert "total_steps" in (wrong or "")


def test_every_block_of_code_and_every_record_can_be_read():
    code, records = blocks("python"), blocks("json")
    assert len(code) >= 5
    assert len(records) >= 2
    assert all(ast.parse(text).body for _, text in code)
    assert all(isinstance(json.loads(text), dict) for _, text in records)
