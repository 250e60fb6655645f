"""Which tokens may come next: whatever is chosen among them, the answer has its form."""

from __future__ import annotations

import base64
import json
import re
import threading

import numpy as np
import pytest

from owl2_jax.core.errors import Owl2Error
from owl2_jax.data.qwen_tokenizer import QwenTokenizer
from owl2_jax.structured import grammars as module
from owl2_jax.structured.form import Structured, choice, grammar, json_object, json_schema, regex
from owl2_jax.structured.grammars import Grammars, Matcher, grammars_of
from owl2_jax.testing import tiny

TOKENIZER = tiny.toy_tokenizer()
V = TOKENIZER.vocab_size + 20  # with spare ids
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "sex": {"enum": ["f", "m"]}},
    "required": ["name", "sex"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return grammars_of(TOKENIZER, V)


def allowed(matcher: Matcher) -> list[int]:
    return np.flatnonzero(np.unpackbits(matcher.allowed.view(np.uint8), bitorder="little")).tolist()


def write(matcher: Matcher, seed: int, most: int = 200) -> list[int] | None:
    """Ids of an answer chosen at random among what may come; None when it did not end."""
    ids: list[int] = []
    rng = np.random.default_rng(seed)
    while len(ids) < most:
        ids.append(int(rng.choice(allowed(matcher))))
        if ids[-1] == TOKENIZER.eos_id:
            return ids[:-1]
        Matcher.advance_all([matcher], [ids[-1]])
    return None


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        (choice(["yes", "no", "a red circle"], "c"), lambda text: text in ("yes", "no", "a red circle")),
        (choice(['say "é"\n', "ÿ 中"], "c"), lambda text: text in ('say "é"\n', "ÿ 中")),
        (regex(r"[a-c]{2,5}( red)?", "r"), lambda text: re.fullmatch(r"[a-c]{2,5}( red)?", text)),
        (regex(r"^\d{3}-\d\d$", "r"), lambda text: re.fullmatch(r"\d{3}-\d\d", text)),
        (regex(r"a/b\$", "r"), lambda text: text == "a/b$"),
        (json_schema(PERSON, "s"), lambda text: sorted(json.loads(text)) == ["name", "sex"]),
        (json_schema({"type": "array", "items": {"type": "boolean"}, "maxItems": 4}, "s"), json.loads),
        (grammar('root ::= "(" root ")" | "x"', "g"), lambda text: re.fullmatch(r"(\(*)x(\)*)", text)),
        (grammar('start: "a" B\nB: /c{1,3}d/', "g"), lambda text: re.fullmatch("ac{1,3}d", text)),
    ],
)
@pytest.mark.parametrize("continues", [False, True])
def test_answers_have_their_form(grammars, form, fits, continues):
    ended = 0
    for seed in range(8):
        ids = write(grammars.open(form, continues), seed)
        if ids is not None:
            ended += 1
            assert fits(TOKENIZER.decode(ids)), TOKENIZER.decode(ids)
            assert TOKENIZER.piece(ids[0]).startswith("▁") or continues
    assert ended


def test_what_may_end_where_is_told_without_going_there(grammars):
    matcher = grammars.open(regex("(a red)?( circle)?", "r"))
    before = matcher.allowed.copy()
    texts = ("", "a red", "a red circle", "a red circ", "a blue")
    assert [matcher.accepts(TOKENIZER.encode(text)) for text in texts] == [False, True, True, False, False]
    np.testing.assert_array_equal(matcher.allowed, before)
    assert not matcher.accepts([V + 5])


def test_any_object_of_json(grammars):
    matcher = grammars.open(json_object("response_format"))
    for text in ('{"a": [1, 2.5e3, null], "b": {"c": "d"}}', "{}", '{\n  "a": true\n}'):
        ids = TOKENIZER.encode(text)
        one = matcher.copy()
        for token in ids:
            assert token in allowed(one)
            Matcher.advance_all([one], [token])
        assert TOKENIZER.eos_id in allowed(one)
    for text in ("[1]", "a", '{"a": nul'):
        one = matcher.copy()
        legal = True
        for token in TOKENIZER.encode(text):
            legal = legal and token in allowed(one)
            if legal:
                Matcher.advance_all([one], [token])
        assert not legal or TOKENIZER.eos_id not in allowed(one)


def test_blanks_in_json_come_to_an_end(grammars):
    matcher = grammars.open(json_object("response_format"))
    Matcher.advance_all([matcher], [TOKENIZER.encode("{")[0]])
    if "{" not in TOKENIZER.piece(TOKENIZER.encode("{")[0]):
        Matcher.advance_all([matcher], [TOKENIZER.encode("{")[1]])
    newline = TOKENIZER.encode("a\n")[-1]
    for _ in range(40):
        assert newline in allowed(matcher)
        Matcher.advance_all([matcher], [newline])
    assert newline not in allowed(matcher)


def test_control_tokens_and_spare_ids_never_come(grammars):
    matcher = grammars.open(regex(r"(.|\n)*", "r"), True)
    found = set(allowed(matcher))
    assert found.isdisjoint({TOKENIZER.bos_id, TOKENIZER.unk_id, *range(TOKENIZER.vocab_size, V)})
    assert TOKENIZER.eos_id in found
    assert len(found) > 200


