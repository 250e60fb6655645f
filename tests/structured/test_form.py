"""Settings of structured output: what cannot be a form is refused by its name."""

from __future__ import annotations

import json

import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.structured.form import MAX_TEXT, choice, grammar, json_object, json_schema, regex


def test_forms_keep_what_was_given():
    assert json_object("response_format").kind == "json_object"
    assert json.loads(json_schema({"type": "integer"}, "s").text) == {"type": "integer"}
    assert json.loads(choice(["yes", "no", "yes"], "c").text) == ["yes", "no"]
    assert (regex("a+", "r").text, grammar("start: A", "g").kind) == ("a+", "grammar")


def test_a_schema_may_be_nested_only_so_deeply():
    schema: dict = {}
    for _ in range(5000):
        schema = {"items": schema}
    with pytest.raises(Owl2Error, match="s is nested too deeply"):
        json_schema(schema, "s")


@pytest.mark.parametrize(
    ("make", "value", "words"),
    [
        (json_schema, [], r"^s is \[\]; expected a JSON schema, which is an object"),
        (json_schema, "{}", "expected a JSON schema"),
        (json_schema, {"const": "a" * MAX_TEXT}, "at most 65536"),
        (choice, [], r"^s is \[\]; expected a list of 1 to 1000 texts"),
        (choice, "yes", "expected a list"),
        (choice, ["yes", ""], "not empty"),
        (choice, ["yes", 3], "expected a list"),
        (choice, [str(number) for number in range(1001)], "1 to 1000"),
        (regex, "", "^s is ''; expected a text that is not empty"),
        (regex, 3, "^s is 3; expected a text"),
        (regex, "\ud800", "UTF-8"),
        (grammar, " \n", "expected a text that is not empty"),
        (grammar, "a" * (MAX_TEXT + 1), "65537 characters; expected at most 65536"),
    ],
)
def test_what_is_no_form_is_refused_by_its_name(make, value, words):
    with pytest.raises(Owl2Error, match=words) as caught:
        make(value, "s")
    assert str(caught.value).startswith("s")
    assert len(str(caught.value)) < 300
