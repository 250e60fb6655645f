"""Arguments that a command does not take are told in one line, with what was probably meant."""

from __future__ import annotations

import shlex

import pytest

from owl2_jax.cli.main import main, parser_of
from owl2_jax.cli.parsing import parse

ASK = "generate --checkpoint=a --input=b --output=c"
REFUSED = {
    "generate --chekpoint a --input b --output c": "unknown option of owl2 generate '--chekpoint'; did y",
    f"{ASK} --sequence=5": "unknown option of owl2 generate '--sequence'; did you mean '--sequences'",
    f"{ASK} -q": "unknown option of owl2 generate '-q'",
    f"{ASK} --sequences 5 million": "does not take 'million'; did you mean --sequences '5 million'?",
    "evaluate --limit=5 million": "does not take 'million'; did you mean --limit='5 million'?",
    "evaluate --limit '5 million'": "--limit: expected a whole number, at least 1, found '5 million'",
    "evaluate path=5": "owl2 evaluate does not take 'path=5': it has options alone, no FIELD=VALUE",
    "evaluate outptu=5": "it has options alone, no FIELD=VALUE; did you mean --output=5?",
    "serve 8000 --checkpoint a": "owl2 serve does not take '8000'; its options have names",
    "serve chekpoint --checkpoint a": "'chekpoint'; its options have names; did you mean --checkpoint?",
    f"{ASK} --dtype=float16": "unknown value of --dtype 'float16'; did you mean 'bfloat16'",
    f"{ASK} --input": "--input needs a value, as --input FILE.jsonl; `owl2 generate --help` lists",
    f"{ASK} -n": "--choices needs a value, as --choices N",
    f"{ASK} --json-object=3": "--json-object takes no value, found '3'",
    f"{ASK} --regex a --choice b": "argument --choice: not allowed with argument --regex",
    "generate": "owl2 generate needs --checkpoint DIR, --input FILE.jsonl and --output FILE.jsonl; `owl2 gen",
    "train --workdir=a": "owl2 train needs --config FILE.py[:ARGUMENTS]; `owl2 train --help` lists",
    "sweep": "owl2 sweep needs FILE.py[:ARGUMENTS]; ",
    "convert": "owl2 convert needs ACTION; `owl2 convert --help` lists",
    "convert tojax --source a": "unknown action of owl2 convert 'tojax'; did you mean 'to-jax'?",
    "convert --source a to-jax": "the action of owl2 convert comes first, found '--source'; one of to-jax",
    "convert to-jax --source=a --outptu=b": "unknown option of owl2 convert to-jax '--outptu'; did you",
    "bench trai": "unknown action of owl2 bench 'trai'; did you mean 'train'?",
}  # fmt: skip


@pytest.mark.parametrize("command", REFUSED)
def test_what_is_wrong_is_told_in_one_line(command, capsys):
    assert main(shlex.split(command)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert REFUSED[command] in captured.err


def test_what_looks_like_an_option_and_is_none_is_taken():
    found = parse(
        parser_of("look"),
        shlex.split("--checkpoint=-a --image=b --question '-- what is -this' --max-new-tokens=3"),
    )
    assert (str(found.checkpoint), found.question) == ("-a", "-- what is -this")
    found = parse(parser_of("generate"), shlex.split(f"{ASK} -n3 --stop=--x --logit-bias=5=-1")[1:])
    assert (found.choices, found.stop) == (3, ["--x"])
    found = parse(parser_of("data"), shlex.split("check a.py --shown=3 x=-5 --output=o y=--z"))
    assert (found.action, found.overrides) == ("check", ["x=-5", "y=--z"])