def test_byte_level_pieces_and_their_parts_of_characters():
    """Qwen's kind of tokenizer has no word boundaries; the space before an answer is a byte there."""
    pieces = [*(bytes([byte]) for byte in range(256)), b" y", b" yes", b"es", b"no", b"\xe4\xbd"]
    ranks = b"".join(base64.b64encode(piece) + b" %d\n" % number for number, piece in enumerate(pieces))
    tokenizer = QwenTokenizer(ranks)
    grammars = Grammars(tokenizer, tokenizer.vocab_size + 8)
    for continues in (False, True):
        for form, texts in (
            (choice(["yes", "no"], "c"), {"yes", "no"}),
            (regex("你+a", "r"), {"你a", "你你a"}),
        ):
            matcher, ids = grammars.open(form, continues), []
            while (tokens := allowed(matcher)) != [tokenizer.eos_id]:
                ids.append(tokens[0] if len(ids) < 9 else tokens[-1])
                Matcher.advance_all([matcher], ids[-1:])
            stream = tokenizer.stream(continues)
            assert stream.feed(ids) + stream.finish() in texts


def test_copies_go_their_own_ways(grammars):
    first = grammars.open(choice(["ab", "cd"], "c"), True)
    a, c = (TOKENIZER.encode(f"\n{letter}")[-1] for letter in "ac")
    second = first.copy()
    Matcher.advance_all([first, second], [a, c])
    assert set(allowed(first)).isdisjoint(allowed(second))


def test_a_form_that_leads_nowhere_ends_the_answer(grammars):
    matcher = grammars.open(grammar('start: "a" s\ns: s', "g"), True)
    while allowed(matcher):
        Matcher.advance_all([matcher], allowed(matcher)[:1])
    assert not matcher.allowed.any()
    assert matcher.error == "nothing that may follow leads to an end"


@pytest.mark.parametrize(
    "form",
    [
        json_schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "s"),
        grammar("start: start", "s"),
        grammar("start: s\ns: s s", "s"),
    ],
)
@pytest.mark.parametrize("continues", [False, True])
def test_a_form_without_a_beginning_is_refused_at_once(grammars, form, continues):
    """With the space of a word boundary in front, too."""
    with pytest.raises(Owl2Error, match=r"^s: nothing that may follow leads to an end$"):
        grammars.open(form, continues)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (
            regex("(", "structured_outputs.regex"),
            r'structured_outputs.regex: invalid regex "\(".*unclosed group$',
        ),
        (regex("a(?=b)", "r"), "r: .*look"),
        (grammar("foo", "g"), "g: Expected ::="),
        (grammar("root ::= foo", "g"), "g: Rule 'foo' not found"),
        (grammar("start: foo", "g"), 'g: unknown name: "foo"'),
        (json_schema({"type": "objct"}, "response_format.json_schema.schema"), "schema: Invalid type: objct"),
        (json_schema({"not": {}}, "s"), r's: Unimplemented keys: \["not"\]'),
        (json_schema({"$ref": "http://a.example/b.json"}, "s"), "s: Resource 'http://a.example/b.json'"),
    ],
)
def test_what_cannot_be_had_is_told_with_its_name(grammars, form, words):
    for _ in range(2):  # the verdict is kept
        with pytest.raises(Owl2Error, match=words) as caught:
            grammars.open(form)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_compiled_forms_are_kept_and_the_oldest_let_go(monkeypatch):
    monkeypatch.setattr(module, "_KEPT", 2)
    grammars, compiled = Grammars(TOKENIZER, V), []
    compile_ = grammars._compile
    monkeypatch.setattr(grammars, "_compile", lambda *form: compiled.append(form[0].text) or compile_(*form))
    for text in "abacbab":
        grammars.open(Structured("choice", json.dumps([text]), "c"))
    assert [json.loads(text)[0] for text in compiled] == ["a", "b", "c", "b", "a"]


def test_a_library_that_breaks_ends_one_answer(grammars):
    class Broken:
        def consume_token(self, token):
            raise SystemError("index out of bounds")

    sound, broken = grammars.open(choice(["ab", "cd"], "c"), True), grammars.open(choice(["ab"], "c"), True)
    broken._walker = Broken()
    token = allowed(broken)[0]
    Matcher.advance_all([broken, sound], [token, allowed(sound)[0]])
    assert (broken.failed, broken.error) == (True, "index out of bounds")
    assert not sound.failed


def test_a_panic_of_the_library_is_an_error_of_the_form(monkeypatch):
    class Panic(BaseException):
        """What pyo3 raises: no Exception."""

    class Panicked:
        def deep_copy(self):
            raise Panic("index out of bounds")

    def panic(*_, **__):
        raise Panic("index out of bounds")

    grammars = Grammars(TOKENIZER, V)
    monkeypatch.setattr(grammars._library, "LLMatcher", panic)
    with pytest.raises(Owl2Error, match=r"^c: llguidance failed: index out of bounds$"):
        grammars.open(choice(["ab"], "c"))
    with pytest.raises(Owl2Error, match="llguidance failed"):
        Matcher(Panicked(), 1, np.ones(1, np.uint32)).copy()


def test_a_known_form_is_had_without_compiling():
    grammars = Grammars(TOKENIZER, V)
    form, bad = regex("[ab]{4}", "r"), regex("(", "r")
    assert grammars.known(form) is None
    grammars.open(form)
    assert grammars.known(form).allowed.any()
    assert grammars.known(form, True) is None  # with the space of a word boundary it is another
    with pytest.raises(Owl2Error, match=r"^r: "):
        grammars.open(bad)
    with pytest.raises(Owl2Error, match=r"^r: "):
        grammars.known(bad)


def test_nobody_waits_for_a_mask_that_is_not_asked_for(grammars):
    matcher = grammars.open(regex("[ab]{4}", "r"), True)
    began, go_on = threading.Event(), threading.Event()
    look = matcher._look
    matcher._look = lambda: (began.set(), go_on.wait(30), look())
    Matcher.advance_all([matcher], allowed(matcher)[:1])
    assert began.wait(30)
    assert not matcher.ready
    go_on.set()
    assert allowed(matcher)
    assert matcher.ready
