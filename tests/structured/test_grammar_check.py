"""Grammars are tried in a process that may be slow or large without harm."""

from __future__ import annotations

import json

import pytest
from llguidance import LLMatcher

from owl2_jax.core.errors import Owl2Error
from owl2_jax.structured import grammar_check
from owl2_jax.structured.grammar_check import GrammarTooLarge, fault, to_lark


def test_what_compiles_has_no_fault():
    assert fault(LLMatcher.grammar_from_regex("a+"), {}) is None


def test_what_does_not_compile_is_told_as_the_library_does():
    assert "unclosed group" in fault(LLMatcher.grammar_from_regex("("), {})


def test_limits_are_those_given():
    many = LLMatcher.grammar_from_lark("start: " + " ".join(f'"a{number}"' for number in range(200)))
    assert fault(many, {"max_grammar_size": 100_000}) is None
    assert "100" in fault(many, {"max_grammar_size": 100})


def test_what_would_compile_for_ever_is_stopped(monkeypatch):
    """So many patterns that all have to hold take longer than anyone waits."""
    monkeypatch.setattr(grammar_check, "CPU_SECONDS", 1)
    patterns = [{"type": "string", "pattern": "a{1,50}.*" + "b" * number} for number in range(40)]
    schema = LLMatcher.grammar_from_json_schema(json.dumps({"allOf": patterns}))
    with pytest.raises(GrammarTooLarge, match="does not compile within 1 s and 1024 MiB; give a simpler one"):
        fault(schema, {})


def test_grammars_of_both_notations_become_larks():
    assert to_lark('start: "a"') == 'start: "a"'
    assert 'start: "a"' in to_lark('root ::= "a"')
    with pytest.raises(Owl2Error, match="Rule 'b' not found"):
        to_lark("root ::= b")


def test_a_chain_of_rules_that_takes_long_to_read_is_stopped(monkeypatch):
    monkeypatch.setattr(grammar_check, "CPU_SECONDS", 1)
    rules = "\n".join(f'r{number} ::= r{number + 1} "x"' for number in range(5000))
    with pytest.raises(GrammarTooLarge):
        to_lark(f'root ::= r0\n{rules}\nr5000 ::= "z"')


def test_what_would_take_all_memory_is_stopped(monkeypatch):
    monkeypatch.setattr(grammar_check, "MEMORY", 2**24)
    with pytest.raises(GrammarTooLarge, match="16 MiB"):
        fault(LLMatcher.grammar_from_regex("a+"), {})
