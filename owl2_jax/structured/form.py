"""What an answer must look like: the setting of a request. `grammars` makes it come true."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from owl2_jax.core.errors import Owl2Error, shortened, unknown_name

Kind = Literal["json_object", "json_schema", "choice", "regex", "grammar"]

MAX_TEXT: Final = 65_536  # characters of a schema, an expression or a grammar
MAX_CHOICE: Final = 1000  # texts to choose from

FORMATS: Final = ("text", "json_object", "json_schema")
_SCHEMA_KEYS: Final = ("name", "description", "schema", "strict")
FORMS: Final = ("json", "json_object", "choice", "regex", "grammar")


@dataclass(frozen=True)
class Structured:
    """The form of an answer.

    Attributes:
      kind: "json_object" any object of JSON; "json_schema" JSON that fits a schema;
        "choice" one of several texts; "regex" a text that an expression matches as a
        whole; "grammar" a text of a context-free grammar, in Lark's or GBNF's notation.
      text: the schema as JSON, the texts as a list of JSON, the expression or the grammar.
      name: the setting it comes from, for messages.
    """

    kind: Kind
    text: str
    name: str


def from_fields(response_format: Any = None, structured_outputs: Any = None) -> Structured | None:
    """The form that a record asks for, in OpenAI's words or in vLLM's; None for any text.

    Args:
      response_format: `{"type": "json_object"}`, or
        `{"type": "json_schema", "json_schema": {"schema": {...}}}`, or of type "text".
      structured_outputs: an object with one of `FORMS`.

    Raises:
      Owl2Error: another key, a value of another kind, or both.
    """
    found = _from_format(response_format), _from_outputs(structured_outputs)
    if None not in found:
        raise Owl2Error("structured_outputs and response_format exclude each other; leave one of them out")
    return found[0] or found[1]


def _from_format(value: Any) -> Structured | None:
    name = "response_format"
    if value is None:
        return None
    inside = _inside(value, name, ("type", "json_schema"))
    kind = inside.get("type")
    if kind not in FORMATS:
        raise Owl2Error(f"{name}.type is {_shown(kind)}; expected {' or '.join(map(repr, FORMATS))}")
    if (kind == "json_schema") != ("json_schema" in inside):
        raise Owl2Error(f"{name}: 'json_schema' belongs to the type 'json_schema', and to no other")
    if kind != "json_schema":
        return json_object(name) if kind == "json_object" else None
    inside = _inside(inside["json_schema"], f"{name}.json_schema", _SCHEMA_KEYS)
    # "strict" changes nothing: a schema is kept to in either case.
    _bool(inside.get("strict", True), f"{name}.json_schema.strict")
    return json_schema(inside.get("schema"), f"{name}.json_schema.schema")


def _from_outputs(value: Any) -> Structured | None:
    name = "structured_outputs"
    if value is None:
        return None
    inside = _inside(value, name, FORMS)
    if not _bool(inside.get("json_object", False), f"{name}.json_object"):
        inside.pop("json_object", None)
    if len(inside) != 1:
        raise Owl2Error(f"{name} is {_shown(value)}; expected one of {', '.join(map(repr, FORMS))}")
    ((kind, form),) = inside.items()
    name = f"{name}.{kind}"
    if kind == "json_object":
        return json_object(name)
    return {"json": json_schema, "choice": choice, "regex": regex, "grammar": grammar}[kind](form, name)


def _inside(value: Any, name: str, known: Sequence[str]) -> dict[str, Any]:
    """The keys of an object that are not null."""
    if not isinstance(value, Mapping):
        raise Owl2Error(f"{name} is {_shown(value)}; expected an object with {' or '.join(map(repr, known))}")
    for key, inner in value.items():
        if inner is not None and key not in known:
            raise unknown_name(f"field of {name}", str(key), known)
    return {key: inner for key, inner in value.items() if inner is not None}


def _bool(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise Owl2Error(f"{name} is {_shown(value)}; expected true or false")
    return value


def json_object(name: str) -> Structured:
    """Any object of JSON."""
    return Structured("json_object", "", name)


def json_schema(schema: Any, name: str) -> Structured:
    """Raises `Owl2Error` unless `schema` is an object of JSON (or true), and not too long."""
    if schema is not True and not isinstance(schema, Mapping):
        raise Owl2Error(f"{name} is {_shown(schema)}; expected a JSON schema, which is an object")
    try:
        text = json.dumps(schema)
    except RecursionError:
        raise Owl2Error(f"{name} is nested too deeply; give a flatter schema") from None
    return Structured("json_schema", _within(text, name), name)


def choice(texts: Any, name: str) -> Structured:
    """Raises `Owl2Error` unless `texts` are different texts that are not empty, and not too many."""
    if (
        not isinstance(texts, Sequence)
        or isinstance(texts, str)
        or not 0 < len(texts) <= MAX_CHOICE
        or not all(isinstance(text, str) and text for text in texts)
    ):
        raise Owl2Error(
            f"{name} is {_shown(texts)}; expected a list of 1 to {MAX_CHOICE} texts that are not empty"
        )
    return Structured("choice", _within(json.dumps(list(dict.fromkeys(texts))), name), name)


def regex(expression: Any, name: str) -> Structured:
    """A text that matches an expression. Raises `Owl2Error` unless it is one, and not too long."""
    return Structured("regex", _within(_text(expression, name), name), name)


def grammar(text: Any, name: str) -> Structured:
    """A text of a grammar in Lark or GBNF. Raises `Owl2Error` unless it is a text, and not too long."""
    return Structured("grammar", _within(_text(text, name), name), name)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Owl2Error(f"{name} is {_shown(value)}; expected a text that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Owl2Error(f"{name}: expected text that has a UTF-8 form") from None
    return value


def _within(text: str, name: str) -> str:
    if len(text) > MAX_TEXT:
        raise Owl2Error(f"{name} has {len(text)} characters; expected at most {MAX_TEXT}")
    return text


def _shown(value: Any) -> str:
    return shortened(ascii(value) if isinstance(value, str) else repr(value))
